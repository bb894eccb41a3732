#include "restore/clocks.h"

#include <ctime>

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_system.h"

namespace telefork::restore {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
// Half of KTIME_MAX, which the kernel allows a clock in a time namespace: sums of two do not
// overflow.
constexpr std::int64_t kMost = INT64_MAX / 2;

std::int64_t read_clock(clockid_t clock) {
  timespec time{};
  if (::clock_gettime(clock, &time) != 0) throw_errno("reading a clock");
  return std::int64_t{time.tv_sec} * kSecond + time.tv_nsec;
}

struct OneClock {
  std::int64_t guest;  // it said
  std::int64_t guest_offset;
  std::int64_t here;  // it says now, to this process
  std::int64_t own_offset;
};

std::int64_t wanted_offset(const OneClock& clock, bool same_boot) {
  if (clock.guest < 0 || clock.guest > kMost || clock.guest_offset < -kMost ||
      clock.guest_offset > kMost) {
    throw Error(Code::kCorrupt, "the clocks of the image are out of range");
  }
  return same_boot ? clock.guest_offset : clock.guest - (clock.here - clock.own_offset);
}

}  // namespace

HostClocks read_host_clocks() {
  HostClocks host;
  host.boot_id = kernel::read_boot_id();
  host.offsets = kernel::try_read_timens_offsets(::getpid());
  host.monotonic = read_clock(CLOCK_MONOTONIC);
  host.boottime = read_clock(CLOCK_BOOTTIME);
  return host;
}

std::optional<ClockChange> plan_clocks(image::schema::Clocks::Reader clocks,
                                       const HostClocks& host) {
  bool same_boot = clocks.getBootId().size() > 0 && std::string(clocks.getBootId()) == host.boot_id;
  std::int64_t own_monotonic = host.offsets.monotonic.total_nanoseconds();
  std::int64_t own_boottime = host.offsets.boottime.total_nanoseconds();
  std::int64_t monotonic = wanted_offset(
      {clocks.getMonotonic(), clocks.getMonotonicOffset(), host.monotonic, own_monotonic},
      same_boot);
  std::int64_t boottime = wanted_offset(
      {clocks.getBoottime(), clocks.getBoottimeOffset(), host.boottime, own_boottime}, same_boot);
  if (monotonic == own_monotonic && boottime == own_boottime) return {};
  ClockChange change;
  change.offsets.monotonic = kernel::TimeOffset::of_nanoseconds(monotonic);
  change.offsets.boottime = kernel::TimeOffset::of_nanoseconds(boottime);
  change.monotonic_jump = own_monotonic - monotonic;
  change.boottime_jump = own_boottime - boottime;
  return change;
}

std::string describe_jump(const ClockChange& change) {
  return fmt::format("its CLOCK_MONOTONIC jumps by {:+} s, its CLOCK_BOOTTIME by {:+} s",
                     change.monotonic_jump / kSecond, change.boottime_jump / kSecond);
}

}  // namespace telefork::restore
