#include "session/watch_loan.h"

#include <csignal>
#include <functional>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/testing_error.h"
#include "kernel/procfs_task.h"
#include "net/stream.h"
#include "net/testing_folder.h"
#include "session/registry.h"
#include "tracee/freezer.h"

namespace telefork::session {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kStopped = stopped_by(SIGSTOP);
constexpr pid_t kSeesItself = 7;  // the one that is watched

pid_t fork_waiting() {
  const pid_t pid = ::fork();
  if (pid == 0) {
    for (;;) ::pause();
  }
  return pid;
}

// This process is the keeper; a child of it is watched, another one is the borrower.
class WatchLoanTest : public net::InTestFolder {
 protected:
  WatchLoanTest()
      : first_(fork_waiting()),
        watched_(fork_waiting()),
        members_(first_, first_, {}),
        lender_(folder(), members_, [this](const auto& changes) {
          for (const GuestMembers::Change& change : changes) {
            EXPECT_EQ(change.guest_pid, kSeesItself);
            changes_.push_back(change.status);
          }
        }) {
    members_.add({kSeesItself, tracee::StopWatch::seize(watched_)});
  }
  ~WatchLoanTest() override {
    for (const pid_t pid : {first_, watched_, borrower_}) {
      if (pid == 0) continue;
      ::kill(pid, SIGKILL);
      // Of a traced one its stops come first.
      for (int status = 0; ::waitpid(pid, &status, __WALL) > 0 && WIFSTOPPED(status);) {
      }
    }
  }

  // Runs `act` in a process of its own, and goes on here when that has said "lent".
  void borrow(const std::function<void(WatchLoan&)>& act) {
    auto [said, say] = make_pipe();
    auto [told, tell] = make_pipe();
    borrower_ = ::fork();
    if (borrower_ == 0) {
      tell.reset();
      char word = 'x';
      try {
        WatchLoan loan({::getppid(), call_path(folder(), ::getppid())}, watched_);
        if (loan.members().size() == 1) [[maybe_unused]]
          auto count = ::write(say.get(), "l", 1);
        [[maybe_unused]] auto count = ::read(told.get(), &word, 1);
        act(loan);
      } catch (const Error&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    say.reset();
    go_ = std::move(tell);
    char word = 0;
    look_until([&said = said] {
      pollfd ready{said.get(), POLLIN, 0};
      return net::poll_until({&ready, 1}, net::Deadline::now()) > 0;
    });
    ASSERT_EQ(::read(said.get(), &word, 1), 1);
  }
  void go() { go_.reset(); }
  void look_until(const std::function<bool()>& done) {
    while (!done()) {
      std::vector<pollfd> entries;
      lender_.add_interest(entries);
      net::poll_until(entries, net::Deadline::in(std::chrono::milliseconds(10)));
      lender_.look();
    }
  }
  void look_until_returned() {
    look_until([this] { return !members_.lends_any(); });
  }
  char state() const { return kernel::read_stat(watched_).state; }

  pid_t first_, watched_;
  pid_t borrower_ = 0;
  UniqueFd go_;
  std::vector<int> changes_;
  GuestMembers members_;
  WatchLender lender_;
};

TEST_F(WatchLoanTest, WhatTheBorrowerSeesIsToldOnce) {
  borrow([this](WatchLoan& loan) {
    loan.tell(watched_, kStopped);
    loan.tell(watched_, kStopped);
    loan.tell(watched_ + 1, kStopped);
    loan.tell_stopped(watched_, false);
    loan.tell_stopped(watched_, false);
  });
  EXPECT_TRUE(members_.has(watched_));
  EXPECT_FALSE(members_.is_stopped(watched_));
  EXPECT_EQ(members_.find(kSeesItself), watched_);
  EXPECT_EQ(kernel::read_status(watched_).tracer_pid, 0);
  go();
  look_until_returned();
  EXPECT_THAT(changes_, ElementsAre(kStopped, kContinued));
  EXPECT_EQ(kernel::read_status(watched_).tracer_pid, ::getpid());
}

TEST_F(WatchLoanTest, AnEndThatTheBorrowerHasSeenIsNoLoan) {
  borrow([this](WatchLoan& loan) { loan.tell(watched_, 3 << 8); });
  go();
  look_until_returned();
  EXPECT_THAT(changes_, ElementsAre(3 << 8));
  EXPECT_FALSE(members_.has(watched_));
  EXPECT_EQ(members_.find(kSeesItself), 0);
}

TEST_F(WatchLoanTest, AStopThatNobodyHasSeenIsToldInTheEnd) {
  borrow([](WatchLoan&) {});
  ::kill(watched_, SIGSTOP);
  look_until([this] { return state() == 'T'; });
  EXPECT_THAT(changes_, IsEmpty());
  go();
  look_until_returned();
  EXPECT_THAT(changes_, ElementsAre(kStopped));
  EXPECT_TRUE(members_.is_stopped(watched_));
}

TEST_F(WatchLoanTest, AnEndThatNobodyHasSeenIsToldInTheEnd) {
  borrow([](WatchLoan&) {});
  ::kill(watched_, SIGKILL);
  look_until([this] { return state() == 'Z'; });
  go();
  look_until_returned();
  EXPECT_THAT(changes_, ElementsAre(SIGKILL));
}

TEST_F(WatchLoanTest, WhoIsKilledHasGivenBackWhatHeTraced) {
  borrow([this](WatchLoan& loan) {
    const auto frozen = tracee::FrozenProcess::freeze(watched_, 0);
    loan.tell(watched_, kStopped);
    for (;;) ::pause();
  });
  go();
  look_until([this] { return !changes_.empty(); });
  ::kill(borrower_, SIGKILL);
  look_until_returned();
  EXPECT_THAT(changes_, ElementsAre(kStopped, kContinued));
  EXPECT_EQ(kernel::read_status(watched_).tracer_pid, ::getpid());
}

TEST_F(WatchLoanTest, WhoAsksForOneThatIsLentGetsNobody) {
  borrow([this](WatchLoan& loan) {
    const WatchLoan second({::getppid(), call_path(folder(), ::getppid())}, watched_);
    if (second.members().empty()) loan.tell(watched_, kStopped);
  });
  go();
  look_until_returned();
  EXPECT_THAT(changes_, ElementsAre(kStopped, kContinued));
}

TEST(WatchLoan, SaysThatNobodyIsThere) {
  const Error error = error_of([] { const WatchLoan loan({1, "/nonexistent/call"}, 1); });
  EXPECT_EQ(error.code(), Code::kUnreachable);
}

}  // namespace
}  // namespace telefork::session
