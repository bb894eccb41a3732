#include "session/departure.h"

#include <linux/kcmp.h>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "image/image.capnp.h"
#include "kernel/pidfd.h"
#include "migrate/save.h"
#include "session/description.h"
#include "session/hosting.h"
#include "session/memory_check.h"
#include "tracee/parked_process.h"

namespace telefork::session {
namespace {

using image::schema::Header;
using protocol::schema::Message;

bool is_one_description(pid_t pid, int a, int b) {
  return ::syscall(SYS_kcmp, pid, pid, KCMP_FILE, a, b) == 0;
}

void watch(const UniqueFd& epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    throw_errno("watching a descriptor");
}

}  // namespace

Departure::Departure(DepartureSettings settings, DepartureRequest request, std::string_view doing)
    : settings_(std::move(settings)),
      request_(std::move(request)),
      doing_(doing),
      going_{request_.pid},
      signals_({SIGCHLD}),
      interest_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!interest_) throw_errno("making an epoll");
  watch(interest_, signals_.fd());
  if (settings_.wish_fd >= 0) watch(interest_, settings_.wish_fd);
}

Departure::~Departure() = default;

double Departure::ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void Departure::begin() {
  start_ = Clock::now();
  last_step_ = start_;
  info_.role = "away";
  info_.pid = request_.pid;
  info_.node = request_.node.text();
  info_.state = std::string(state_name(state_));
}

void Departure::tell_registry() {
  if (registry_) registry_->update(info_);
}

void Departure::step(SourceEvent event) {
  state_ = next_state(state_, event);
  info_.state = std::string(state_name(state_));
  tell_registry();
}

void Departure::reach(Step step) {
  report_.shares.push_back({step_name(step), ms_since(last_step_)});
  last_step_ = Clock::now();
  report_.total_ms = ms_since(start_);
  settings_.steps.reach(step);
}

void Departure::throw_if_ended() {
  while (signals_.try_read()) {
  }
  for (const pid_t pid : going_) {
    if (!tracee::was_killed(pid)) continue;
    // Of another one than the first: that one runs on.
    throw Error(pid == request_.pid ? Code::kGone : Code::kFailed,
                fmt::format("process {} was killed before it was on its way", pid));
  }
  if (settings_.is_unwanted && settings_.is_unwanted()) {
    throw Error(Code::kFailed,
                fmt::format("interrupted while {} process {}", doing_, request_.pid));
  }
}

// All that can be known while it runs.
void Departure::look(const capture::SurveyOptions& options) {
  opened_.emplace(
      open_node(request_.node, here_, settings_.programs, settings_.access, request_.cpu_force));
  link().set_patience(settings_.lease.kill);
  fence_ = make_fence(*opened_, here_, settings_.registry);
  link().set_interrupt(interest_.get(), [this] { throw_if_ended(); });
  capture::TreeSurvey tree = migrate::survey_tree_by_pid(request_.pid, options);
  for (const capture::Survey& member : tree.members) {
    check_user(member.status, *opened_);
    check_root(member, *opened_);
  }
  check_hosting(*opened_->reply, request_.node.text(), true);
  if (request_.detach) check_detaching(opened_->reply, request_.node.text());
  for (const capture::Survey& member : tree.members) resident_ += member.status.resident_kb * 1024;
  alone_ = tree.alone();
  if (!alone_) check_trees(opened_->reply, request_.node.text());
  const capture::Refusals lacking = ask_about_memory(tree, *opened_->reply, link());
  looked_ = std::move(tree.first());
  looked_.refusals = std::move(tree.refusals);
  looked_.refusals.insert(looked_.refusals.end(), lacking.begin(), lacking.end());
  files_.settle(looked_, link());
  capture::throw_refusals(looked_.refusals);
  choose_mode();
  info_.command = describe_command(request_.pid);
}

void Departure::show_progress_of(image::Writer& writer) {
  if (!settings_.on_sent) return;
  writer.watch([this](std::uint64_t sent) { settings_.on_sent(sent, resident_); });
}

void Departure::choose_mode() {
  if (request_.mode == Mode::kLive) {
    memory_.choose_live(*opened_, request_.node.text(), settings_.pagemap,
                        alone_ ? ""
                               : "the memory of several processes does not go ahead of them yet; "
                                 "use mode eager");
  } else {
    // What has children is held as a whole until the last page of all is there: as is asked for.
    Laziness laziness = settings_.laziness;
    if (!alone_ && !laziness.process_kb) laziness.process_kb = Laziness::kNever;
    memory_.choose(laziness, request_.mode, resident_ / 1024, *opened_, request_.node.text(),
                   alone_ ? "" : why_not_lazy_trees(*opened_->reply));
  }
  memory_.say(info_);
  report_.mode = info_.mode;
  report_.mode_reason = info_.mode_reason;
}

void Departure::announce(bool only_first) {
  if (memory_.is_lazy()) memory_.open(*opened_);
  link().send([this, only_first](Message::Builder message) {
    auto prepare = message.initPrepare();
    prepare.setPurpose(Header::Purpose::MOVE);
    prepare.setWantPid(static_cast<std::uint32_t>(looked_.status.ns_pids.back()));
    prepare.setPidRequired(true);
    prepare.setDescription(info_.command);
    prepare.setCpuForce(request_.cpu_force);
    prepare.setLibcForce(request_.libc_force);
    prepare.setDetached(request_.detach);
    prepare.setLazy(memory_.is_lazy());
    prepare.setLive(memory_.is_live());
    say_compression(*opened_, prepare);
    prepare.setOnlyFirst(only_first);
    say_new_ids(request_.pid, prepare);
    prepare.setLeaseStopMs(static_cast<std::uint32_t>(settings_.lease.stop.count()));
    prepare.setLeaseKillMs(static_cast<std::uint32_t>(settings_.lease.kill.count()));
  });
  begin_compression(*opened_);
}

