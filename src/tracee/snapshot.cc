#include "tracee/snapshot.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
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

// The end of it is what vmsplice(2) takes.
static_assert(offsetof(MemoryRequest, address) + sizeof(iovec) == sizeof(MemoryRequest));

bool try_send(int control, const MemoryRequest& request, int flags) {
  return ::send(control, &request, sizeof(request), MSG_NOSIGNAL | flags) ==
         ssize_t{sizeof(request)};
}

// What it does when its tracer lets it go: it asks what is wanted, until nobody is there to say
// that, or all of it is not to be had. `pages`: -1 where it lends none.
void add_listening(SyscallProgram& steps, const Argument& control, int pages) {
  const Data request = steps.buffer(sizeof(MemoryRequest));
  const Data memory = request + offsetof(MemoryRequest, address);
  const Data size = request + offsetof(MemoryRequest, size);
  const Result asked = steps.undo(SYS_read, {control, request, request.size});
  steps.undo(kOpJump, {2, asked, request.size});
  steps.undo(SYS_exit_group, {0});
  // What drops ends with the jump back to the read; what lends, if anything, is behind that.
  const Result kind = steps.undo(kOpLoad, {request});
  steps.undo(kOpJump, {5, kind, MemoryRequest::Kind::kLend});
  const Result address = steps.undo(kOpLoadLong, {memory});
  const Result bytes = steps.undo(kOpLoadLong, {size});
  steps.undo(SYS_madvise, {address, bytes, MADV_DONTNEED});
  steps.undo(kOpJump, {-8, 0, 0});
  if (pages >= 0) {
    const Result lent = steps.undo(SYS_vmsplice, {pages, memory, 1, 0});
    const Result all = steps.undo(kOpLoad, {size});
    steps.undo(kOpJump, {-11, lent, all});
  }
}

// What it has instead of the program. A table of its own with nothing in it costs no close of
// anything (fs/file.c, dup_fd), and it is one with the program's until then.
SyscallProgram own_steps(Snapshot::Memory memory) {
  SyscallProgram steps;
  if (memory != Snapshot::Memory::kShared) {
    // Whoever signals the process's group or session does not mean it.
    steps.call_any("leaving its session", SYS_setsid, {});
    steps.call_any("taking a name", SYS_prctl, {PR_SET_NAME, steps.text(kName), 0, 0, 0});
  }
  steps.call_any("letting go of all descriptors", SYS_close_range, {0, ~0u, CLOSE_RANGE_UNSHARE});
  return steps;
}

// Of one that is kDroppable, behind those. Our end is taken out of it (kernel::take_fd) before it
// goes on.
Data add_dropping(SyscallProgram& steps) {
  const Data sockets = steps.buffer(2 * sizeof(int));
  steps.call_any("making a socket", SYS_socketpair,
                 {AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets});
  const Result ours = steps.undo(kOpLoad, {sockets});
  steps.undo(SYS_close, {ours});
  const Result own = steps.undo(kOpLoad, {sockets + sizeof(int)});
  add_listening(steps, own, -1);
  return sockets;
}

// The same of one that lends.
SyscallProgram lending_steps(const Lending& lending) {
  const auto [low, high] = std::minmax(lending.their_control, lending.their_pages);
  SyscallProgram steps;
  steps.call_any("having descriptors of its own", SYS_close_range,
                 {high + 1, ~0u, CLOSE_RANGE_UNSHARE});
  if (low > 0) steps.call_any("letting go of descriptors", SYS_close_range, {0, low - 1, 0});
  if (low + 1 < high) {
    steps.call_any("letting go of descriptors", SYS_close_range, {low + 1, high - 1, 0});
  }
  add_listening(steps, lending.their_control, lending.their_pages);
  return steps;
}

struct WrittenSteps {
  RemotePtr program;
  RemotePtr stack;  // where the new process finds the StubProgram: on top of it
};

WrittenSteps write_steps(Stub& stub, const SyscallProgram& steps) {
  const RemotePtr program = stub.allocate(steps.loaded_size());
  StubProgram header{};
  header.failed = kStubDone;
  write_memory(stub.pid(), program, steps.encode(program, header));
  const RemotePtr stack = stub.allocate(kSnapshotStack);
  const RemotePtr top = stack + (kSnapshotStack - sizeof(std::uint64_t));
  write_object(stub.pid(), top, program.value());
  return {program, top};
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

void ask_to_lend(int control, RemotePtr address, std::uint64_t size) {
  if (try_send(control, {MemoryRequest::Kind::kLend, address.value(), size}, 0)) return;
  throw Error(Code::kGone, "who has it has ended");
}

bool try_ask_to_drop(int control, RemotePtr address, std::uint64_t size) {
  return try_send(control, {MemoryRequest::Kind::kDrop, address.value(), size}, MSG_DONTWAIT);
}

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
  SyscallProgram steps = lending != nullptr ? lending_steps(*lending) : own_steps(memory);
  std::optional<Data> sockets;
  if (memory == Memory::kDroppable) sockets = add_dropping(steps);
  steps.undo(SYS_exit_group, {0});
  const WrittenSteps written = write_steps(stub, steps);
  SyscallProgram clone;
  const unsigned long flags = CLONE_PTRACE | CLONE_FILES | CLONE_PARENT_SETTID |
                              (memory == Memory::kShared ? CLONE_VM | SIGCHLD : 0);
  const Result made =
      clone.call("making a snapshot of it", SYS_clone, {flags, written.stack, number, 0, 0});
  id_.own_pid = static_cast<pid_t>(stub.run(clone).result(made));
  id_.pid = find_child_seen_as(stub.pid(), id_.own_pid);
  thread_.emplace(TracedThread::adopt(id_.pid));
  id_.start = kernel::read_stat(id_.pid).start_time;
  let_go_of_descriptors(stub);
  if (sockets) begin_to_listen(steps, *sockets, written.program);
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

// Without a socket it stays where it is.
void Snapshot::begin_to_listen(const SyscallProgram& steps, Data sockets, RemotePtr program) {
  std::vector<std::byte> bytes(steps.loaded_size());
  read_memory(id_.pid, program, bytes);
  const ProgramRun run(steps, std::move(bytes));
  const auto made = run.object<std::array<int, 2>>(sockets);
  if (made[0] == made[1]) return;
  control_ = kernel::try_take_fd(id_.pid, made[0]);
  if (control_) thread_->resume(PTRACE_CONT);
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
