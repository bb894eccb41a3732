#include "tracee/stop_watch.h"

#include <cerrno>
#include <csignal>
#include <string>
#include <utility>

#include <sys/ptrace.h>
#include <sys/wait.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "tracee/wait_status.h"

namespace telefork::tracee {
namespace {

// ESRCH is a process that was killed in its stop: the next wait tells.
void resume(__ptrace_request how, pid_t pid, int signal) {
  if (ptrace(how, pid, nullptr, signal) != 0 && errno != ESRCH) {
    throw_errno("resuming process " + std::to_string(pid));
  }
}

}  // namespace

StopWatch StopWatch::seize(pid_t pid) {
  if (ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0) {
    throw_errno("watching process " + std::to_string(pid));
  }
  return StopWatch(pid);
}

// One that does not stop says later what it is.
StopWatch StopWatch::seize_again(pid_t pid, bool stopped, ChangeWait& changes,
                                 std::vector<Event>& events) {
  StopWatch watch = seize(pid);
  watch.stopped_ = stopped;
  try {
    std::optional<TracedThread> leader = watch.hold(changes, events);
    if (leader) watch.go_on(std::move(*leader));
  } catch (const Error& error) {
    if (error.code() != Code::kFailed) throw;
  }
  return watch;
}

void StopWatch::settle(TracedThread& leader) {
  leader.request_stop();
  leader.resume(PTRACE_CONT);
  leader.await_stop();
}

void StopWatch::begin(TracedThread& leader) {
  settle(leader);
  if (leader.in_group_stop()) leader.request_stop();
  leader.resume(PTRACE_CONT);
  leader.forget();
}

StopWatch::StopWatch(StopWatch&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), stopped_(other.stopped_) {}

StopWatch::~StopWatch() { detach(); }

std::vector<StopWatch::Event> StopWatch::on_sigchld() {
  std::vector<Event> events;
  while (pid_ != 0) {
    int status = 0;
    const pid_t waited = waitpid(pid_, &status, WNOHANG | __WALL);
    if (waited == 0) break;
    if (waited > 0) {
      answer(status, events);
    } else if (errno != EINTR) {
      throw_errno("waiting for process " + std::to_string(pid_));
    }
  }
  return events;
}

std::vector<StopWatch::Event> StopWatch::take(int status) {
  std::vector<Event> events;
  if (pid_ != 0) answer(status, events);
  return events;
}

void StopWatch::answer(int raw, std::vector<Event>& events) {
  const WaitStatus status(raw);
  switch (status.kind()) {
    case WaitStatus::Kind::kExited:
    case WaitStatus::Kind::kKilled:
      pid_ = 0;
      stopped_ = false;
      events.push_back({.kind = Event::Kind::kEnded, .wait_status = raw});
      return;
    case WaitStatus::Kind::kGroupStop:
      // Reported again while it listens when something else has woken it.
      if (!stopped_) events.push_back({.kind = Event::Kind::kStopped, .signal = WSTOPSIG(raw)});
      stopped_ = true;
      return resume(PTRACE_LISTEN, pid_, 0);
    case WaitStatus::Kind::kSignalDelivery:
      return resume(PTRACE_CONT, pid_, WSTOPSIG(raw));
    default:
      if (stopped_) events.push_back({.kind = Event::Kind::kContinued});
      stopped_ = false;
      return resume(PTRACE_CONT, pid_, 0);
  }
}

// What has stopped it by then is answered first. One that it comes to in between leaves the
// interrupt to be obeyed: it is asked for once more, so that nothing of it is left.
std::optional<TracedThread> StopWatch::hold(ChangeWait& changes, std::vector<Event>& events) {
  events = on_sigchld();
  if (pid_ == 0) return std::nullopt;
  const pid_t pid = pid_;
  ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr);
  for (;;) {
    int raw = 0;
    const pid_t waited = waitpid(pid, &raw, WNOHANG | __WALL);
    if (waited < 0 && errno != EINTR) throw_errno("waiting for process " + std::to_string(pid));
    if (waited == 0) {
      if (kernel::read_stat(pid).state == 'Z') return std::nullopt;
      if (!changes.await()) {
        throw Error(Code::kFailed, "process " + std::to_string(pid) + " does not stop");
      }
    }
    if (waited <= 0) continue;
    const WaitStatus status(raw);
    const bool group_stop = status.kind() == WaitStatus::Kind::kGroupStop;
    if (!group_stop && status.kind() != WaitStatus::Kind::kEventStop) {
      answer(raw, events);
      if (pid_ == 0) return std::nullopt;
      continue;
    }
    if (group_stop && !stopped_) {
      events.push_back({.kind = Event::Kind::kStopped, .signal = WSTOPSIG(raw)});
    }
    if (!group_stop && stopped_) events.push_back({.kind = Event::Kind::kContinued});
    stopped_ = group_stop;
    TracedThread leader = TracedThread::take_stopped(pid);
    release();
    leader.request_stop();
    leader.resume(PTRACE_CONT);
    leader.await_stop();
    return leader;
  }
}

void StopWatch::go_on(TracedThread leader) {
  take_back(leader.tid());
  try {
    leader.drop_options();
    begin(leader);
  } catch (const Error& error) {
    leader.forget();
    if (error.code() != Code::kGone) throw;
  }
}

// PTRACE_DETACH needs a stop; the interrupt brings one about, also in a process that listens.
void StopWatch::detach() {
  if (pid_ == 0) return;
  const pid_t pid = std::exchange(pid_, 0);
  ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr);
  int status = 0;
  while (waitpid(pid, &status, __WALL) < 0) {
    if (errno != EINTR) return;
  }
  if (!WIFSTOPPED(status)) return;
  const bool delivery = WaitStatus(status).kind() == WaitStatus::Kind::kSignalDelivery;
  ptrace(PTRACE_DETACH, pid, nullptr, delivery ? WSTOPSIG(status) : 0);
}

}  // namespace telefork::tracee
