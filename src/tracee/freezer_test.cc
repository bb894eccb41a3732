#include "tracee/freezer.h"

#include <atomic>
#include <csignal>
#include <ctime>
#include <new>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/mman.h>
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

// A thread waits for the exec or the end of its child of vfork(2), uninterruptibly; another one
// counts. The child ends when it can read from `release`.
void wait_for_vfork(int ready, int release, std::atomic<unsigned>& turns) {
  std::thread waiting([&] {
    if (::vfork() == 0) {
      char byte;
      static_cast<void>(!::write(ready, "", 1));
      static_cast<void>(!::read(release, &byte, 1));
      ::_exit(0);
    }
  });
  waiting.detach();
  for (;;) ++turns;
}

TEST(Freezer, LetsAllGoOnWhenAThreadDoesNotStop) {
  auto [release_read, release_write] = make_pipe();
  void* page = ::mmap(nullptr, sizeof(std::atomic<unsigned>), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  auto& turns = *new (page) std::atomic<unsigned>(0);
  Child child([&, &read = release_read](int ready) { wait_for_vfork(ready, read.get(), turns); });
  // What it could not stop is let go by its end.
  pid_t tracer = ::fork();
  if (tracer == 0) {
    try {
      FrozenProcess::freeze(child.pid(), 0, {std::chrono::seconds(2)});
    } catch (const Error& error) {
      ::_exit(error.text().find("does not stop: it waits in the kernel (state D, ") !=
                      std::string::npos
                  ? 42
                  : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  for (unsigned before = turns; turns == before;) std::this_thread::yield();
  tell(release_write.get());
  // The thread that waited goes on to its end.
  while (kernel::list_threads(child.pid()).size() > 1) std::this_thread::yield();
  FrozenProcess frozen = FrozenProcess::freeze(child.pid(), 0);
  EXPECT_EQ(frozen.threads().size(), 1U);
}

TEST(Freezer, IsInterruptedWhileAThreadDoesNotStop) {
  auto [release_read, release_write] = make_pipe();
  std::atomic<unsigned> turns{0};
  Child child([&, &read = release_read](int ready) { wait_for_vfork(ready, read.get(), turns); });
  auto [interrupt_read, interrupt_write] = make_pipe();
  tell(interrupt_write.get());
  pid_t tracer = ::fork();
  if (tracer == 0) {
    bool asked = false;
    Patience patience{.interrupt_fd = interrupt_read.get(), .interrupted = [&] {
                        asked = true;
                        return true;
                      }};
    try {
      FrozenProcess::freeze(child.pid(), 0, patience);
    } catch (const Error& error) {
      ::_exit(asked && error.text().find("interrupted") != std::string::npos ? 42 : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  tell(release_write.get());
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
