// A process is the same after capture and restore; one sentence a kind of state.
#include "migrate/round_trip.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace telefork::migrate {
namespace {

class RoundTrip : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

TEST_F(RoundTrip, GoesOnWhereItWas) {
  TripReport report = expect_survives([](Self& self) {
    int local = 4711;
    self.travel();
    VERIFY(local == 4711);
  });
  EXPECT_TRUE(report.warnings.empty());
  std::printf("capture %.2f ms restore %.2f ms\n", report.capture_ms, report.restore_ms);
}

TEST_F(RoundTrip, KeepsTheUmask) {
  expect_survives([](Self& self) {
    ::umask(0123);
    self.travel();
    VERIFY(::umask(0) == 0123);
  });
}

}  // namespace
}  // namespace telefork::migrate
