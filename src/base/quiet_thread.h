// A thread that gets no signals: those of the process are for who waits for them.
#pragma once

#include <csignal>
#include <thread>
#include <utility>

namespace telefork {

template <class F>
std::thread start_quiet_thread(F&& f) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(std::forward<F>(f));
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

}  // namespace telefork
