#include "tracee/snapshot.h"

#include <algorithm>
#include <csignal>

#include <fmt/format.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "tracee/freezer.h"
#include "tracee/memory.h"

namespace telefork::tracee {
namespace {

constexpr std::uint64_t kStackSize = 4096;

// What it has instead of the program. A table of its own with nothing in it costs no close of
// anything (fs/file.c, dup_fd), and it is one with the program's until then.
SyscallProgram own_steps() {
  SyscallProgram steps;
  steps.call_any("letting go of all descriptors", SYS_close_range, {0, ~0u, CLOSE_RANGE_UNSHARE});
  steps.undo(SYS_exit_group, {0});
  return steps;
}

// Where the new process finds its StubProgram: on top of its stack.
RemotePtr write_steps(Stub& stub) {
  const SyscallProgram steps = own_steps();
  const RemotePtr program = stub.allocate(steps.loaded_size());
  StubProgram header{};
  header.failed = kStubDone;
  write_memory(stub.pid(), program, steps.encode(program, header));
  const RemotePtr stack = stub.allocate(kStackSize);
  const RemotePtr top = stack + (kStackSize - sizeof(std::uint64_t));
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

Snapshot::Snapshot(Stub& stub) {
  // By the number that the kernel writes there before the snapshot runs (kernel/fork.c:
  // kernel_clone); of number 0 nobody waits.
  const RemotePtr number = stub.allocate(sizeof(std::uint64_t));
  write_object(stub.pid(), number, std::uint64_t{0});
  SyscallProgram farewell;
  farewell.undo(SYS_getpid, {});
  const Result child = farewell.undo(kOpLoad, {number});
  farewell.undo(SYS_waitid, {P_PID, child, 0, WEXITED | __WALL, 0});
  stub.set_farewell(farewell);
  const RemotePtr stack = write_steps(stub);
  SyscallProgram clone;
  const Result made =
      clone.call("making a snapshot of it", SYS_clone,
                 {CLONE_PTRACE | CLONE_FILES | CLONE_PARENT_SETTID, stack, number, 0, 0});
  id_.own_pid = static_cast<pid_t>(stub.run(clone).result(made));
  id_.pid = find_child_seen_as(stub.pid(), id_.own_pid);
  thread_.emplace(TracedThread::adopt(id_.pid));
  id_.start = kernel::read_stat(id_.pid).start_time;
  let_go_of_descriptors(stub);
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
  if (!thread_ || !thread_->attached()) return;
  ::kill(id_.pid, SIGKILL);
  while (!thread_->wait().ended()) {
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
