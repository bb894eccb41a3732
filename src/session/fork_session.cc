#include "session/fork_session.h"

#include <algorithm>
#include <cerrno>
#include <csignal>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/writer.h"
#include "migrate/save.h"
#include "net/address.h"
#include "session/agent_socket.h"
#include "session/handover.h"
#include "session/hollow.h"
#include "session/home.h"
#include "session/node_link.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using protocol::schema::Message;

constexpr auto kRestorePatience = 60s;
constexpr auto kLastWords = 5s;

// A descriptor of another process, sharing its open file description; empty where it has none.
UniqueFd take_fd(pid_t pid, int fd) {
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) throw_errno(fmt::format("opening process {}", pid));
  int taken = static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0));
  if (taken < 0 && errno != EBADF) throw_errno(fmt::format("taking fd {} of process {}", fd, pid));
  return UniqueFd(taken);
}

std::string describe_command(pid_t pid) {
  std::string line = kernel::read_cmdline(pid);
  while (!line.empty() && line.back() == '\0') line.pop_back();
  std::replace(line.begin(), line.end(), '\0', ' ');
  return line;
}

bool has_ended(pid_t pid) {
  try {
    return kernel::read_stat(pid).state == 'Z';
  } catch (const Error&) {
    return true;
  }
}

void check_mode(int mode) {
  if (mode == 2) {
    throw Error(Code::kUnsupported, "mode lazy is not there yet; use eager or automatic");
  }
  if (mode == 3) {
    throw Error(Code::kUsage, "mode live is for moving a running program, not for a fork");
  }
}

}  // namespace

ForkSession::ForkSession(const AgentSettings& settings, std::string node)
    : settings_(settings), node_(std::move(node)) {}

ForkSession::~ForkSession() = default;

void ForkSession::open() {
  if (opened_) {
    try {
      // Nothing is to be expected: only the end of the connection.
      while (opened_->link->try_receive()) {
      }
      return;
    } catch (const Error&) {
      opened_.reset();
      files_ = FileNegotiation();
    }
  }
  opened_.emplace(
      open_node(net::parse_node(node_), here_, settings_.programs, settings_.access, false));
  fence_ = make_fence(*opened_, here_, settings_.registry);
}

capture::SurveyOptions ForkSession::survey_options(pid_t parent) const {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kFork;
  options.leave_home = request_.options.fds == 1;
  options.copy_shared = request_.options.shared == 1;
  options.takes_stdin = request_.options.standard_input == 1;
  options.sharer = parent;
  return options;
}

void ForkSession::check(const telefork_agent_request& request, pid_t pid) {
  request_ = request;
  parent_ = pid;
  check_mode(request.options.mode);
  open();
  capture::SurveyOptions options = survey_options(pid);
  options.own_fds.insert(request.agent_fd);
  options.quick = true;
  capture::Survey survey = migrate::survey_by_pid(pid, options, std::move(last_survey_));
  if (survey.refusals.empty()) files_.settle(survey, *opened_->link);
  capture::throw_refusals(survey.refusals);
  last_survey_ = std::move(survey);
}

void ForkSession::get_ready_for(pid_t pid) {
  open();
  capture::SurveyOptions options;
  options.quick = true;
  capture::Survey survey = capture::survey_process(pid, options);
  // What is in the way now may be gone when it counts.
  if (!survey.refusals.empty()) return;
  files_.settle(survey, *opened_->link);
  last_survey_ = std::move(survey);
  last_survey_.files.let_go();
}

bool ForkSession::answer(const telefork_agent_request& request, pid_t pid, int program_socket) {
  try {
    settings_.steps.reach(Step::kAsked);
    check(request, pid);
    settings_.steps.reach(Step::kChecked);
    auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
    ask_for_credentials(ours.get());
    session_socket_ = std::move(ours);
    send_reply(program_socket, nullptr, theirs.get());
    return true;
  } catch (const Error& error) {
    send_reply(program_socket, &error, -1);
    return false;
  }
}

void ForkSession::tell_snapshot(const Error& error) { send_verdict(session_socket_.get(), error); }

