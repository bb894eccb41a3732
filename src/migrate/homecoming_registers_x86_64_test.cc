// There and back with registers that a thread computes with all the time.
#include <atomic>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "migrate/homecoming_trip.h"
#include "migrate/testing_tiles.h"

namespace telefork::migrate {
namespace {

// A thread that begins its work there, and ends it at home.
class Worker {
 public:
  explicit Worker(void (*work)(Worker&))
      : thread_([this, work] {
          while (!begun_) ::sched_yield();
          work(*this);
        }) {}

  void begin_there() {
    begun_ = true;
    while (!at_work_) ::sched_yield();
  }
  void end_at_home() {
    home_ = 1;
    thread_.join();
  }
  // Between loading registers and looking at them: nothing that could use any.
  void note_work() { at_work_ = true; }
  const volatile int& home() const { return home_; }

 private:
  std::atomic<bool> begun_{false};
  std::atomic<bool> at_work_{false};
  volatile int home_ = 0;
  std::thread thread_;
};

#define SPIN_UNTIL_HOME "1: pause\n cmpl $0, %[home]\n je 1b\n"

__attribute__((target("avx"))) void work_with_ymm(Worker& worker) {
  std::uint8_t before[32];
  std::uint8_t after[32] = {};
  std::memset(before, 0x5a, sizeof(before));
  worker.note_work();
  asm volatile("vmovdqu %[before], %%ymm7\n" SPIN_UNTIL_HOME "vmovdqu %%ymm7, %[after]\n vzeroupper"
               : [after] "=m"(after)
               : [before] "m"(before), [home] "m"(worker.home())
               : "xmm7", "cc", "memory");
  VERIFY(std::memcmp(before, after, sizeof(before)) == 0);
}

TEST(HomecomingRegisters, BringsAvxHomeOfAThreadThatComputes) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "needs: avx";
  expect_comes_home([](Away& away) {
    Worker worker(work_with_ymm);
    VERIFY(away.leave());
    worker.begin_there();
    away.come_home();
    worker.end_at_home();
  });
}

void work_with_a_tile(Worker& worker) {
  Tile before = make_tile(5);
  Tile after{};
  load_tile(before);
  worker.note_work();
  asm volatile(SPIN_UNTIL_HOME : : [home] "m"(worker.home()) : "cc", "memory");
  store_tile(after);
  VERIFY(before == after);
}

TEST(HomecomingRegisters, BringsTilesHomeOfAThreadThatHadNone) {
  if (!has_tiles()) GTEST_SKIP() << "needs: amx_tile";
  expect_comes_home([](Away& away) {
    VERIFY(ask_for_tiles());
    Worker worker(work_with_a_tile);
    VERIFY(away.leave());
    worker.begin_there();
    away.come_home();
    worker.end_at_home();
  });
}

TEST(HomecomingRegisters, BringsThePermissionToUseTilesHome) {
  if (!has_tiles()) GTEST_SKIP() << "needs: amx_tile";
  expect_comes_home([](Away& away) {
    Worker worker(work_with_a_tile);
    VERIFY(away.leave());
    VERIFY(ask_for_tiles());
    worker.begin_there();
    away.come_home();
    worker.end_at_home();
    VERIFY(may_use_tiles());
  });
}

}  // namespace
}  // namespace telefork::migrate
