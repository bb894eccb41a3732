#include "tracee/guest_stubs.h"

#include <atomic>
#include <csignal>
#include <optional>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "tracee/freezer.h"
#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

using ::testing::ElementsAreArray;

constexpr std::size_t kThreads = 20;

// Threads that compute, or sleep in a call that may not be broken off: each checks itself.
int have_threads(int stop_fd, int ready_fd) {
  std::atomic<bool> end = false;
  std::atomic<int> wrong = 0;
  std::atomic<std::size_t> running = 0;
  std::vector<std::thread> threads;
  int pipe_fds[2];
  if (::pipe(pipe_fds) != 0) return 9;
  for (std::size_t i = 1; i < kThreads; ++i) {
    threads.emplace_back([&, sleeps = i % 2 == 0] {
      ++running;
      if (sleeps) {
        char byte = 0;
        if (::read(pipe_fds[0], &byte, 1) != 1 || byte != 7) ++wrong;
        return;
      }
      for (double sum = 0; !end; sum = 0) {
        for (int k = 0; k < 1000; ++k) sum += k * 0.5;
        if (sum != 249750) ++wrong;
      }
    });
  }
  while (running < kThreads - 1) ::sched_yield();
  if (::write(ready_fd, "", 1) != 1) return 9;
  char byte;
  while (::read(stop_fd, &byte, 1) != 1) {
  }
  end = true;
  const std::vector<char> wake(kThreads, 7);
  if (::write(pipe_fds[1], wake.data(), wake.size()) < 0) return 9;
  for (std::thread& thread : threads) thread.join();
  return wrong;
}

std::vector<TracedThread*> all_but_the_leader(FrozenProcess& frozen) {
  std::vector<TracedThread*> threads;
  for (TracedThread& thread : frozen.threads()) threads.push_back(&thread);
  threads.erase(threads.begin());
  return threads;
}

class GuestStubsTest : public ::testing::Test {
 protected:
  GuestStubsTest() : victim_(have_threads), frozen_(FrozenProcess::freeze(victim_.pid(), 0)) {
    tid_ = program_.call("asking for the thread's id", SYS_gettid, {});
    stub_.emplace(frozen_.leader(), victim_.pid(), Stub::Options{});
  }

  Victim victim_;
  FrozenProcess frozen_;
  SyscallProgram program_;
  Result tid_;
  std::optional<Stub> stub_;
};

TEST_F(GuestStubsTest, AnswersOfEachThread) {
  const std::vector<TracedThread*> threads = all_but_the_leader(frozen_);
  ASSERT_EQ(threads.size(), kThreads - 1);
  GuestStubs guests(threads, *stub_);
  std::vector<pid_t> expected, told;
  for (const ProgramRun& run : guests.run(program_))
    told.push_back(static_cast<pid_t>(run.result(tid_)));
  for (TracedThread* thread : threads) expected.push_back(thread->tid());
  EXPECT_THAT(told, ElementsAreArray(expected));
  guests.remove();
  stub_->remove();
  frozen_.thaw();
  EXPECT_EQ(victim_.finish(), 0);
}

// Whatever is asked, they go on as they were.
TEST_F(GuestStubsTest, AnswersOfEachThreadMoreThanOnce) {
  const std::vector<TracedThread*> threads = all_but_the_leader(frozen_);
  GuestStubs guests(threads, *stub_);
  SyscallProgram second;
  const Result group = second.call("asking for the process's id", SYS_getpid, {});
  for (int round = 0; round < 2; ++round) {
    std::vector<ProgramRun> runs = guests.run(program_);
    for (std::size_t i = 0; i < threads.size(); ++i) {
      EXPECT_EQ(runs[i].result(tid_), threads[i]->tid());
    }
    for (const ProgramRun& run : guests.run(second)) EXPECT_EQ(run.result(group), victim_.pid());
  }
  guests.remove();
  stub_->remove();
  frozen_.thaw();
  EXPECT_EQ(victim_.finish(), 0);
}

TEST_F(GuestStubsTest, TellsWhichStepFailedAndGivesAllBack) {
  program_.call("closing what is not open", SYS_close, {-1});
  {
    GuestStubs guests(all_but_the_leader(frozen_), *stub_);
    try {
      guests.run(program_);
      FAIL() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_THAT(error.text(), ::testing::HasSubstr("closing what is not open"));
    }
  }
  stub_->remove();
  frozen_.thaw();
  EXPECT_EQ(victim_.finish(), 0);
}

TEST_F(GuestStubsTest, SaysSoWhenTheProcessWasKilled) {
  GuestStubs guests(all_but_the_leader(frozen_), *stub_);
  ASSERT_EQ(::kill(victim_.pid(), SIGKILL), 0);
  try {
    guests.run(program_);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kGone);
  }
  stub_->abandon();
  frozen_.await_end();
}

}  // namespace
}  // namespace telefork::tracee
