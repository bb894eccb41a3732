// The clocks that count from a machine's boot: CLOCK_MONOTONIC and CLOCK_BOOTTIME.
//
// A program takes for granted that they never go back, and that deadlines which it has computed
// from them stay right. Two machines' differ by days. So the guest gets a time namespace of its own
// [time_namespaces(7)], whose clocks are the machine's with an offset:
//
//   it comes from               its clocks
//   --------------------------  ---------------------------------------------------------------
//   this boot of this kernel    are those that it had: the same offsets, to the nanosecond
//   elsewhere                   go on from what they said when it was frozen; the time between
//                               does not count, as for the timers, which are kept as what is left
//
// Realtime is not needed for that, nor are two machines' clocks compared. Pure; the values of this
// machine are read by read_host_clocks().
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "image/record_source.h"
#include "kernel/procfs_state.h"

namespace telefork::restore {

// This process's, which the guest would have too.
struct HostClocks {
  std::string boot_id;
  std::int64_t monotonic = 0;  // nanoseconds
  std::int64_t boottime = 0;
  kernel::TimeNamespaceOffsets offsets;
};
HostClocks read_host_clocks();

struct ClockChange {
  // For the time namespace, counted from the machine's own clocks.
  kernel::TimeNamespaceOffsets offsets;
  // What the guest would see without: negative, the clock goes back.
  std::int64_t monotonic_jump = 0;
  std::int64_t boottime_jump = 0;
};

// Empty: the guest's clocks are this process's. Throws kCorrupt for what no clock can say.
std::optional<ClockChange> plan_clocks(image::schema::Clocks::Reader clocks,
                                       const HostClocks& host);

// For people: "its CLOCK_MONOTONIC jumps by -86400 s".
std::string describe_jump(const ClockChange& change);

}  // namespace telefork::restore
