// The machine code that stands in for a function of another kernel's vDSO; one file an
// architecture.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/remote_ptr.h"

namespace telefork::restore {

// Code to lie at `from` that goes on at `to`; changes no register that a called function may not.
std::vector<std::byte> encode_jump(RemotePtr from, RemotePtr to);
// A function that makes the system call behind a vDSO symbol; empty where the symbol has none.
std::vector<std::byte> encode_system_call_of(const std::string& symbol);

}  // namespace telefork::restore