void Departure::send_rounds(image::Writer& writer) {
  rounds_ = std::make_unique<LiveRounds>(link(), writer, request_.pid, settings_.pagemap);
  rounds_->watch(looked());
  reach(Step::kWatched);
  rounds_->send();
  report_.live = rounds_->report();
  reach(Step::kRoundsSent);
  throw_if_ended();
}

std::unique_ptr<capture::LivePlan> Departure::end_rounds(tracee::FrozenTree& frozen,
                                                         std::vector<kernel::Vma>& map) {
  // What came of it meanwhile is not ahead of it there, nor can it itself be then.
  if (rounds_ && frozen.all().size() > 1) rounds_.reset();
  if (!rounds_) return nullptr;
  map = rounds_->read_map(frozen.of(request_.pid));
  std::unique_ptr<capture::LivePlan> plan = rounds_->plan();
  plan->begin(map);
  return plan;
}

void Departure::borrow() {
  if (request_.keeper && !request_.keeper->path.empty()) {
    loan_.emplace(*request_.keeper, request_.pid);
  }
}

tracee::FrozenTree Departure::freeze() {
  try {
    return tracee::FrozenTree::freeze(
        request_.pid, [](pid_t) { return 0; }, tracee::Patience{tracee::FrozenProcess::kLimit});
  } catch (const Error& error) {
    // Others of its tree stood still by then.
    frozen_ = !alone() && error.code() != Code::kGone;
    throw;
  }
}

capture::TreeSurvey Departure::look_again(const capture::SurveyOptions& options) {
  capture::TreeSurvey tree =
      capture::survey_tree(request_.pid, options, std::exchange(looked_, capture::Survey()));
  if (!tree.alone()) check_trees(opened_->reply, request_.node.text());
  capture::throw_refusals(tree.refusals);
  files_.settle(tree.first(), link());
  capture::throw_refusals(tree.first().refusals);
  return tree;
}

void Departure::tell_streams(const capture::Survey& survey) {
  const unsigned carried = survey.carried_streams();
  const bool joined = (carried & 0b110U) == 0b110U &&
                      is_one_description(request_.pid, STDOUT_FILENO, STDERR_FILENO);
  link().send([&](Message::Builder message) {
    auto streams = message.initStreams();
    streams.setTakesStdin((carried & 0b001U) != 0);
    streams.setOpen(carried & 0b110U);
    streams.setJoinedOutput(joined);
  });
}

void Departure::take_streams(const capture::Survey& survey) {
  UniqueFd streams[3];
  for (int fd = 0; fd < 3; ++fd) {
    if ((survey.carried_streams() >> static_cast<unsigned>(fd) & 1U) == 0) continue;
    streams[fd] = kernel::take_fd(request_.pid, fd);
  }
  if (streams[0]) input_ = streams[0].duplicate();
  if (streams[2]) complaints_ = streams[2].duplicate();
  for (int fd = 0; fd < 3; ++fd) {
    if (streams[fd]) streams_[fd] = streams[fd].duplicate();
  }
  pump_.emplace(proxy::StdioPump::at_home(link(), std::move(streams[0]), std::move(streams[1]),
                                          std::move(streams[2])));
}

void Departure::await_ready() {
  protocol::ReceivedMessage ready = link().expect_while_heard(Message::READY);
  report_.pid = static_cast<pid_t>(ready->getReady().getPid());
  report_.guest_pid = static_cast<pid_t>(ready->getReady().getGuestPid());
  for (auto warning : ready->getReady().getWarnings()) report_.warnings.emplace_back(warning);
  info_.guest_pid = report_.pid;
  info_.warnings = report_.warnings;
}

void Departure::send_go() {
  throw_if_ended();
  link().set_interrupt(-1, {});
  step(SourceEvent::kReady);
  reach(Step::kGivenUp);
  if (!request_.detach) link().outlive_connection();
  link().send([](Message::Builder message) { message.setGo(); });
  link().flush();
  reach(Step::kGoSent);
}

void Departure::await_started() {
  link().expect_while_heard(Message::STARTED);
  step(SourceEvent::kStarted);
  reach(Step::kStartSeen);
}

std::string Departure::await_end_there(const Error& error) {
  std::string text = error.text();
  step(link().other_end_failed() ? SourceEvent::kFailure : SourceEvent::kLost);
  link().fail(error);
  known_not_to_run_ = state_ != SourceState::kUnknown;
  if (known_not_to_run_) return text;
  auto deadline = fence_deadline(link().last_heard() + settings_.lease.home);
  known_not_to_run_ = await_fence(fence_.get(), net::Deadline::at(deadline), [this] {
    return !std::all_of(going_.begin(), going_.end(), tracee::was_killed);
  });
  step(SourceEvent::kFence);
  if (!known_not_to_run_) text += "; nobody there can be asked, and its lease is over";
  return text;
}

void Departure::stay_home(deputy::Supervisor& supervisor, std::function<bool()> may_read_input,
                          HomeOptions options) {
  for (const std::string& warning : report_.warnings) {
    supervisor.tell(fmt::format("process {} on {}: {}", info_.pid, info_.node, warning));
  }
  options.lease = settings_.lease;
  options.fence = fence_.get();
  options.steps = settings_.steps;
  options.may_read_input = std::move(may_read_input);
  Home(link(), *pump_, supervisor, signals_, *registry_, state_, std::move(options)).run();
}

}  // namespace telefork::session
