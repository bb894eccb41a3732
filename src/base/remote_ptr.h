// An address in another process. It is a type of its own, so that it cannot be dereferenced here
// by mistake; src/tracee/memory.h reads and writes through it.
#pragma once

#include <compare>
#include <cstdint>

namespace telefork {

class RemotePtr {
 public:
  constexpr RemotePtr() = default;
  constexpr explicit RemotePtr(std::uint64_t address) : address_(address) {}

  constexpr std::uint64_t value() const { return address_; }
  constexpr explicit operator bool() const { return address_ != 0; }
  // In bytes, whatever lies there.
  constexpr RemotePtr operator+(std::uint64_t bytes) const { return RemotePtr(address_ + bytes); }
  constexpr RemotePtr operator-(std::uint64_t bytes) const { return RemotePtr(address_ - bytes); }
  constexpr std::uint64_t operator-(RemotePtr other) const { return address_ - other.address_; }
  constexpr auto operator<=>(const RemotePtr&) const = default;

 private:
  std::uint64_t address_ = 0;
};

// A process is its pid and its start time (clock ticks since boot, field 22 of /proc/PID/stat):
// the pid alone may belong to another one by the time that it is used.
struct ProcessId {
  int pid = 0;
  std::uint64_t start_time = 0;
  auto operator<=>(const ProcessId&) const = default;
};

constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kHugePageSize = 2 * 1024 * 1024;

constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) {
  return value / unit * unit;
}
constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return round_down(value + unit - 1, unit);
}

}  // namespace telefork
