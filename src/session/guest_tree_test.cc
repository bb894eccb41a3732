#include "session/guest_tree.h"

#include <array>
#include <csignal>

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "kernel/procfs_task.h"

namespace telefork::session {
namespace {

constexpr std::array<const char*, 3> kNames = {"telepad", "telefork-keeper", "a guest"};

// Each the parent of the next, which it never reaps.
class GuestTree : public ::testing::Test {
 protected:
  GuestTree() {
    auto [from, to] = make_pipe();
    ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (::fork() == 0) descend(to.get());
    for (pid_t& pid : pids_) {
      EXPECT_EQ(::read(from.get(), &pid, sizeof(pid)), static_cast<ssize_t>(sizeof(pid)));
      pidfds_[static_cast<std::size_t>(&pid - pids_.data())].reset(
          static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    }
  }
  ~GuestTree() override { kill_descendants(); }

  [[noreturn]] static void descend(int to) {
    std::size_t number = 0;
    do {
      ::prctl(PR_SET_NAME, kNames.at(number));
      const pid_t own = ::getpid();
      if (::write(to, &own, sizeof(own)) < 0) ::_exit(1);
    } while (++number < kNames.size() && ::fork() == 0);
    for (;;) ::pause();
  }
  void await_end_of(std::size_t number) {
    pollfd end{pidfds_.at(number).get(), POLLIN, 0};
    EXPECT_EQ(::poll(&end, 1, -1), 1);
  }
  bool lives(std::size_t number) const {
    return kernel::is_alive(kernel::identify(pids_.at(number)));
  }

  std::array<pid_t, 3> pids_{};
  std::array<UniqueFd, 3> pidfds_;
};

TEST_F(GuestTree, WhoHasAGuestsMemoryIsKilledWhenTheGuestIsDead) {
  kill_descendants_once();
  await_end_of(2);
  EXPECT_TRUE(lives(0));
  EXPECT_TRUE(lives(1));
  kill_descendants_once();
  await_end_of(1);
  EXPECT_TRUE(lives(0));
  kill_descendants_once();
  await_end_of(0);
}

TEST_F(GuestTree, AllAreKilledAndReaped) {
  kill_descendants();
  EXPECT_TRUE(list_descendants().empty());
}

}  // namespace
}  // namespace telefork::session
