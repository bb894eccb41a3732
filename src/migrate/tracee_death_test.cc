// A process of several threads that is killed while it is captured or restored.
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "base/error.h"
#include "migrate/round_trip.h"
#include "tracee/testing_tracer_death.h"

namespace telefork::migrate {
namespace {

class TraceeDeath : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
  void TearDown() override {
    tracee::tracer_death() = {};
    // Nothing is left of any of them.
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG | __WALL), -1);
  }
};

void be_four_threads(Self& self) {
  std::vector<std::jthread> others;
  for (int i = 0; i < 3; ++i) {
    others.emplace_back([](const std::stop_token& stop) {
      while (!stop.stop_requested()) ::usleep(1000);
    });
  }
  self.travel();
}

TripOptions quick() {
  TripOptions options;
  options.wait_for_sleep = false;
  options.compare = false;
  options.compare_images = false;
  return options;
}

// Whether there was such a call. It ends in whatever error, and it ends; without the call in none.
template <class Work>
bool kill_at(long call, int kills, Work&& work) {
  tracee::tracer_death() = {.die_at = call, .kills_of_tracee = kills};
  try {
    work();
  } catch (const Error&) {
    if (tracee::tracer_death().calls <= call) throw;
  }
  return tracee::tracer_death().calls > call;
}

constexpr long kStride = 3;

TEST_P(TraceeDeath, AtWhateverCallEndsACapture) {
  long call = 0;
  for (bool reached = true; reached; call += kStride) {
    Traveller traveller(&be_four_threads);
    reached = kill_at(call, GetParam(), [&] { traveller.save(quick()); });
  }
  EXPECT_GT(call, 100);
}

TEST_P(TraceeDeath, AtWhateverCallEndsARestore) {
  long call = 0;
  for (bool reached = true; reached; call += kStride) {
    Traveller traveller(&be_four_threads);
    traveller.save(quick());
    reached = kill_at(call, GetParam(), [&] { traveller.load(quick()); });
  }
  EXPECT_GT(call, 100);
}

// The second takes it out of a stop on its way to its end.
INSTANTIATE_TEST_SUITE_P(ByOneOrTwoSignals, TraceeDeath, ::testing::Values(1, 2));

}  // namespace
}  // namespace telefork::migrate
