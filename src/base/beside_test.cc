#include "base/beside.h"

#include <csignal>
#include <semaphore>
#include <stdexcept>

#include <gtest/gtest.h>

namespace telefork {
namespace {

TEST(Beside, WorksWhileItsOwnerDoesSomethingElse) {
  std::binary_semaphore there(0), here(0);
  bool done = false;
  Beside work([&] {
    there.release();
    here.acquire();
    done = true;
  });
  there.acquire();
  here.release();
  work.finish();
  EXPECT_TRUE(done);
}

TEST(Beside, ThrowsWhatItsWorkHasThrown) {
  Beside work([] { throw std::runtime_error("no"); });
  EXPECT_THROW(work.finish(), std::runtime_error);
}

TEST(Beside, EndsItsWorkBeforeItGoes) {
  bool done = false;
  {
    Beside work([&] { done = true; });
  }
  EXPECT_TRUE(done);
}

TEST(Beside, GetsNoSignals) {
  sigset_t blocked;
  Beside work([&] { ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked); });
  work.finish();
  EXPECT_EQ(::sigismember(&blocked, SIGTERM), 1);
}

}  // namespace
}  // namespace telefork
