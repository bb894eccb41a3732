// For the tests of this folder: a forked child that sets something up, says so, and waits to be
// looked at until its owner ends.
#pragma once

#include <csignal>
#include <utility>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace telefork::kernel {

class TestChild {
 public:
  // Returns when `set_up`, run in the child, has returned.
  template <class F>
  explicit TestChild(F&& set_up) {
    auto [ready, say_ready] = make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      set_up();
      if (::write(say_ready.get(), "r", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    say_ready.reset();
    char byte;
    ready_ = ::read(ready.get(), &byte, 1) == 1;
  }
  TestChild(const TestChild&) = delete;
  TestChild& operator=(const TestChild&) = delete;
  ~TestChild() {
    kill();
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  bool ready() const { return ready_; }
  // It is a zombie when this returns.
  void kill() {
    ::kill(pid_, SIGKILL);
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }

 private:
  pid_t pid_ = -1;
  bool ready_ = false;
};

}  // namespace telefork::kernel
