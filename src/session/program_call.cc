#include "session/program_call.h"

#include <algorithm>
#include <cerrno>
#include <span>

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/libc_identity.h"
#include "kernel/pidfd.h"
#include "migrate/save.h"
#include "net/address.h"
#include "restore/vma_rules.h"
#include "session/agent_socket.h"
#include "session/data_bytes.h"
#include "session/hosting.h"

namespace telefork::session {
namespace {

using protocol::schema::Message;

Mode mode_of(const telefork_agent_request& request) {
  return static_cast<Mode>(request.options.mode);
}

void check_mode(const telefork_agent_request& request) {
  if (mode_of(request) == Mode::kLive) {
    throw Error(Code::kUsage, "mode live is for moving a running program, not for a fork");
  }
  if (request.options.repeat == 0) return;
  if (request.op != TELEFORK_OP_RUN_ON) {
    throw Error(Code::kUsage, "repeat is for a run_on, whose memory comes home");
  }
  if (mode_of(request) == Mode::kLazy) {
    throw Error(Code::kUsage, "with repeat memory goes eagerly: use mode automatic or eager");
  }
}

constexpr std::uint64_t kWorthKeepingKb = 16 * 1024;
constexpr std::uint64_t kKeptPagesOfAny = 16 * 1024;

std::unique_ptr<capture::KeptThere> make_kept_there(::capnp::Data::Reader from,
                                                    std::uint64_t most) {
  image::SecretHash::Secret secret;
  if (from.size() != secret.size()) throw Error(Code::kCorrupt, "a secret of a wrong length");
  std::copy_n(as_bytes(from).begin(), secret.size(), secret.begin());
  return std::make_unique<capture::KeptThere>(secret, most);
}

}  // namespace

bool has_ended(pid_t pid) {
  try {
    return kernel::read_stat(pid).state == 'Z';
  } catch (const Error&) {
    return true;
  }
}

ProgramCall::ProgramCall(const AgentSettings& settings, std::string node)
    : settings_(settings), node_(std::move(node)) {}

ProgramCall::~ProgramCall() = default;

// What was opened ahead may have been ended there, or be with whom nobody trusts here any more.
bool ProgramCall::is_open() const {
  if (!opened_) return false;
  try {
    // Nothing is to be expected: only the end of the connection.
    while (opened_->link->try_receive()) {
    }
    return !opened_->connector || opened_->connector->still_trusts();
  } catch (const Error&) {
    return false;
  }
}

void ProgramCall::open() {
  if (is_open()) return;
  opened_.reset();
  memory_.close();
  files_ = FileNegotiation();
  opened_.emplace(
      open_node(net::parse_node(node_), here_, settings_.programs, settings_.access, false));
  opened_->link->set_patience(settings_.lease.kill);
  fence_ = make_fence(*opened_, here_, settings_.registry);
}

capture::SurveyOptions ProgramCall::survey_options() const {
  capture::SurveyOptions options;
  options.purpose =
      request_.op == TELEFORK_OP_RUN_ON ? capture::Purpose::kRunOn : capture::Purpose::kFork;
  options.trace_bar = settings_.trace_bar;
  options.leave_home = request_.options.fds == 1;
  options.copy_shared = request_.options.shared == 1;
  options.takes_stdin = request_.options.standard_input == 1;
  // A fork shares memory with whom it is about to be forked from.
  if (request_.op == TELEFORK_OP_FORK) options.sharer = program_;
  return options;
}

void ProgramCall::check(const telefork_agent_request& request, pid_t pid) {
  request_ = request;
  program_ = pid;
  if (request.op != TELEFORK_OP_FORK && request.op != TELEFORK_OP_RUN_ON) {
    throw Error(Code::kUnsupported,
                "the program's libtelefork asks for what this agent does not know");
  }
  check_mode(request);
  open();
  check_user(kernel::read_status(pid), *opened_);
  check_hosting(*opened_->reply, node_, request.op == TELEFORK_OP_RUN_ON);
  if (request.op == TELEFORK_OP_RUN_ON) {
    protocol::check_can_return(here_.reader(), opened_->reply->getMachine());
  }
  capture::SurveyOptions options = survey_options();
  options.own_fds.insert(request.agent_fd);
  options.caller = request.tid;
  options.quick = true;
  capture::Survey survey = migrate::survey_by_pid(pid, options, std::move(last_survey_));
  if (survey.refusals.empty()) files_.settle(survey, *opened_->link);
  capture::throw_refusals(survey.refusals);
  // Only of glibc it is known where it keeps them.
  if (!lets_keep_ids(*opened_->reply) && !capture::identify_libc(survey).is_glibc) {
    check_hosting(*opened_->reply, node_, true);
  }
  resident_kb_ = survey.status.resident_kb;
  memory_.choose(settings_.laziness, repeats() ? Mode::kEager : mode_of(request),
                 survey.status.resident_kb, *opened_, node_);
  last_survey_ = std::move(survey);
}

void ProgramCall::get_ready_for(pid_t pid) {
  open();
  capture::SurveyOptions options;
  options.quick = true;
  capture::Survey survey = capture::survey_process(pid, options);
  // What is in the way now may be gone when it counts.
  if (!survey.refusals.empty()) return;
  files_.settle(survey, *opened_->link);
  // By TLS that takes as long as a small call. Where the node gets it otherwise it costs nothing,
  // and has to be used.
  const bool large = settings_.laziness.is_large(survey.status.resident_kb);
  if (large && link().bulk_fd() < 0 && why_not_lazy(*opened_).empty()) memory_.open(*opened_);
  last_survey_ = std::move(survey);
  last_survey_.files.let_go();
}

bool ProgramCall::answer(const telefork_agent_request& request, pid_t pid, int program_socket) {
  try {
    settings_.steps.reach(Step::kAsked);
    check(request, pid);
    settings_.steps.reach(Step::kChecked);
    auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
    ask_for_credentials(ours.get());
    session_socket_ = std::move(ours);
    send_reply(program_socket, nullptr, theirs.get(),
               fmt::format("{:g} s", static_cast<double>(settings_.lease.home.count()) / 1000));
    return true;
  } catch (const Error& error) {
    send_reply(program_socket, &error, -1);
    return false;
  }
}

void ProgramCall::ask_ahead_about_files() { files_.ask_ahead(last_survey_, link()); }

capture::Survey ProgramCall::survey(pid_t pid, const telefork_snapshot& caller,
                                    const std::vector<kernel::Vma>* map) {
  capture::SurveyOptions options = survey_options();
  options.map = map;
  options.own_fds.insert(caller.session_fd);
  if (caller.agent_fd >= 0) options.own_fds.insert(caller.agent_fd);
  capture::Survey survey = capture::survey_process(pid, options, std::move(last_survey_));
  if (survey.refusals.empty()) files_.settle(survey, link());
  capture::throw_refusals(survey.refusals);
  streams_ = survey.carried_streams();
  return survey;
}

UniqueFd ProgramCall::take_stream(pid_t pid, int number) const {
  const bool carried = (streams_ >> static_cast<unsigned>(number) & 1U) != 0;
  return carried ? kernel::take_fd(pid, number) : UniqueFd();
}

void ProgramCall::announce(image::schema::Header::Purpose purpose, const telefork_snapshot& caller,
                           const std::string& description, std::span<const std::byte> kept_token) {
  if (is_lazy()) memory_.open(*opened_);
  link().send([&](Message::Builder message) {
    auto prepare = message.initPrepare();
    prepare.setPurpose(purpose);
    prepare.setWantPid(static_cast<std::uint32_t>(caller.pid));
    prepare.setDescription(description);
    prepare.setLazy(is_lazy());
    say_compression(*opened_, prepare);
    prepare.setLeaseStopMs(static_cast<std::uint32_t>(settings_.lease.stop.count()));
    prepare.setLeaseKillMs(static_cast<std::uint32_t>(settings_.lease.kill.count()));
    if (purpose != image::schema::Header::Purpose::RUN_ON) return;
    prepare.setPidRequired(true);
    prepare.setSessionFd(static_cast<std::uint32_t>(caller.session_fd));
    prepare.setCaller(static_cast<std::uint32_t>(caller.tid));
    say_new_ids(program_, prepare);
    if (is_kept()) {
      prepare.setKeep(as_data(settings_.keep_name));
      prepare.setRepeat(repeats());
      prepare.setKeptToken(as_data(kept_token));
    }
  });
  begin_compression(*opened_);
}

// What is small has come sooner than it is known what of it need not; and within one machine pages
// are copied in less time than they are hashed at both ends, where they have to be.
bool ProgramCall::is_kept() const {
  return request_.op == TELEFORK_OP_RUN_ON && !settings_.keep_name.empty() && !is_lazy() &&
         resident_kb_ >= kWorthKeepingKb && (repeats() || opened_->link->bulk_fd() < 0) &&
         protocol::offers(*opened_->reply, protocol::kFeatureKeep);
}

std::unique_ptr<capture::KeptThere> ProgramCall::receive_kept(
    const capture::Survey& survey, const std::function<std::vector<kernel::PageRun>()>& clean) {
  if (!is_kept()) return nullptr;
  std::unique_ptr<capture::KeptThere> there;
  // It had more before, perhaps; but the node is not to say how much memory is taken here.
  const std::uint64_t most = kKeptPagesOfAny + 2 * survey.status.resident_kb * 1024 / kPageSize;
  for (bool last = false; !last;) {
    const protocol::ReceivedMessage message = link().expect_while_heard(Message::KEPT);
    const auto kept = message->getKept();
    if (kept.getKnown()) {
      if (!clean || there) throw Error(Code::kCorrupt, "it has kept what it cannot know of");
      return std::make_unique<capture::KeptThere>(clean());
    }
    if (!there) there = make_kept_there(kept.getSecret(), most);
    there->add(restore::runs_of(kept.getRuns()), as_bytes(kept.getHashes()));
    last = kept.getLast();
  }
  return there->empty() ? nullptr : std::move(there);
}

void ProgramCall::tell_streams() {
  link().send([&](Message::Builder message) {
    auto streams = message.initStreams();
    streams.setTakesStdin((streams_ & 0b001U) != 0);
    streams.setOpen(streams_ & 0b110U);
  });
}

}  // namespace telefork::session
