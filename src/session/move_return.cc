// What a session process does when the process that it moved is called home.
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <poll.h>

#include "base/error.h"
#include "session/input_carrier.h"
#include "session/move_session.h"

namespace telefork::session {
namespace {

HomeAnswer make_answer(const ReturnSession::Outcome& outcome, const std::string& node) {
  HomeAnswer answer;
  answer.error = outcome.error;
  answer.stood_still =
      outcome.stood_still && outcome.where == ReturnSession::Where::kThere && outcome.error;
  answer.node = node;
  answer.processes = outcome.report.processes;
  answer.bytes_sent = outcome.report.bytes_sent;
  answer.pages_sent = outcome.report.pages_sent;
  answer.freeze_ms = outcome.report.freeze_ms;
  answer.total_ms = outcome.report.total_ms;
  for (const ReturnReport::Share& share : outcome.report.shares) {
    answer.shares.emplace_back(share.step, share.ms);
  }
  answer.warnings = outcome.report.warnings;
  return answer;
}

}  // namespace

std::vector<ReturningDeputies::Deputy> MoveSession::deputies() {
  std::vector<ReturningDeputies::Deputy> deputies;
  for (const auto& process : processes_) {
    const bool first = deputies.empty();
    std::optional<deputy::Supervisor>& supervisor = process->supervisor();
    if (!first && (!supervisor || !supervisor->is_watching())) continue;
    deputies.push_back(
        {process->pid(), process->own_pid(), &supervisor, first ? &streams_[2] : nullptr});
  }
  return deputies;
}

ReturnSession::Outcome MoveSession::bring_home() {
  std::optional<HomeCaller> caller = call_->try_accept();
  if (!caller) return {};
  ReturnSession::Request request;
  try {
    if (settings_.steps_by_name) request.steps = settings_.steps_by_name(caller->stop_at());
  } catch (const Error& error) {
    ReturnSession::Outcome refused;
    refused.error = error;
    caller->answer(make_answer(refused, info_.node));
    return {};
  }
  request.wish_fd = caller->fd();
  request.is_unwanted = [&caller] { return caller->is_gone(); };
  const std::vector<ReturningDeputies::Deputy> deputies = this->deputies();
  const ReturnSession::Parts parts{deputies,   *opened_->link, *pump_,          signals_,
                                   *registry_, fence_.get(),   settings_.lease, settings_.programs,
                                   streams_,   terminals_};
  ReturnSession::Outcome outcome = ReturnSession(parts, std::move(request)).run();
  if (outcome.where == ReturnSession::Where::kHome) {
    // Whoever hears of it finds it here, and nobody away.
    registry_.reset();
    answer_others();
    call_.reset();
    terminals_.clear();
    loan_.reset();
  }
  caller->answer(make_answer(outcome, info_.node));
  if (outcome.where != ReturnSession::Where::kHome) {
    report_changes();  // some are deputies anew
    return outcome;
  }
  at_home_.emplace(std::move(outcome));
  ReturnSession::Outcome home;
  home.where = ReturnSession::Where::kHome;
  return home;
}

// Who has called meanwhile.
void MoveSession::answer_others() {
  ReturnSession::Outcome here;
  here.error =
      Error(Code::kRefused, fmt::format("process {}: it has come home meanwhile, called by "
                                        "somebody else",
                                        request_.pid));
  pollfd call{call_->fd(), POLLIN, 0};
  while (::poll(&call, 1, 0) > 0) {
    if (std::optional<HomeCaller> other = call_->try_accept()) {
      other->answer(make_answer(here, info_.node));
    }
  }
}

// Whoever is at their other ends is to see that the guest has.
void MoveSession::let_go_of_closed_streams() {
  for (unsigned fd = 0; fd < 3; ++fd) {
    if (streams_[fd] && pump_->closed_by_guest(fd)) streams_[fd].reset();
  }
}

// Nothing of the program's is to be held open here any longer than it takes.
void MoveSession::finish_at_home(const std::function<bool()>& may_read_input) {
  if (!at_home_) return;
  const bool had_all = pump_->senders_ended();
  pump_.reset();
  processes_.clear();
  opened_.reset();
  streams_[1].reset();
  streams_[2].reset();
  input_.reset();
  if (!at_home_->input) return;
  carry_input(had_all ? UniqueFd() : std::move(streams_[0]), at_home_->unread,
              std::move(at_home_->input), may_read_input);
}

}  // namespace telefork::session
