// Reading and writing the memory of another process.
//
// Needs ptrace access to it; the process need not be stopped. Everything here is complete or
// throws: Code::kGone where the process has ended, kFailed with EFAULT where an address is not
// mapped or not readable.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include <sys/types.h>
#include <sys/uio.h>

#include "base/remote_ptr.h"

namespace telefork::tracee {

void read_memory(pid_t pid, RemotePtr from, std::span<std::byte> to);
void write_memory(pid_t pid, RemotePtr to, std::span<const std::byte> from);
// Of private memory also what the process may not write to itself (FOLL_FORCE in the kernel's
// mm/gup.c), where this machine lets a tracer do that. False: not all of it was written.
bool try_write_as_tracer(pid_t pid, RemotePtr to, std::span<const std::byte> from);
// Fills all of `to`, which are addresses in the process and are changed, from `bytes`.
void write_scattered(pid_t pid, std::span<iovec> to, std::span<const std::byte> bytes);
// How much of [from, from + to.size()) could be read before the first page that could not.
std::size_t try_read_memory(pid_t pid, RemotePtr from, std::span<std::byte> to);

template <class T>
T read_object(pid_t pid, RemotePtr from) {
  static_assert(std::is_trivially_copyable_v<T>);
  T object;
  read_memory(pid, from, std::as_writable_bytes(std::span(&object, 1)));
  return object;
}

template <class T>
void write_object(pid_t pid, RemotePtr to, const T& object) {
  static_assert(std::is_trivially_copyable_v<T>);
  write_memory(pid, to, std::as_bytes(std::span(&object, 1)));
}

}  // namespace telefork::tracee
