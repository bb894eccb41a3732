// For tests: a process to be traced.
#pragma once

#include <csignal>
#include <functional>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace telefork::tracee {

// A child that does `work` until it can read from its pipe, and ends with what `work` returned.
class Victim {
 public:
  explicit Victim(const std::function<int(int stop_fd, int ready_fd)>& work) {
    auto [stop_read, stop_write] = make_pipe();
    auto [ready_read, ready_write] = make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      stop_write.reset();
      ::alarm(60);
      ::_exit(work(stop_read.get(), ready_write.get()));
    }
    ready_write.reset();
    char byte;
    EXPECT_EQ(::read(ready_read.get(), &byte, 1), 1);
    stop_ = std::move(stop_write);
  }
  ~Victim() {
    if (pid_ > 0) finish();
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;
  pid_t pid() const { return pid_; }
  // The wait status: 0 when it was well to the end.
  int finish() {
    // A victim that was killed reads nothing more.
    ::signal(SIGPIPE, SIG_IGN);
    [[maybe_unused]] ssize_t told = ::write(stop_.get(), "", 1);
    return reap();
  }
  // The same of one that ends by itself.
  int reap() {
    int status = -1;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_ = 0;
  UniqueFd stop_;
};

}  // namespace telefork::tracee
