#include "restore/blank.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/pid_space.h"
#include "kernel/procfs.h"
#include "tracee/fd_passing.h"

namespace telefork::restore {
namespace {

// What the child says on its report pipe: first this; then the errno of its exec, which else closes
// the pipe.
struct Report {
  int proc_error;  // of its own /proc, or 0; with one it has ended
};
constexpr int kReport = Blank::kSocket + 1;

// In a user namespace of its own, across an exec by a user who is not root there: what it takes to
// choose thread ids (clone3's set_tid) and to restore a bounding set.
bool keep_capabilities() {
  constexpr unsigned kKept[] = {kernel::kCapCheckpointRestore, CAP_SETPCAP};
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  for (unsigned capability : kKept) {
    __user_cap_data_struct& half = sets[capability / 32];
    half.permitted |= 1u << (capability % 32);
    half.effective = half.inheritable = half.permitted;
  }
  if (::syscall(SYS_capset, &header, sets) != 0) return false;
  for (unsigned capability : kKept) {
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0) return false;
  }
  return true;
}

// In the child, between clone and exec: nothing but system calls.
[[noreturn]] void become_blank(const BlankSettings& settings, pid_t keeper, int socket,
                               int report_to) {
  // Until it is traced, when PTRACE_O_EXITKILL takes over; thread_program() ends it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  // From within another pid namespace it is not to be seen.
  if (::getppid() != (settings.space == nullptr ? keeper : 0)) ::_exit(127);
  // Mostly its own process group, so that what is sent to the group reaches nobody else.
  if (settings.space == nullptr || settings.process_group == 0) {
    ::setpgid(0, settings.process_group);
  }
  // Neither may lie where the other goes.
  socket = ::fcntl(socket, F_DUPFD, kReport + 1);
  report_to = ::fcntl(report_to, F_DUPFD, kReport + 1);
  if (::dup2(socket, Blank::kSocket) < 0 || ::dup3(report_to, kReport, O_CLOEXEC) < 0 ||
      ::close_range(kReport + 1, ~0u, 0) != 0) {
    ::_exit(127);
  }
  for (int fd = 0; fd < Blank::kSocket; ++fd) ::close(fd);
  for (int signal = 1; signal <= 64; ++signal) ::signal(signal, SIG_DFL);
  char* arguments[] = {const_cast<char*>("telefork-blank"), nullptr};
  char* environment[] = {nullptr};
  Report report{};
  if (settings.space != nullptr) report.proc_error = kernel::mount_own_proc();
  bool own_users = settings.space != nullptr && settings.space->has_users();
  if (own_users && !keep_capabilities()) ::_exit(127);
  if (::write(kReport, &report, sizeof(report)) != sizeof(report) || report.proc_error != 0) {
    ::_exit(127);
  }
  ::execve(settings.program.c_str(), arguments, environment);
  int error = errno;
  [[maybe_unused]] ssize_t told = ::write(kReport, &error, sizeof(error));
  ::_exit(127);
}

pid_t clone_with_pid(pid_t want) {
  clone_args arguments{};
  pid_t wanted[] = {want};
  arguments.exit_signal = SIGCHLD;
  if (want != 0) {
    arguments.set_tid = reinterpret_cast<std::uint64_t>(wanted);
    arguments.set_tid_size = 1;
  }
  return static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof(arguments)));
}

pid_t clone_blank(const BlankSettings& settings) {
  if (settings.space != nullptr) {
    pid_t pid = settings.space->start(settings.want_pid, settings.process_group);
    if (pid < 0) {
      throw_errno(fmt::format("making process {} in a pid namespace of its own", settings.want_pid),
                  errno, Code::kResources);
    }
    return pid;
  }
  pid_t pid = clone_with_pid(settings.want_pid);
  if (pid >= 0 || settings.want_pid == 0) return pid;
  bool taken = errno == EEXIST;
  bool refused = errno == EPERM || errno == EINVAL;
  if (!taken && !refused) return pid;
  if (!settings.pid_required) return clone_with_pid(0);
  throw Error(Code::kRefused,
              fmt::format("process id {} {}", settings.want_pid,
                          taken ? "is taken here" : "may not be chosen here by this user"));
}

