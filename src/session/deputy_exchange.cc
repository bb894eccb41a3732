#include "session/deputy_exchange.h"

#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_task.h"
#include "session/description.h"
#include "session/hollow.h"
#include "tracee/fd_passing.h"
#include "tracee/stop_watch.h"
#include "tracee/stub.h"

namespace telefork::session {
namespace {

using tracee::Data;
using tracee::SyscallProgram;
using tracee::TracedThread;

// Whoever watches it is to see a SIGSTOP that is in force.
void let_go(TracedThread& thread) {
  if (thread.in_group_stop()) thread.request_stop();
  thread.resume(PTRACE_CONT);
  thread.forget();
}

constexpr int kLimits[] = {RLIMIT_AS,     RLIMIT_DATA,  RLIMIT_STACK, RLIMIT_MEMLOCK,
                           RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_FSIZE, RLIMIT_SIGPENDING};

// Those of the program are in force until its own are restored, and may be too small for what makes
// it. By itself: from outside it takes CAP_SYS_RESOURCE where any of its user ids is not ours.
void raise_limits(tracee::Stub& stub) {
  SyscallProgram ask;
  std::vector<Data> answers;
  for (int resource : kLimits) {
    answers.push_back(ask.buffer(sizeof(rlimit)));
    ask.call("reading a limit", SYS_prlimit64, {0, resource, 0, answers.back()});
  }
  const tracee::ProgramRun run = stub.run(ask);
  SyscallProgram raise;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    auto limit = run.object<rlimit>(answers[i]);
    limit.rlim_cur = limit.rlim_max;
    raise.call("raising a limit", SYS_prlimit64, {0, kLimits[i], raise.object(limit), 0});
  }
  stub.run(raise);
}

// What has become of its children was told the program where that ran, and is not to be told it
// once more.
void forget_children(tracee::Stub& stub) {
  SyscallProgram forget;
  for (const pid_t child : kernel::list_children(stub.pid())) {
    forget.call_any("hearing of a child", SYS_waitid,
                    {P_PID, child, 0, WEXITED | WSTOPPED | WCONTINUED | WNOHANG | __WALL, 0});
  }
  const std::uint64_t signals = std::uint64_t{1} << (SIGCHLD - 1);
  forget.call_any("forgetting a child's signal", SYS_rt_sigtimedwait,
                  {forget.object(signals), 0, forget.object(timespec{}), sizeof(signals)});
  stub.run(forget);
}

// Or about to be: it was interrupted before it came to that.
void throw_if_stopped(const TracedThread& thread, pid_t pid) {
  const kernel::Status status = kernel::read_status(pid);
  const std::uint64_t pending = status.shared_pending | status.thread_pending;
  if (!thread.in_group_stop() && (pending >> (SIGSTOP - 1) & 1) == 0) return;
  throw Error(Code::kFailed, fmt::format("process {} was stopped on its way home", pid));
}

}  // namespace

// Where it waits for what comes next, so that it has passed on every signal that it took.
TracedThread DeputyExchange::hold() {
  TracedThread thread = TracedThread::take_over(supervisor_->release());
  thread.interrupt();
  // As since its program went away.
  if (kernel::read_status(pid_).seccomp != 0) thread.suspend_seccomp(PTRACE_O_EXITKILL);
  if (!thread.in_group_stop()) thread.run_into_system_call(SYS_poll);
  supervisor_->on_readable();
  return thread;
}

UniqueFd DeputyExchange::make_socket(tracee::Stub& stub, int type, int& number) const {
  SyscallProgram make;
  const Data pair = make.buffer(2 * sizeof(int));
  make.call("making a socket", SYS_socketpair, {AF_UNIX, type | SOCK_CLOEXEC, 0, pair});
  int numbers[2];
  const tracee::ProgramRun made = stub.run(make);
  std::memcpy(numbers, made.data(pair).data(), sizeof(numbers));
  number = numbers[0];
  UniqueFd ours = kernel::take_fd(pid_, numbers[1]);
  SyscallProgram close;
  close.call("closing our end of a socket", SYS_close, {numbers[1]});
  stub.run(close);
  if (!ours) throw Error(Code::kFailed, "a socket that was just made is not there");
  return ours;
}