void ForkSession::send_image(const telefork_snapshot& snapshot) {
  protocol::Link& link = *opened_->link;
  // The answers to the check may be as old as the session.
  files_.ask_ahead(last_survey_, link);
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(snapshot_, 0);
  // It may have been stopped between its message and the read that it waits in; anywhere else the
  // result that the guest is given would be another call's.
  frozen.leader().run_into_system_call(SYS_read);
  settings_.steps.reach(Step::kFrozen);
  capture::SurveyOptions options = survey_options(parent_);
  options.own_fds.insert(snapshot.session_fd);
  if (snapshot.agent_fd >= 0) options.own_fds.insert(snapshot.agent_fd);
  capture::Survey survey = capture::survey_process(snapshot_, options, std::move(last_survey_));
  if (survey.refusals.empty()) files_.settle(survey, link);
  capture::throw_refusals(survey.refusals);

  link.send([&](Message::Builder message) {
    auto prepare = message.initPrepare();
    prepare.setPurpose(image::schema::Header::Purpose::FORK);
    prepare.setTakesStdin(options.takes_stdin);
    prepare.setStreams(0b110);
    prepare.setDescription(describe_command(snapshot_));
    prepare.setLeaseStopMs(static_cast<std::uint32_t>(settings_.lease.stop.count()));
    prepare.setLeaseKillMs(static_cast<std::uint32_t>(settings_.lease.kill.count()));
  });
  settings_.steps.reach(Step::kAnnounced);
  // It sits in a read: it waits for no signal.
  tracee::Stub::Options stub_options;
  stub_options.waits_for_no_signal = true;
  tracee::Stub stub(frozen.leader(), snapshot_, stub_options);
  capture::CaptureSettings settings;
  settings.pagemap = settings_.pagemap;
  settings.signal_mask = snapshot.signal_mask;
  settings.system_call_result = TELEFORK_RESUMED;
  settings.pending_signals = false;
  settings.timers = false;
  settings.shares_pages = true;
  capture::Capture capture(survey, frozen, stub, settings);
  image::Writer writer(link.record_sink(), link.bulk_sink());
  ::capnp::MallocMessageBuilder message;
  auto header = message.initRoot<image::schema::Header>();
  header.setVersion(image::kFormatVersion);
  header.setPurpose(image::schema::Header::Purpose::FORK);
  header.setCreator("telefork " TELEFORK_VERSION);
  header.setMachine(here_.reader());
  writer.write(image::RecordType::kHeader, message);
  // The keeper makes the child's process meanwhile.
  capture.write_metadata(writer, [&link] { link.flush_some(); });
  link.flush_some();
  settings_.steps.reach(Step::kDescribed);
  // From here on the snapshot is back in its read, where the death of this process ends it.
  stub.remove();
  capture.write_pages(writer);
  writer.end();
  link.flush(net::Deadline::in(kRestorePatience));
  settings_.steps.reach(Step::kSent);
}

// After go: the child may run there, and the pid here is not to end before it is known not to.
void ForkSession::fence_off(RegistryEntry& registry) {
  SessionInfo info = registry.info();
  info.state = std::string(state_name(SourceState::kUnknown));
  registry.update(info);
  auto deadline =
      net::Deadline::at(fence_deadline(opened_->link->last_heard() + settings_.lease.home));
  await_fence(fence_.get(), deadline, [this] { return !has_ended(snapshot_); });
}

void ForkSession::run(const std::function<void()>& on_started) {
  std::optional<ReceivedSnapshot> received = receive_snapshot(session_socket_.get());
  protocol::Link& link = *opened_->link;
  if (!received) {
    link.send([](Message::Builder message) { message.setAbort("the program's fork failed"); });
    link.flush(net::Deadline::in(1s));
    return;
  }
  snapshot_ = received->pid;
  settings_.steps.reach(Step::kForked);
  SignalFd signals({SIGCHLD});
  SessionInfo info;
  info.role = "away";
  info.pid = snapshot_;
  info.node = node_;
  SourceState state = SourceState::kSending;
  info.state = std::string(state_name(state));
  info.command = describe_command(snapshot_);
  RegistryEntry registry(settings_.registry, info);
  UniqueFd held_socket;  // while it is open the process at home does not end
  try {
    send_image(received->message);
    protocol::ReceivedMessage ready =
        link.expect(Message::READY, net::Deadline::in(kRestorePatience));
    UniqueFd in = request_.options.standard_input == 1 ? take_fd(snapshot_, 0) : UniqueFd();
    UniqueFd out = take_fd(snapshot_, 1);
    UniqueFd err = take_fd(snapshot_, 2);
    UniqueFd complaints = err ? err.duplicate() : UniqueFd();
    proxy::StdioPump pump =
        proxy::StdioPump::at_home(link, std::move(in), std::move(out), std::move(err));
    info.guest_pid = static_cast<pid_t>(ready->getReady().getPid());
    for (auto warning : ready->getReady().getWarnings()) info.warnings.emplace_back(warning);
    state = next_state(state, SourceEvent::kReady);
    info.state = std::string(state_name(state));
    registry.update(info);
    settings_.steps.reach(Step::kGivenUp);
    held_socket = session_socket_.duplicate();
    if (kernel::read_stat(snapshot_).state == 'Z') {
      throw Error(Code::kGone, "the process was killed before it was on its way");
    }
    link.send([](Message::Builder message) { message.setGo(); });
    link.flush(net::Deadline::in(kRestorePatience));
    settings_.steps.reach(Step::kGoSent);
    hollow(snapshot_, {settings_.programs.deputy, received->message.session_fd,
                       session_socket_.get(), request_.options.die_with_parent != 0 ? parent_ : 0});
    settings_.steps.reach(Step::kHollowed);
    on_started();
    deputy::Supervisor supervisor(tracee::StopWatch::adopt(snapshot_), std::move(session_socket_),
                                  std::move(complaints));
    held_socket.reset();
    for (const std::string& warning : info.warnings) {
      supervisor.tell(fmt::format("process {} on {}: {}", snapshot_, node_, warning));
    }
    HomeOptions options;
    options.lease = settings_.lease;
    options.fence = fence_.get();
    options.steps = settings_.steps;
    Home(link, pump, supervisor, signals, registry, state, std::move(options)).run();
  } catch (const Error& error) {
    if (state == SourceState::kSending) tell_snapshot(error);
    link.fail(error, net::Deadline::in(kLastWords));
    if (state == SourceState::kSending) return;
    fence_off(registry);
    tell_snapshot(error);
  }
}

}  // namespace telefork::session
