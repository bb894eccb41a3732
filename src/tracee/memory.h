// Reading and writing the memory of another process.
//
// Needs ptrace access to it; the process need not be stopped. Everything here is complete or
// throws: Code::kGone where the process has ended, kFailed with EFAULT where an address is not
// mapped or not readable.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

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

// Bytes for, or of, many places of one process: one system call for all of them.
class ScatteredMemory {
 public:
  // `size`: about how many there will be in all.
  explicit ScatteredMemory(std::size_t size = 0) { bytes_.reserve(size); }
  void add(RemotePtr address, std::span<const std::byte> bytes);
  template <class T>
  void add_object(RemotePtr address, const T& object) {
    static_assert(std::is_trivially_copyable_v<T>);
    add(address, std::as_bytes(std::span(&object, 1)));
  }
  // So many bytes, to be read.
  void add(RemotePtr address, std::size_t size);
  void write(pid_t pid) const;
  void read(pid_t pid);
  // Of place `index`, in the order in which they were added.
  std::span<const std::byte> bytes(std::size_t index) const;

 private:
  struct Place {
    RemotePtr address;
    std::size_t offset;
    std::size_t size;
  };
  std::vector<iovec> remote_parts() const;

  std::vector<Place> places_;
  std::vector<std::byte> bytes_;
};

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
