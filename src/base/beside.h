// Work that another thread does meanwhile.
//
//     Beside work([&] { ... });
//     ... something else ...
//     work.finish();              // throws what it has thrown
//
// Its thread gets no signals, and is gone when this object is. Where no thread can be had the work
// is done at once. Owned by one thread.
#pragma once

#include <csignal>
#include <exception>
#include <functional>
#include <system_error>
#include <thread>
#include <utility>

namespace telefork {

class Beside {
 public:
  explicit Beside(std::function<void()> work) : work_(std::move(work)) {
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread_ = std::thread([this] { do_work(); });
    } catch (const std::system_error&) {
      // Below.
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!thread_.joinable()) do_work();
  }
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;
  // What it throws is lost then: somebody else has thrown.
  ~Beside() { join(); }

  void finish() {
    join();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void do_work() {
    try {
      work_();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  void join() {
    if (thread_.joinable()) thread_.join();
  }

  std::function<void()> work_;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace telefork
