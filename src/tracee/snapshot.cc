#include "tracee/snapshot.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_task.h"
#include "tracee/freezer.h"
#include "tracee/memory.h"

namespace telefork::tracee {
namespace {

constexpr std::uint64_t kSnapshotStack = 4096;
constexpr char kName[] = "telefork-copy";

// What it has instead of the program. A table of its own with nothing in it costs no close of
// anything (fs/file.c, dup_fd), and it is one with the program's until then.
SyscallProgram own_steps(Snapshot::Memory memory) {
  SyscallProgram steps;
  if (memory == Snapshot::Memory::kCopied) {
    // Whoever signals the process's group or session does not mean it.
    steps.call_any("leaving its session", SYS_setsid, {});
    steps.call_any("taking a name", SYS_prctl, {PR_SET_NAME, steps.text(kName), 0, 0, 0});
  }
  steps.call_any("letting go of all descriptors", SYS_close_range, {0, ~0u, CLOSE_RANGE_UNSHARE});
  steps.undo(SYS_exit_group, {0});
  return steps;
}

// The same of one that lends. What it does without a tracer is to ask what is wanted, until nobody
// is there to say that, or all of it is not to be had.
SyscallProgram lending_steps(const Lending& lending) {
  const auto [low, high] = std::minmax(lending.their_control, lending.their_pages);
  SyscallProgram steps;
  steps.call_any("having descriptors of its own", SYS_close_range,
                 {high + 1, ~0u, CLOSE_RANGE_UNSHARE});
  if (low > 0) steps.call_any("letting go of descriptors", SYS_close_range, {0, low - 1, 0});
  if (low + 1 < high) {
    steps.call_any("letting go of descriptors", SYS_close_range, {low + 1, high - 1, 0});
  }
  const Data wanted = steps.buffer(sizeof(iovec));
  const Result asked = steps.undo(SYS_read, {lending.their_control, wanted, wanted.size});
  steps.undo(kOpJump, {2, asked, wanted.size});
  steps.undo(SYS_exit_group, {0});
  const Result lent = steps.undo(SYS_vmsplice, {lending.their_pages, wanted, 1, 0});
  const Result all = steps.undo(kOpLoad, {wanted + offsetof(iovec, iov_len)});
  steps.undo(kOpJump, {-5, lent, all});
  steps.undo(SYS_exit_group, {0});
  return steps;
}

// Where the new process finds its StubProgram: on top of its stack.
RemotePtr write_steps(Stub& stub, const SyscallProgram& steps) {
  const RemotePtr program = stub.allocate(steps.loaded_size());
  StubProgram header{};
  header.failed = kStubDone;
  write_memory(stub.pid(), program, steps.encode(program, header));
  const RemotePtr stack = stub.allocate(kSnapshotStack);
  const RemotePtr top = stack + (kSnapshotStack - sizeof(std::uint64_t));
  write_object(stub.pid(), top, program.value());
  return top;
}

pid_t find_child_seen_as(pid_t process, pid_t own_pid) {
  for (pid_t child : kernel::list_children(process)) {
    if (kernel::read_status(child).ns_pids.back() == own_pid) return child;
  }
  throw Error(Code::kGone, fmt::format("the snapshot of process {} has ended", process));
}

bool is_still_there(pid_t process, const SnapshotId& snapshot) {
  try {
    const kernel::Stat stat = kernel::read_stat(snapshot.pid);
    return stat.ppid == process && stat.start_time == snapshot.start;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::optional<Lending> try_open_lending(Stub& stub) {
  constexpr int kRoom = 1024 * 1024;  // what any user may have (pipe-max-size)
  SyscallProgram program;
  const Data sockets = program.buffer(2 * sizeof(int));
  const Data pipe = program.buffer(2 * sizeof(int));
  program.call("making a socket", SYS_socketpair,
               {AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets});
  program.call("making a pipe", SYS_pipe2, {pipe, O_CLOEXEC});
  const Result end = program.load("its end", pipe + sizeof(int));
  program.call_any("making room in it", SYS_fcntl, {end, F_SETPIPE_SZ, kRoom});
  const ProgramRun run = stub.try_run(program);
  if (run.failed() != kStubDone) return std::nullopt;
  const auto of_sockets = run.object<std::array<int, 2>>(sockets);
  const auto of_pipe = run.object<std::array<int, 2>>(pipe);
  Lending lending;
  lending.control = kernel::take_fd(stub.pid(), of_sockets[0]);
  lending.their_control = of_sockets[1];
  lending.pages = kernel::take_fd(stub.pid(), of_pipe[0]);
  lending.their_pages = of_pipe[1];
  return lending;
}

Snapshot::Snapshot(Stub& stub, Memory memory, const Lending* lending,
                   const SyscallProgram* more_farewell) {
  // By the number that the kernel writes there before the snapshot runs (kernel/fork.c:
  // kernel_clone); of number 0 nobody waits.
  const RemotePtr number = stub.allocate(sizeof(std::uint64_t));
  write_object(stub.pid(), number, std::uint64_t{0});
  SyscallProgram farewell;
  farewell.undo(SYS_getpid, {});
  const Result child = farewell.undo(kOpLoad, {number});
  farewell.undo(SYS_waitid, {P_PID, child, 0, WEXITED | __WALL, 0});
  if (more_farewell != nullptr) farewell.append_undo(*more_farewell);
  stub.set_farewell(farewell);
  const RemotePtr stack =
      write_steps(stub, lending != nullptr ? lending_steps(*lending) : own_steps(memory));
  SyscallProgram clone;
  const unsigned long flags = CLONE_PTRACE | CLONE_FILES | CLONE_PARENT_SETTID |
                              (memory == Memory::kShared ? CLONE_VM | SIGCHLD : 0);
  const Result made =
      clone.call("making a snapshot of it", SYS_clone, {flags, stack, number, 0, 0});
  id_.own_pid = static_cast<pid_t>(stub.run(clone).result(made));
  id_.pid = find_child_seen_as(stub.pid(), id_.own_pid);
  thread_.emplace(TracedThread::adopt(id_.pid));
  id_.start = kernel::read_stat(id_.pid).start_time;
  let_go_of_descriptors(stub);
  if (lending == nullptr) return;
  lender_ = kernel::open_pidfd(id_.pid);
  thread_->detach();
}

// It stops at the system call by which a program without a signal of its own ends.
void Snapshot::let_go_of_descriptors(const Stub& stub) {
  for (;;) {
    const WaitStatus status = thread_->resume_until_stop(PTRACE_SYSCALL);
    if (status.ended()) {
      throw Error(Code::kGone,
                  fmt::format("the snapshot of process {} {}", stub.pid(), status.describe()));
    }
    if (status.kind() == WaitStatus::Kind::kSyscallStop && thread_->at_system_call_entry() &&
        interrupted_system_call(thread_->registers()) == -1) {
      return;
    }
  }
}

Snapshot::~Snapshot() {
  try {
    end();
  } catch (const Error&) {
    // It was killed, and is gone.
  }
}

void Snapshot::end() {
  if (lender_) {
    // ESRCH: it has ended.
    static_cast<void>(::syscall(SYS_pidfd_send_signal, lender_.get(), SIGKILL, nullptr, 0));
    pollfd ended{lender_.get(), POLLIN, 0};
    while (::poll(&ended, 1, -1) < 0 && errno == EINTR) {
    }
    lender_.reset();
    return;
  }
  if (!thread_ || !thread_->attached()) return;
  ::kill(id_.pid, SIGKILL);
  while (!thread_->wait().ended()) {
  }
}

bool is_snapshot(pid_t pid) {
  try {
    const kernel::Stat stat = kernel::read_stat(pid);
    return stat.comm == kName && stat.exit_signal == 0 && stat.session == pid &&
           (stat.state == 'Z' || kernel::read_status(pid).tracer_pid != 0);
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return false;
  }
}

void reap_snapshot(Stub& stub, const SnapshotId& snapshot) {
  if (!is_still_there(stub.pid(), snapshot)) return;
  SyscallProgram reap;
  reap.call_any("reaping its snapshot", SYS_wait4, {snapshot.own_pid, 0, __WALL, 0});
  stub.run(reap);
}

void reap_snapshot(pid_t process, const SnapshotId& snapshot) {
  if (!is_still_there(process, snapshot)) return;
  try {
    FrozenProcess frozen = FrozenProcess::freeze(process, 0);
    frozen.suspend_seccomp();
    Stub stub(frozen.leader(), process, {});
    reap_snapshot(stub, snapshot);
    stub.remove();
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
  }
}

}  // namespace telefork::tracee
