#include "tracee/freezer.h"

#include <atomic>
#include <csignal>
#include <ctime>
#include <thread>

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/procfs_maps.h"
#include "kernel/procfs_task.h"

namespace telefork::tracee {
namespace {

class Child {
 public:
  template <class F>
  explicit Child(F&& work) {
    auto [read_end, write_end] = make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      work(write_end.get());
      ::_exit(0);
    }
    char byte;
    EXPECT_EQ(::read(read_end.get(), &byte, 1), 1);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

void tell(int fd) { EXPECT_EQ(::write(fd, "", 1), 1); }

TEST(Freezer, FindsThreadsThatBeginWhileItFreezes) {
  Child child([](int ready) {
    tell(ready);
    std::atomic<int> alive{0};
    for (;;) {
      while (alive >= 20) std::this_thread::yield();
      ++alive;
      std::thread([&alive] {
        std::this_thread::yield();
        --alive;
      }).detach();
    }
  });
  for (int round = 0; round < 50; ++round) {
    FrozenProcess frozen = FrozenProcess::freeze(child.pid(), 0);
    std::vector<pid_t> tids = kernel::list_threads(child.pid());
    EXPECT_EQ(frozen.threads().size(), tids.size());
    EXPECT_EQ(frozen.leader().tid(), child.pid());
    for (TracedThread& thread : frozen.threads()) EXPECT_TRUE(thread.stopped());
  }
}

TEST(Freezer, LeavesNoThreadInsideTheVdso) {
  Child child([](int ready) {
    tell(ready);
    timespec now;
    for (;;) ::clock_gettime(CLOCK_MONOTONIC, &now);
  });
  RemotePtr start, end;
  for (const kernel::Vma& vma : kernel::read_maps(child.pid())) {
    if (vma.is_vdso()) start = vma.start, end = vma.end;
  }
  for (int round = 0; round < 200; ++round) {
    FrozenProcess frozen = FrozenProcess::freeze(child.pid(), 0);
    RemotePtr at(instruction_pointer(frozen.leader().registers()));
    EXPECT_FALSE(at >= start && at < end);
  }
}

TEST(Freezer, SaysThatADebuggerIsInTheWay) {
  Child child([](int ready) {
    tell(ready);
    for (;;) ::pause();
  });
  // The other tracer: a process of its own, since threads of one would not be in each other's way.
  auto [read_end, write_end] = make_pipe();
  pid_t debugger = ::fork();
  if (debugger == 0) {
    TracedThread thread = TracedThread::seize(child.pid(), 0);
    tell(write_end.get());
    for (;;) ::pause();
  }
  char byte;
  ASSERT_EQ(::read(read_end.get(), &byte, 1), 1);
  try {
    FrozenProcess::freeze(child.pid(), 0);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    EXPECT_NE(error.text().find("end that debugger first"), std::string::npos) << error.text();
  }
  ::kill(debugger, SIGKILL);
  ::waitpid(debugger, nullptr, 0);
}

TEST(Freezer, KeepsAStoppedProcessStopped) {
  Child child([](int ready) {
    tell(ready);
    for (;;) ::pause();
  });
  ::kill(child.pid(), SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(child.pid(), &status, WUNTRACED), child.pid());
  {
    FrozenProcess frozen = FrozenProcess::freeze(child.pid(), 0);
    EXPECT_TRUE(frozen.leader().in_group_stop());
  }
  // A detached thread of a stopped group runs into the stop by itself.
  while (kernel::read_stat(child.pid()).state == 'R') std::this_thread::yield();
  EXPECT_EQ(kernel::read_stat(child.pid()).state, 'T');
}

TEST(Freezer, SaysThatTheProcessIsGone) {
  pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ::waitpid(pid, nullptr, 0);
  try {
    FrozenProcess::freeze(pid, 0);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kGone) << error.text();
  }
}

}  // namespace
}  // namespace telefork::tracee