// All that the deputy has open but for stderr is close-on-exec.
restore::Blank DeputyExchange::exec_blank(TracedThread& thread) {
  tracee::Stub::Options options;
  options.awaited_signals = 0;
  tracee::Stub stub(thread, pid_, options);
  raise_limits(stub);
  forget_children(stub);
  int number = -1;
  UniqueFd ours = make_socket(stub, SOCK_SEQPACKET, number);
  UniqueFd program_file = open_file(programs_.blank, O_PATH);
  const int given[] = {program_file.get()};
  const int there = tracee::give_fds(stub, ours.get(), number, given).front();
  SyscallProgram become;
  // In this order: where it has no stderr, its number may be the socket's.
  become.call_any("letting go of stderr", SYS_fcntl, {STDERR_FILENO, F_SETFD, FD_CLOEXEC});
  become.call("keeping a socket", SYS_fcntl, {number, F_SETFD, 0});
  const Data arguments = become.buffer(2 * sizeof(std::uint64_t));
  become.point(arguments, become.text("telefork-blank"));
  const Data environment = become.buffer(sizeof(std::uint64_t));
  become.call("becoming the blank process", SYS_execveat,
              {there, become.text(""), arguments, environment, AT_EMPTY_PATH});
  std::optional<tracee::ProgramRun> failed;
  // By SIGKILL, and not by an exit with 125 that it makes itself (Stub::set_farewell), as a parked
  // process does: whoever is let go by its tracer's death goes on from where it stands, and from
  // here to its release that may be anywhere in what it is to be. Until its memory is laid out
  // there is no stub; then it gets the program's signal actions, by which the stub's own signal
  // would be handled, threads with the program's registers, and at last these itself. In each of
  // these instants the program would run here, and its node may have it too.
  thread.set_options(PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC);
  if (!stub.run_to_exec(become, &failed)) {
    SyscallProgram undo;
    for (int fd : {number, there}) undo.call_any("closing a descriptor", SYS_close, {fd});
    undo.call_any("keeping stderr", SYS_fcntl, {STDERR_FILENO, F_SETFD, 0});
    stub.run(undo);
    thread.set_options(0);
    failed->check(become);
    throw Error(Code::kFailed, "telefork-blank did not start");
  }
  thread.set_options(PTRACE_O_EXITKILL);
  thread.request_stop();
  thread.resume(PTRACE_CONT);
  thread.await_stop();
  return restore::Blank::take(std::move(ours), number, std::move(thread));
}

restore::Blank DeputyExchange::take() {
  arguments_ = list_arguments(pid_);
  name_ = kernel::read_comm(pid_, pid_);
  TracedThread thread = hold();
  try {
    throw_if_stopped(thread, pid_);
    restore::Blank blank = exec_blank(thread);
    taken_ = true;
    return blank;
  } catch (const Error&) {
    if (!taken_ && thread.attached()) {
      let_go(thread);
      supervisor_->take_back(pid_);
    }
    throw;
  }
}

void DeputyExchange::give_back(restore::TreeRestorer& restorer, const UniqueFd& standard_error) {
  UniqueFd ours;
  TracedThread thread = restorer.become(own_pid_, [&](restore::Blank& blank) {
    tracee::Stub& stub = blank.stub();
    raise_limits(stub);
    DeputyStart start;
    ours = make_socket(stub, SOCK_STREAM, start.session_fd);
    UniqueFd program_file = open_file(programs_.deputy, O_PATH);
    std::vector<int> given = {program_file.get()};
    if (standard_error) given.push_back(standard_error.get());
    const std::vector<int> there = tracee::give_fds(stub, ours.get(), start.session_fd, given);
    start.program_fd = there.front();
    start.arguments = arguments_;
    start.name = name_;
    // Those two may be where stderr goes.
    SyscallProgram place;
    for (int* number : {&start.session_fd, &start.program_fd}) {
      if (*number != STDERR_FILENO) continue;
      const tracee::Result copy =
          place.call("moving a descriptor", SYS_fcntl, {*number, F_DUPFD_CLOEXEC, 3});
      *number = static_cast<int>(stub.run(place).result(copy));
    }
    SyscallProgram streams;
    if (standard_error && there.back() != STDERR_FILENO) {
      streams.call("giving it its stderr", SYS_dup3, {there.back(), STDERR_FILENO, 0});
    } else if (standard_error) {
      streams.call("giving it its stderr", SYS_fcntl, {STDERR_FILENO, F_SETFD, 0});
    } else {
      streams.call_any("closing stderr", SYS_close, {STDERR_FILENO});
    }
    stub.run(streams);
    return become_deputy(start);
  });
  taken_ = false;
  tracee::StopWatch::begin(thread);
  supervisor_.emplace(tracee::StopWatch::adopt(pid_), std::move(ours),
                      standard_error ? standard_error.duplicate() : UniqueFd());
}

}  // namespace telefork::session
