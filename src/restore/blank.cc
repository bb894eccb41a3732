#include "restore/blank.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/time_namespace.h"

namespace telefork::restore {
namespace {

constexpr std::size_t kMaxFdsAtOnce = 253;  // SCM_MAX_FD (include/net/scm.h)

// What the child says on its report pipe: first the errno of its time namespace, or 0; then that of
// its exec, which else closes the pipe.
constexpr int kReport = Blank::kSocket + 1;

// In the child, between clone and exec: nothing but system calls.
[[noreturn]] void become_blank(const BlankSettings& settings, std::string_view offsets,
                               pid_t keeper, int socket, int report) {
  // Until it is traced, when PTRACE_O_EXITKILL takes over; thread_program() ends it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::getppid() != keeper) ::_exit(127);
  // Mostly its own process group, so that what is sent to the group reaches nobody else.
  ::setpgid(0, settings.process_group);
  // Neither may lie where the other goes.
  socket = ::fcntl(socket, F_DUPFD, kReport + 1);
  report = ::fcntl(report, F_DUPFD, kReport + 1);
  if (::dup2(socket, Blank::kSocket) < 0 || ::dup3(report, kReport, O_CLOEXEC) < 0 ||
      ::close_range(kReport + 1, ~0u, 0) != 0) {
    ::_exit(127);
  }
  for (int fd = 0; fd < Blank::kSocket; ++fd) ::close(fd);
  for (int signal = 1; signal <= 64; ++signal) ::signal(signal, SIG_DFL);
  char* arguments[] = {const_cast<char*>("telefork-blank"), nullptr};
  char* environment[] = {nullptr};
  int error = offsets.empty() ? 0 : kernel::enter_time_namespace(offsets);
  if (::write(kReport, &error, sizeof(error)) != sizeof(error)) ::_exit(127);
  ::execve(settings.program.c_str(), arguments, environment);
  error = errno;
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
  pid_t pid = clone_with_pid(settings.want_pid);
  if (pid >= 0 || settings.want_pid == 0) return pid;
  bool taken = errno == EEXIST;
  bool refused = errno == EPERM || errno == EINVAL;
  if (!taken && !refused) return pid;
  if (!settings.pid_required) return clone_with_pid(0);
  throw Error(Code::kRefused,
              fmt::format("process id {} {} here, and the process must keep it", settings.want_pid,
                          taken ? "is taken" : "may not be chosen by this user"));
}

std::optional<int> try_read_report(int report) {
  int error = 0;
  ssize_t count;
  do {
    count = ::read(report, &error, sizeof(error));
  } while (count < 0 && errno == EINTR);
  if (count != sizeof(error)) return std::nullopt;
  return error;
}

// The errno of its time namespace.
int await_exec(int report, const std::string& program) {
  const std::string doing = "starting " + program + " as the guest's process";
  std::optional<int> time_error = try_read_report(report);
  if (!time_error) throw Error(Code::kGone, doing + ": it was killed");
  std::optional<int> error = try_read_report(report);
  if (error) throw_errno(doing, *error, Code::kUnsupported);
  return *time_error;
}

}  // namespace

Blank::Blank(pid_t pid, UniqueFd socket, tracee::TracedThread thread, int time_error)
    : pid_(pid), socket_(std::move(socket)), thread_(std::move(thread)), time_error_(time_error) {}

Blank::Blank(Blank&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      socket_(std::move(other.socket_)),
      thread_(std::move(other.thread_)),
      stub_(std::move(other.stub_)),
      time_error_(other.time_error_) {
  TELEFORK_ASSERT(stub_ == nullptr);  // it refers to the thread object that moves
}

Blank::~Blank() {
  if (pid_ == 0) return;
  if (stub_) stub_->abandon();
  thread_.forget();
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, __WALL);
}

Blank Blank::start(const BlankSettings& settings) {
  auto [ours, theirs] = make_socket_pair(SOCK_SEQPACKET);
  auto [report_read, report_write] = make_pipe();
  const std::string offsets =
      settings.time_offsets ? kernel::format_timens_offsets(*settings.time_offsets) : "";
  pid_t keeper = ::getpid();
  pid_t pid = clone_blank(settings);
  if (pid < 0) throw_errno("making a process for the guest", Code::kResources);
  if (pid == 0) become_blank(settings, offsets, keeper, theirs.get(), report_write.get());
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
  int time_error = await_exec(report_read.get(), settings.program);
  tracee::TracedThread thread = tracee::TracedThread::seize(pid, PTRACE_O_EXITKILL);
  thread.request_stop();
  thread.await_stop();
  reaper.pid = 0;
  return Blank(pid, std::move(ours), std::move(thread), time_error);
}

void Blank::install_stub(const tracee::Stub::Options& options) {
  TELEFORK_ASSERT(stub_ == nullptr);
  stub_ = std::make_unique<tracee::Stub>(thread_, pid_, options);
}

std::vector<int> Blank::give_fds(std::span<const int> fds) {
  std::vector<int> numbers;
  while (!fds.empty()) {
    std::span<const int> batch = fds.first(std::min(fds.size(), kMaxFdsAtOnce));
    fds = fds.subspan(batch.size());

    char byte = 0;
    iovec io = {&byte, 1};
    std::vector<char> control(CMSG_SPACE(batch.size_bytes()));
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(batch.size_bytes());
    std::memcpy(CMSG_DATA(header), batch.data(), batch.size_bytes());
    if (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) != 1) {
      throw_errno("sending descriptors to the guest");
    }

    tracee::SyscallProgram program;
    tracee::Data their_byte = program.buffer(1);
    tracee::Data their_io = program.buffer(sizeof(iovec));
    tracee::Data their_control = program.buffer(control.size());
    tracee::Data their_message = program.buffer(sizeof(msghdr));
    iovec remote_io = {nullptr, 1};
    program.patch(their_io, std::as_bytes(std::span(&remote_io, 1)));
    program.point(their_io, their_byte);
    msghdr remote{};
    remote.msg_iovlen = 1;
    remote.msg_controllen = control.size();
    program.patch(their_message, std::as_bytes(std::span(&remote, 1)));
    program.point(their_message + offsetof(msghdr, msg_iov), their_io);
    program.point(their_message + offsetof(msghdr, msg_control), their_control);
    program.call_expecting("receiving descriptors", 1, SYS_recvmsg,
                           {kSocket, their_message, MSG_CMSG_CLOEXEC});
    tracee::ProgramRun run = stub_->run(program);
    auto answer = run.object<msghdr>(their_message);
    if ((answer.msg_flags & MSG_CTRUNC) != 0) {
      throw Error(Code::kResources, "the guest has no room for its descriptors (limit nofile)");
    }
    std::span<const std::byte> received = run.data(their_control).subspan(CMSG_LEN(0));
    std::vector<int> batch_numbers(batch.size());
    std::memcpy(batch_numbers.data(), received.data(), batch.size_bytes());
    numbers.insert(numbers.end(), batch_numbers.begin(), batch_numbers.end());
  }
  return numbers;
}

}  // namespace telefork::restore