template <class T>
std::optional<T> try_read_report(int from) {
  T report;
  ssize_t count;
  do {
    count = ::read(from, &report, sizeof(report));
  } while (count < 0 && errno == EINTR);
  if (count != sizeof(report)) return std::nullopt;
  return report;
}

void await_exec(int from, const std::string& program) {
  const std::string doing = "starting " + program + " as the guest's process";
  auto report = try_read_report<Report>(from);
  if (!report) throw Error(Code::kGone, doing + ": it was killed");
  if (report->proc_error != 0) {
    throw Error(Code::kUnsupported, "mounting the /proc of a pid namespace: " +
                                        kernel::explain_no_pid_namespace(
                                            report->proc_error, kernel::read_user_namespace_bar()));
  }
  auto error = try_read_report<int>(from);
  if (error) throw_errno(doing, *error, Code::kUnsupported);
}

}  // namespace

Blank::Blank(pid_t pid, pid_t guest_pid, UniqueFd socket, tracee::TracedThread thread)
    : pid_(pid), guest_pid_(guest_pid), socket_(std::move(socket)), thread_(std::move(thread)) {}

Blank::Blank(Blank&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      guest_pid_(other.guest_pid_),
      socket_(std::move(other.socket_)),
      socket_number_(other.socket_number_),
      thread_(std::move(other.thread_)),
      stub_(std::move(other.stub_)) {
  TELEFORK_ASSERT(stub_ == nullptr);  // it refers to the thread object that moves
}

Blank Blank::take(UniqueFd socket, int number, tracee::TracedThread thread) {
  const pid_t pid = thread.tid();
  const pid_t own_pid = kernel::read_status(pid).ns_pids.back();
  Blank blank(pid, own_pid, std::move(socket), std::move(thread));
  blank.socket_number_ = number;
  return blank;
}

Blank::~Blank() {
  if (pid_ == 0) return;
  if (stub_) stub_->abandon();
  thread_.forget();
  kill();
  ::waitpid(pid_, nullptr, __WALL);
}

void Blank::kill() { ::kill(pid_, SIGKILL); }

Blank Blank::start(const BlankSettings& settings) {
  auto [ours, theirs] = make_socket_pair(SOCK_SEQPACKET);
  auto [report_read, report_write] = make_pipe();
  pid_t keeper = ::getpid();
  pid_t pid = clone_blank(settings);
  if (pid < 0) throw_errno("making a process for the guest", Code::kResources);
  if (pid == 0) become_blank(settings, keeper, theirs.get(), report_write.get());
  report_write.reset();

  struct Reaper {
    pid_t pid;
    ~Reaper() {
      if (pid == 0) return;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, __WALL);
    }
  } reaper{pid};
  // Only the exec makes it dumpable, as the keeper is not; nobody else may seize it as a plain
  // user.
  await_exec(report_read.get(), settings.program);
  tracee::TracedThread thread = tracee::TracedThread::seize(pid, PTRACE_O_EXITKILL);
  thread.request_stop();
  thread.await_stop();
  reaper.pid = 0;
  pid_t guest_pid = settings.space == nullptr ? pid : settings.want_pid;
  return Blank(pid, guest_pid, std::move(ours), std::move(thread));
}

std::unique_ptr<Blank> Blank::adopt(const Blank& maker, const tracee::ThreadState& born, pid_t pid,
                                    pid_t guest_pid) {
  std::unique_ptr<Blank> blank(
      new Blank(pid, guest_pid, maker.socket_.duplicate(), tracee::TracedThread::adopt(pid)));
  tracee::Registers registers = born.registers;
  tracee::forget_system_call(registers);
  blank->socket_number_ = maker.socket_number_;
  blank->thread_.set_xstate(born.xstate);
  blank->thread_.set_registers(registers);
  blank->thread_.set_signal_mask(born.signal_mask);
  return blank;
}

void Blank::install_stub(const tracee::Stub::Options& options) {
  TELEFORK_ASSERT(stub_ == nullptr);
  stub_ = std::make_unique<tracee::Stub>(thread_, pid_, options);
}

std::vector<int> Blank::give_fds(std::span<const int> fds) {
  return tracee::give_fds(*stub_, socket_.get(), socket_number_, fds);
}

}  // namespace telefork::restore
