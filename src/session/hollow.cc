#include "session/hollow.h"

#include <algorithm>
#include <csignal>
#include <optional>
#include <set>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/deputy.h"
#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs.h"
#include "session/description.h"
#include "tracee/fd_passing.h"
#include "tracee/freezer.h"
#include "tracee/stop_watch.h"
#include "tracee/stub.h"

namespace telefork::session {
namespace {

using tracee::Data;
using tracee::SyscallProgram;

// A NULL-terminated array of pointers to strings.
Data string_array(SyscallProgram& program, const std::vector<std::string>& strings) {
  Data array = program.buffer((strings.size() + 1) * sizeof(std::uint64_t));
  for (std::size_t i = 0; i < strings.size(); ++i) {
    program.point(array + i * sizeof(std::uint64_t), program.text(strings[i]));
  }
  return array;
}

SyscallProgram program_of(pid_t pid, tracee::Stub& stub, const HollowSettings& settings) {
  UniqueFd program_file = open_file(settings.deputy_program, O_PATH);
  const int given[] = {program_file.get()};
  DeputyStart start;
  // Its file comes in through the session socket.
  start.program_fd =
      tracee::give_fds(stub, settings.session_socket, settings.session_fd, given).front();
  start.session_fd = settings.session_fd;
  start.arguments = list_arguments(pid);
  start.name = kernel::read_comm(pid, pid);
  start.die_with_parent = settings.die_with_parent;
  start.speaks = settings.speaks;
  return become_deputy(start);
}

// It is about to leave memory that another process keeps. At its exec the kernel would write to it
// (kernel/fork.c, exec_mm_release); and it hears nothing of the other one's end: an ignored signal
// stays one.
void prepare_to_part(tracee::Stub& stub) {
  constexpr std::size_t kRobustListHead = 3 * sizeof(long);
  kernel::Sigaction ignore{};
  ignore.handler = reinterpret_cast<std::uintptr_t>(SIG_IGN);
  SyscallProgram program;
  program.call("forgetting its thread's addresses", SYS_set_tid_address, {0});
  program.call("forgetting its robust list", SYS_set_robust_list, {0, kRobustListHead});
  program.call("ignoring SIGCHLD", SYS_rt_sigaction,
               {SIGCHLD, program.object(ignore), 0, sizeof(std::uint64_t)});
  stub.run(program);
}

}  // namespace

SyscallProgram become_deputy(const DeputyStart& start) {
  std::vector<std::string> environment = {
      fmt::format("{}={}", TELEFORK_DEPUTY_FD, start.session_fd),
      fmt::format("{}={}", TELEFORK_DEPUTY_COMM, start.name)};
  if (start.die_with_parent != 0) {
    environment.push_back(fmt::format("{}={}", TELEFORK_DEPUTY_PARENT, start.die_with_parent));
  }
  SyscallProgram become;
  // Another process may have them too.
  become.call("having descriptors of its own", SYS_unshare, {CLONE_FILES});
  become.call("keeping the session socket", SYS_fcntl, {start.session_fd, F_SETFD, 0});
  // Everything else goes, so that nobody waits for the end of a pipe that a deputy holds; but for
  // stderr, as long as the child has its own: the deputy may have to say why nobody else can.
  std::set<int> numbers = {start.session_fd, start.program_fd};
  if (start.speaks) numbers.insert(STDERR_FILENO);
  int from = 0;
  for (int kept : numbers) {
    if (kept > from) become.call("closing descriptors", SYS_close_range, {from, kept - 1, 0});
    from = kept + 1;
  }
  become.call("closing descriptors", SYS_close_range, {from, ~0u, 0});
  // The program may keep it from its own children.
  if (start.speaks) {
    become.call_any("keeping stderr", SYS_fcntl, {STDERR_FILENO, F_SETFD, 0});
  }
  become.call("becoming the deputy", SYS_execveat,
              {start.program_fd, become.text(""), string_array(become, start.arguments),
               string_array(become, environment), AT_EMPTY_PATH});
  return become;
}

KeptMemory hollow(pid_t pid, const HollowSettings& settings) {
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(pid, PTRACE_O_TRACEEXEC);
  tracee::Stub::Options stub_options;
  stub_options.awaited_signals = 0;
  tracee::Stub stub(frozen.leader(), pid, stub_options);
  KeptMemory kept;
  if (settings.keeps_memory) {
    prepare_to_part(stub);
    kept.lending = tracee::try_open_lending(stub);
    kept.keeper = std::make_unique<tracee::Snapshot>(stub, tracee::Snapshot::Memory::kShared,
                                                     kept.lending ? &*kept.lending : nullptr);
  }
  SyscallProgram become = program_of(pid, stub, settings);
  std::optional<tracee::ProgramRun> failed;
  if (!stub.run_to_exec(become, &failed)) {
    failed->check(become);
    throw Error(Code::kFailed, "the deputy's program did not start");
  }
  frozen.leader().set_options(0);
  tracee::StopWatch::begin(frozen.leader());
  return kept;
}

tracee::TracedThread hollow(tracee::ParkedProcess& parked, const HollowSettings& settings) {
  return std::move(parked.become(program_of(parked.pid(), parked.stub(), settings)));
}

}  // namespace telefork::session
