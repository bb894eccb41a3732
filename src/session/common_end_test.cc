#include "session/common_end.h"

#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracee/parked_process.h"

namespace telefork::session {
namespace {

constexpr int kWentOn = 5;

// Waits for a byte of the pipe.
pid_t start_victim(const std::pair<UniqueFd, UniqueFd>& pipe) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  char byte;
  while (::read(pipe.first.get(), &byte, 1) != 1) {
  }
  ::_exit(kWentOn);
}

// Parks all of them, and dies.
[[noreturn]] void hold_and_die(const std::vector<pid_t>& victims, CommonEnd& end,
                               std::chrono::milliseconds lease,
                               const std::function<void(CommonEnd&)>& decide) {
  std::vector<std::unique_ptr<tracee::ParkedProcess>> parked;
  for (const pid_t pid : victims) {
    tracee::ParkedProcess::Options options;
    options.caller = pid;
    parked.push_back(
        std::make_unique<tracee::ParkedProcess>(tracee::FrozenProcess::freeze(pid, 0), options));
    parked.back()->hold_for(lease);
    // They have it by birth.
    parked.back()->set_undo(CommonEnd::undo(end.fd(), pid, parked.back()->held_process().lease));
  }
  decide(end);
  ::raise(SIGKILL);
  ::_exit(1);
}

// How each of two has ended when the tracer that had parked them has died.
std::vector<int> ends(const std::function<void(CommonEnd&)>& decide,
                      std::chrono::milliseconds lease = std::chrono::milliseconds(1)) {
  auto pipe = make_pipe();
  CommonEnd end;
  std::vector<pid_t> victims;
  for (int i = 0; i < 2; ++i) victims.push_back(start_victim(pipe));
  const pid_t tracer = ::fork();
  if (tracer == 0) hold_and_die(victims, end, lease, decide);
  int status = 0;
  EXPECT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(::write(pipe.second.get(), "xx", 2), 2);
  std::vector<int> statuses;
  for (const pid_t pid : victims) {
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    statuses.push_back(status);
  }
  return statuses;
}

TEST(CommonEnd, LetsAllGoOnUntilItIsDecided) {
  EXPECT_EQ(ends([](CommonEnd&) {}), (std::vector<int>{kWentOn << 8, kWentOn << 8}));
}

TEST(CommonEnd, EndsAllOnceItIsDecided) {
  EXPECT_EQ(ends([](CommonEnd& end) { end.decide(); }), (std::vector<int>{SIGKILL, SIGKILL}));
}

TEST(CommonEnd, HasTheLeaseOfAllOnceItIsSet) {
  auto end_lease = [](CommonEnd& end) {
    end.set_lease(std::chrono::hours(2));
    end.set_lease(std::chrono::milliseconds(1));
  };
  EXPECT_EQ(ends(end_lease, std::chrono::hours(1)), (std::vector<int>{kWentOn << 8, kWentOn << 8}));
}

}  // namespace
}  // namespace telefork::session
