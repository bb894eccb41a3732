// The vDSO of another kernel.
//
// Programs call the vDSO through pointers that their C library took from its symbol table at start.
// Where the destination's vDSO is another build its functions lie elsewhere. Then the old code is
// put back where it lay, with a jump to the new function at the start of every old one; a function
// that the new vDSO lacks becomes the plain system call, and is refused where it has none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/remote_ptr.h"

namespace telefork::restore {

// Function symbols of a vDSO image, by name: offsets from its start. Throws kCorrupt for what is no
// vDSO.
std::map<std::string, std::uint64_t> vdso_symbols(std::span<const std::byte> image);

// `old_image`, to lie at `old_start`, made to jump into the vDSO at `new_start`.
std::vector<std::byte> redirect_vdso(std::span<const std::byte> old_image, RemotePtr old_start,
                                     std::span<const std::byte> new_image, RemotePtr new_start);

}  // namespace telefork::restore
