#include "session/command_session.h"

#include <cerrno>
#include <csignal>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "image/writer.h"
#include "session/description.h"
#include "session/image_header.h"
#include "session/node_link.h"
#include "session/own_deputy.h"

namespace telefork::session {
namespace {

using protocol::schema::Message;

// An O_PATH descriptor, which cannot be read or written, only keeps a number taken.
bool is_open(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_PATH) == 0;
}

// Reading from it, or writing to it, is an error and not the end (`nohup` has such a stdin).
bool is_useless(int fd) {
  const int wrong = fd == 0 ? O_WRONLY : O_RDONLY;
  return is_open(fd) && (::fcntl(fd, F_GETFL) & O_ACCMODE) == wrong;
}

bool is_directory(int fd) {
  struct stat stat {};
  return is_open(fd) && ::fstat(fd, &stat) == 0 && S_ISDIR(stat.st_mode);
}

bool is_carried(int fd) { return is_open(fd) && !is_useless(fd) && !is_directory(fd); }

// As after `2>&1`: their order is to be kept.
bool is_one_description(int a, int b) {
  return ::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILE, a, b) == 0;
}

UniqueFd try_duplicate(int fd) {
  return is_open(fd) ? UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)) : UniqueFd();
}

// Nobody here is to hold open what the command has closed.
void let_go_of(int fd) {
  UniqueFd nothing = open_file("/dev/null", O_RDWR);
  if (::dup2(nothing.get(), fd) < 0) throw_errno("letting go of a standard stream");
}

UniqueFd duplicate_carried(int fd) { return is_carried(fd) ? try_duplicate(fd) : UniqueFd(); }

void encode_strings(const std::vector<std::string>& strings,
                    ::capnp::List<::capnp::Data>::Builder list) {
  for (unsigned i = 0; i < list.size(); ++i) {
    const std::string& string = strings[i];
    list.set(i, {reinterpret_cast<const kj::byte*>(string.data()), string.size()});
  }
}

}  // namespace

CommandSession::CommandSession(Settings settings, CommandRequest request)
    : settings_(std::move(settings)), request_(std::move(request)) {}

void CommandSession::prepare() {
  opened_.emplace(
      open_node(request_.node, here_, settings_.programs, settings_.access, request_.cpu_force));
  fence_ = make_fence(*opened_, here_, settings_.registry);
  protocol::Link& link = *opened_->link;
  link.set_patience(settings_.lease.kill);
  try {
    send_command();
    protocol::ReceivedMessage ready = link.expect_while_heard(Message::READY);
    pid_ = static_cast<pid_t>(ready->getReady().getPid());
    guest_pid_ = static_cast<pid_t>(ready->getReady().getGuestPid());
  } catch (const Error& error) {
    link.fail(error);
    throw;
  }
}

void CommandSession::send_command() {
  protocol::Link& link = *opened_->link;
  link.send([&](Message::Builder message) {
    auto prepare = message.initPrepare();
    prepare.setPurpose(image::schema::Header::Purpose::EXEC);
    prepare.setCpuForce(request_.cpu_force);
    prepare.setDescription(describe_command(request_.arguments));
    prepare.setLeaseStopMs(static_cast<std::uint32_t>(settings_.lease.stop.count()));
    prepare.setLeaseKillMs(static_cast<std::uint32_t>(settings_.lease.kill.count()));
  });
  link.send([](Message::Builder message) {
    auto streams = message.initStreams();
    streams.setTakesStdin(is_carried(0));
    streams.setJoinedOutput(is_one_description(1, 2));
    streams.setOpen((is_carried(1) ? 0b010u : 0u) | (is_carried(2) ? 0b100u : 0u));
    unsigned useless = 0;
    for (int fd = 0; fd < 3; ++fd) useless |= (is_useless(fd) ? 1u : 0u) << fd;
    streams.setUseless(useless);
    streams.setDirectory(is_directory(0));
  });
  image::Writer writer(link.record_sink(), link.bulk_sink());
  write_header(image::schema::Header::Purpose::EXEC, here_.reader(), writer);

  ::capnp::MallocMessageBuilder command_message;
  auto command = command_message.initRoot<image::schema::Command>();
  encode_strings(request_.arguments,
                 command.initArguments(static_cast<unsigned>(request_.arguments.size())));
  encode_strings(request_.environment,
                 command.initEnvironment(static_cast<unsigned>(request_.environment.size())));
  command.setCwd(request_.cwd);
  command.setUmask(request_.umask);
  command.setNice(request_.nice);
  command.setIgnoredSignals(request_.ignored_signals);
  writer.write(image::RecordType::kCommand, command_message);
  writer.end();
  link.flush();
}

void CommandSession::run(pid_t home, UniqueFd socket, const std::function<void()>& become,
                         HomeOptions options) {
  protocol::Link& link = *opened_->link;
  SignalFd signals({SIGCHLD});
  SessionInfo info;
  info.role = "away";
  info.pid = home;
  info.guest_pid = pid_;
  info.node = request_.node.text();
  info.command = describe_command(request_.arguments);
  SourceState state = next_state(SourceState::kSending, SourceEvent::kReady);
  info.state = std::string(state_name(state));
  RegistryEntry registry(settings_.registry, info);
  std::optional<deputy::Supervisor> supervisor;
  try {
    supervisor.emplace(watch_own(home), std::move(socket), try_duplicate(2));
    become();
    await_own_deputy(*supervisor, signals);
    proxy::StdioPump pump = proxy::StdioPump::at_home(link, duplicate_carried(0),
                                                      duplicate_carried(1), duplicate_carried(2));
    // But for stderr, where this process tells of errors as long as the command may run.
    let_go_of(STDIN_FILENO);
    let_go_of(STDOUT_FILENO);
    link.outlive_connection();
    link.send([](Message::Builder message) { message.setGo(); });
    options.lease = settings_.lease;
    options.fence = fence_.get();
    options.on_ended = [&supervisor] {
      supervisor->forget_standard_error();
      let_go_of(STDERR_FILENO);
    };
    Home(link, pump, *supervisor, signals, registry, state, std::move(options)).run();
  } catch (const Error& error) {
    link.fail(error);
    throw;
  }
}

}  // namespace telefork::session
