#include "session/return_session.h"

#include <algorithm>
#include <csignal>
#include <map>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "image/reader.h"
#include "kernel/abi.h"
#include "kernel/pid_space.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_task.h"
#include "restore/id_holder.h"
#include "restore/try_id.h"
#include "session/file_negotiation.h"
#include "session/memory_check.h"
#include "tracee/parked_process.h"

namespace telefork::session {
namespace {

using protocol::ReceivedMessage;
using protocol::schema::Message;

double ms_between(std::chrono::steady_clock::time_point start,
                  std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double, std::milli>(end - start).count();
}

bool has(const kernel::Status& status, unsigned capability) {
  return (status.cap_permitted >> capability & 1) != 0;
}

template <class Have>
bool are_among(::capnp::List<std::uint32_t>::Reader wanted, const Have& have) {
  for (std::uint32_t id : wanted) {
    if (std::find(have.begin(), have.end(), id) == have.end()) return false;
  }
  return true;
}

// Its threads are made by itself, and so with what its deputy may do, or by this process having
// their ids given out next.
template <class Offer>
void check_threads(pid_t pid, const Offer& offer) {
  if (!offer.getThreads() || kernel::may_choose_ids(pid) || kernel::may_set_next_id()) return;
  throw Error(Code::kRefused,
              fmt::format("refused: process {}: the ids of its threads may not be chosen here by "
                          "this user (it takes CAP_CHECKPOINT_RESTORE), and it must keep its ids",
                          pid));
}

template <class Offer>
void check_credentials(pid_t pid, const Offer& offer) {
  const kernel::Status deputy = kernel::read_status(pid);
  const std::uint64_t lacking = offer.getPermitted() & ~deputy.cap_permitted;
  const bool may_be = (has(deputy, CAP_SETUID) || are_among(offer.getUids(), deputy.uids)) &&
                      (has(deputy, CAP_SETGID) || are_among(offer.getGids(), deputy.gids));
  if (may_be && lacking == 0) return;
  throw Error(Code::kRefused,
              fmt::format("refused: process {}: it has {} there that its deputy has lost, by its "
                          "exec, and could not give it back; let it end there",
                          pid, may_be ? "capabilities" : "user or group ids"));
}

// Where it has taken another one there.
template <class Offer>
void check_root(pid_t pid, const Offer& offer) {
  const std::string root = offer.getRoot();  // an older end does not say
  const std::string here = kernel::read_root_link(pid);
  auto removed = [](const std::string& link) { return link.ends_with(" (deleted)"); };
  if (root.empty() || root == here || (removed(root) && removed(here)) ||
      has(kernel::read_status(pid), CAP_SYS_CHROOT)) {
    return;
  }
  throw Error(Code::kRefused,
              fmt::format("refused: process {}: it has {} as its root directory there (chroot), "
                          "which its deputy may not take on; let it end there",
                          pid, root));
}

// The name of memory that has none: see kernel::map_files_path().
bool may_open_mapped_files() {
  const kernel::Status own = kernel::read_status(::getpid());
  return ((own.cap_effective >> kernel::kCapCheckpointRestore |
           own.cap_effective >> CAP_SYS_ADMIN) &
          1) != 0;
}

// As it was sent: the process queues it for itself.
siginfo_t as_siginfo(const signalfd_siginfo& from) {
  siginfo_t info{};
  info.si_signo = static_cast<int>(from.ssi_signo);
  info.si_code = from.ssi_code;
  info.si_pid = static_cast<pid_t>(from.ssi_pid);
  info.si_uid = from.ssi_uid;
  info.si_value.sival_ptr = reinterpret_cast<void*>(from.ssi_ptr);
  return info;
}

}  // namespace

ReturnSession::ReturnSession(const Parts& parts, Request request)
    : parts_(parts),
      request_(std::move(request)),
      lease_(parts.link, parts.lease),
      deputies_(parts.deputies, parts.programs),
      pid_(deputies_.first().pid),
      own_pid_(deputies_.first().own_pid),
      last_step_(Clock::now()) {}

void ReturnSession::say(std::string_view state) {
  SessionInfo info = parts_.registry.info();
  info.state = std::string(state);
  parts_.registry.update(info);
}

void ReturnSession::reach(Step step) {
  const auto now = Clock::now();
  outcome_.report.shares.push_back({step_name(step), ms_between(last_step_, now)});
  last_step_ = now;
  request_.steps.reach(step);
}

ReturnSession::Outcome ReturnSession::run() {
  const auto start = Clock::now();
  state_before_ = parts_.registry.info().state;
  try {
    call();
    take_image();
    hand_over();
    release();
  } catch (const Error& error) {
    on_failure(error);
  }
  outcome_.report.total_ms = ms_between(start, Clock::now());
  return std::move(outcome_);
}

// Up to the moment from which it may stand still there.
void ReturnSession::call() {
  parts_.pump.set_input_paused(true);
  say("called home");
  parts_.link.do_without_bulk();
  parts_.link.send([](Message::Builder message) { message.setCallHome(); });
  node_knows_ = false;
  ReceivedMessage offer = await({Message::OFFER});
  check_offer(offer->getOffer());
  reach(Step::kChecked);
  throw_if_unwanted();
  frozen_since_ = Clock::now();
  outcome_.stood_still = true;
  parts_.link.send([](Message::Builder message) { message.setCome(); });
  say("coming home");
}

// In a pid namespace that was made for it (restore/pid_namespace.h) whether it is taken is seen
// when it is made.
void ReturnSession::check_id(const char* what, pid_t id) const {
  const bool tries = own_pid_ == pid_;
  const int error = tries ? restore::try_id(id) : kernel::may_choose_ids(pid_) ? 0 : EPERM;
  if (error == 0) return;
  const std::string why =
      error == EEXIST ? "is taken here" + restore::describe_holder_or_group(id)
                      : "may not be chosen here by this user (it takes CAP_CHECKPOINT_RESTORE)";
  throw Error(Code::kRefused,
              fmt::format("refused: process {}: its {} id {} {}, and it must keep its ids", pid_,
                          what, id, why));
}

void ReturnSession::check_offer(protocol::schema::Offer::Reader offer) const {
  for (std::uint32_t tid : offer.getTids()) check_id("thread", static_cast<pid_t>(tid));
  check_credentials(pid_, offer);
  check_threads(pid_, offer);
  check_root(pid_, offer);
  for (protocol::schema::OfferedMember::Reader member : offer.getMembers()) {
    const auto own = static_cast<pid_t>(member.getPid());
    if (const pid_t pid = deputies_.seen_here(own); pid != 0) {
      check_credentials(pid, member);
      check_threads(pid, member);
      check_root(pid, member);
    } else {
      check_id("child's process", own);
    }
  }
  // Their deputies have ended, and are gone.
  for (std::uint32_t pid : offer.getEnded()) {
    if (!deputies_.is_found(static_cast<pid_t>(pid))) {
      check_id("child's process", static_cast<pid_t>(pid));
    }
  }
  capture::throw_refusals(find_lacking_memory(offer.getMemory(), "here"));
  if (!offer.getSharesMemory() || may_open_mapped_files()) return;
  throw Error(Code::kRefused,
              fmt::format("refused: process {}: it shares memory with what has come of it, which "
                          "this user cannot have them share again here (it takes "
                          "CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN)",
                          pid_));
}

// What is left of its stdin there comes first, by a pipe.
void ReturnSession::make_streams() {
  UniqueFd streams[3];
  for (int fd = 0; fd < 3; ++fd) {
    if (parts_.streams[fd]) streams[fd] = parts_.streams[fd].duplicate();
  }
  if (!outcome_.unread.empty()) {
    auto [read_end, write_end] = make_pipe();
    streams[0] = std::move(read_end);
    outcome_.input = std::move(write_end);
  }
  restorer_->set_streams(std::move(streams));
}

// Of each its deputy is to have read what it was told, and to run.
void ReturnSession::get_deputies_ready() {
  deputies_.get_ready();
  while (!deputies_.ready()) await_deputies();
}

restore::RestoreSettings ReturnSession::settings() {
  restore::RestoreSettings settings;
  settings.blank.pid_required = true;
  settings.live = true;
  settings.own_clocks = true;
  settings.tells_of_exe = false;
  settings.warn = [this](const std::string& text) { outcome_.report.warnings.push_back(text); };
  settings.find_blank = [this](pid_t pid) {
    look_at_deputies();
    return deputies_.take(pid);
  };
  settings.finds_in_namespace = own_pid_ != pid_;
  settings.terminals = &parts_.terminals;
  settings.is_found = [this](pid_t pid) { return deputies_.is_found(pid); };
  return settings;
}

void ReturnSession::take_image() {
  await({Message::RETURNING});
  reach(Step::kReturnSeen);
  get_deputies_ready();
  restorer_ = std::make_unique<restore::TreeRestorer>(settings());
  make_streams();
  image::Reader reader(parts_.link.record_source(), &parts_.link.bulk_source());
  while (restorer_->take(reader)) lease_.take_turn();
  outcome_.report.bytes_sent = reader.totals().bytes;
  outcome_.report.pages_sent = reader.totals().pages;
  outcome_.report.processes = restorer_->processes();
  await({Message::SENT_HOME});
  reach(Step::kTakenHome);
  finish_output();
  throw_if_unwanted();
  restorer_->finish();
  deputies_.throw_if_left();
  whole_ = true;
  reach(Step::kWhole);
}

// Before the process goes on, which writes to the same places.
void ReturnSession::finish_output() {
  while (!parts_.pump.idle()) {
    poll_once();
    throw_if_unwanted();
  }
}

void ReturnSession::hand_over() {
  parts_.link.send([this](Message::Builder message) {
    message.initReady().setPid(static_cast<std::uint32_t>(pid_));
  });
  parts_.link.flush();
  reach(Step::kReadySent);
  await({Message::GO});
  outcome_.ended_there = true;
  reach(Step::kGoSeen);
}

// Who was killed needs none.
void ReturnSession::give_signals() {
  look_at_deputies();
  std::map<pid_t, tracee::SyscallProgram> programs;
  auto add = [&](pid_t pid, const deputy::Event& event) {
    if (event.kind != deputy::Event::Kind::kSignal) return;
    const siginfo_t info = as_siginfo(event.info);
    tracee::SyscallProgram& program = programs[pid];
    program.call_any("sending a signal that came meanwhile", SYS_rt_sigqueueinfo,
                     {pid, info.si_signo, program.object(info)});
  };
  for (const deputy::Event& event : deputies_.take_events_of_first()) add(own_pid_, event);
  for (const auto& [pid, event] : deputies_.take_events_of_others()) add(pid, event);
  for (const auto& [pid, program] : programs) {
    try {
      restorer_->of(pid).stub().run(program);
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
}

// Of several each one runs that was not killed.
void ReturnSession::release() {
  give_signals();
  const std::vector<pid_t> ended = restorer_->release_found();
  if (std::find(ended.begin(), ended.end(), own_pid_) != ended.end()) {
    released_ = gone_ = true;
    throw killed(pid_);
  }
  outcome_.where = Where::kHome;
  outcome_.report.freeze_ms = ms_between(frozen_since_, Clock::now());
  reach(Step::kReleased);
}

// ---- What may go wrong ----

Error ReturnSession::killed(pid_t pid) const {
  return {pid == pid_ ? Code::kGone : Code::kFailed,
          fmt::format("process {} was killed on its way home", pid)};
}

bool ReturnSession::is_lost(const Error& error) const {
  return error.code() == Code::kLost || parts_.link.other_end_failed();
}

void ReturnSession::on_failure(const Error& error) {
  outcome_.error = error;
  const bool of_node = node_knows_ || parts_.link.other_end_aborted();
  pid_t ended = of_node ? 0 : deputies_.find_killed();
  // What is told of one alone may be told in other words first.
  if (deputies_.any_taken() && !deputies_.several() && !of_node && error.code() == Code::kGone) {
    ended = pid_;
  }
  if (ended != 0) outcome_.error = killed(ended);
  gone_ = gone_ || deputies_.first_is_gone() || ended == pid_;
  if (whole_ && !released_ && (!gone_ || deputies_.several())) return await_fence(error);
  outcome_.where = is_lost(error) ? Where::kLost : Where::kThere;
  if (!whole_) {
    if (std::optional<Error> another = deputies_.give_back(restorer_.get())) {
      outcome_.error = Error(another->code(), error.text() + "; then: " + another->text());
    }
    gone_ = gone_ || deputies_.first_is_gone();
    // Of one that was being killed it is known only now.
    if (ended == 0 && !of_node && error.code() == Code::kGone) ended = deputies_.find_killed();
    if (ended != 0) outcome_.error = killed(ended);
  }
  restorer_.reset();
  outcome_.input.reset();
  outcome_.unread.clear();
  try {
    if (outcome_.where != Where::kLost && !outcome_.ended_there) stay(*outcome_.error);
  } catch (const Error& another) {
    // It may end there meanwhile. What has happened to the deputies is told in any case.
    if (is_lost(another) || !node_knows_) outcome_.where = Where::kLost;
    outcome_.error = another;
  }
  if (gone_) outcome_.where = Where::kGone;
  outcome_.events = deputies_.take_events_of_first();
  outcome_.events_of_others = deputies_.take_events_of_others();
  say(state_before_);
}

// What was on its way is passed over, up to the node's last word on it: it runs on there.
void ReturnSession::stay(const Error& error) {
  protocol::Link& link = parts_.link;
  leaving_ = true;
  const bool aborted = link.other_end_aborted();
  if (node_knows_ && !aborted) return;
  link.set_discarding(true);
  if (!aborted) {
    link.send(
        [&](Message::Builder message) { protocol::encode_failure(error, message.initStay()); });
  }
  for (bool on_its_way = true; on_its_way;) {
    switch ((*await({Message::STAY, Message::ABORT, Message::OFFER, Message::RETURNING,
                     Message::SENT_HOME, Message::GO}))
                .which()) {
      case Message::GO:
        outcome_.ended_there = true;
        on_its_way = false;
        break;
      case Message::STAY:
      case Message::ABORT:
        on_its_way = false;
        break;
      default:
        break;
    }
  }
  link.set_discarding(false);
}

// It is whole here, and stands still. There it never runs again: its keeper waits for us, and ends
// it when it does not hear us.
void ReturnSession::await_fence(const Error& reason) {
  protocol::Link& link = parts_.link;
  say("unknown");
  if (!link.other_end_failed()) {
    link.fail(reason);
    auto deadline = fence_deadline(link.last_heard() + parts_.lease.home);
    const bool confirmed = session::await_fence(parts_.fence, net::Deadline::at(deadline),
                                                [this] { return !deputies_.are_all_killed(); });
    if (!confirmed) {
      outcome_.report.warnings.emplace_back(
          "nobody there can be asked whether it has ended there; its lease is over");
    }
  }
  try {
    release();
    outcome_.report.warnings.push_back(reason.text());
    outcome_.error.reset();
  } catch (const Error& error) {
    restorer_.reset();
    outcome_.where = Where::kGone;
    outcome_.error = error;
  }
}

// ---- The waits ----

void ReturnSession::throw_if_unwanted() const {
  if (whole_ || leaving_ || !request_.is_unwanted || !request_.is_unwanted()) return;
  throw Error(Code::kFailed, fmt::format("interrupted while process {} came home", pid_));
}

// Of several that are whole each goes its own way.
void ReturnSession::look_at_deputies() {
  while (parts_.signals.try_read()) {
  }
  deputies_.look();
  if (leaving_ || (whole_ && deputies_.several())) return;
  deputies_.throw_if_disturbed();
}

// What the node has to say waits.
void ReturnSession::await_deputies() {
  std::vector<pollfd> entries = {{parts_.signals.fd(), POLLIN, 0}};
  deputies_.add_interest(entries);
  net::poll_until(entries, net::Deadline::at(lease_.next_turn()));
  look_at_deputies();
  lease_.take_turn();
}

void ReturnSession::poll_once() {
  protocol::Link& link = parts_.link;
  std::vector<pollfd> entries = link.poll_entries();
  entries.push_back({parts_.signals.fd(), POLLIN, 0});
  deputies_.add_interest(entries);
  if (!whole_ && !leaving_ && request_.is_unwanted)
    entries.push_back({request_.wish_fd, POLLIN, 0});
  parts_.pump.add_interest(entries);
  net::poll_until(
      entries, link.is_ready_now() ? net::Deadline::now() : net::Deadline::at(lease_.next_turn()));
  look_at_deputies();
  parts_.pump.on_ready(entries);
  lease_.take_turn();
}

// What comes at any time.
bool ReturnSession::on_message(const ReceivedMessage& message) {
  if (parts_.pump.on_message(message)) return true;
  switch (message->which()) {
    case Message::CHECK_FILES:
      // Who was told that it stays waits for no answer.
      if (!leaving_) answer_about_files(message->getCheckFiles(), files_, parts_.link);
      return true;
    case Message::UNREAD: {
      auto bytes = message->getUnread();
      const auto* first = reinterpret_cast<const std::byte*>(bytes.begin());
      outcome_.unread.assign(first, first + bytes.size());
      return true;
    }
    case Message::STAY:
      node_knows_ = true;
      throw protocol::decode_failure(message->getStay(), parts_.link.node());
    default:
      return false;
  }
}

// A status is for whoever goes on with the session when it does not come home.
ReceivedMessage ReturnSession::await(std::initializer_list<Which> expected) {
  for (;;) {
    while (auto message = parts_.link.try_receive()) {
      const Which which = (*message)->which();
      if (std::find(expected.begin(), expected.end(), which) != expected.end()) {
        return std::move(*message);
      }
      if (on_message(*message)) continue;
      if (which != Message::STATUS && which != Message::FINISHED) {
        protocol::throw_unexpected(*message, "what is to come home");
      }
      // A deputy can obey as long as it is there.
      if (which == Message::STATUS && deputies_.obey((*message)->getStatus())) continue;
      outcome_.messages.push_back(std::move(*message));
      if (which != Message::FINISHED) continue;
      node_knows_ = true;
      throw Error(Code::kGone, parts_.link.node() + ": the process has ended there");
    }
    poll_once();
    throw_if_unwanted();
  }
}

}  // namespace telefork::session
