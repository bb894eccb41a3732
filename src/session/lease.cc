#include "session/lease.h"

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::session {
namespace {

constexpr Lease::Duration kLeastStop{40};
constexpr Lease::Duration kMost{86'400'000};

}  // namespace

void check_lease(const Lease& lease) {
  if (lease.stop >= kLeastStop && lease.stop <= lease.kill && lease.home <= kMost &&
      lease.kill + lease.stop <= lease.home) {
    return;
  }
  throw Error(
      Code::kUsage,
      fmt::format("a lease of {}, {} and {} ms: the guest is stopped after at least {} ms "
                  "of silence, killed then or later, and home acts after both together",
                  lease.stop.count(), lease.kill.count(), lease.home.count(), kLeastStop.count()));
}

}  // namespace telefork::session
