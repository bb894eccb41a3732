#include "session/lease.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

TEST(Lease, IsOverAtHomeAfterItIsOverThereThoughOnlyOneDirectionIsBroken) {
  for (const Lease& lease : {Lease{}, Lease{40ms, 40ms, 80ms}, Lease{500ms, 2s, 4s}}) {
    EXPECT_NO_THROW(check_lease(lease));
    // Home speaks for the last time just before hush(), and the keeper looks once a heartbeat.
    EXPECT_LT(lease.hush() + lease.kill + lease.heartbeat(), lease.home);
    // In good times nobody is ever taken for silent.
    EXPECT_LE(2 * lease.heartbeat(), lease.hush());
    EXPECT_LE(4 * lease.heartbeat(), lease.stop);
  }
}

TEST(Lease, IsRefusedWhereTwoMightRun) {
  EXPECT_THROW(check_lease(Lease{39ms, 1s, 9s}), Error);
  EXPECT_THROW(check_lease(Lease{2s, 1s, 9s}), Error);
  EXPECT_THROW(check_lease(Lease{1s, 8500ms, 9s}), Error);
  EXPECT_THROW(check_lease(Lease{10s, 60s, 60s}), Error);
}

}  // namespace
}  // namespace telefork::session
