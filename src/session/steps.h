// The steps of a hand-over at both ends, so that a test can hold a process at any of them and end
// whom it likes (tests/fork/faults). In production nobody listens.
//
//     Steps steps([](Step step) { ... });     // in a test's agent or keeper
//     steps.reach(Step::kSent);
#pragma once

#include <functional>
#include <string_view>
#include <utility>

namespace telefork::session {

enum class Step {
  // The session process at the source.
  kAsked,       // the program's request came
  kChecked,     // nothing is in the way; the program still waits for its answer
  kForked,      // the snapshot is there
  kAnnounced,   // the destination was told what comes
  kWatched,     // who goes live is watched, and was let go on
  kRoundsSent,  // its rounds of pages are there
  kFrozen,      // it is stopped
  kDescribed,   // all but its pages was sent
  kSent,        // all of it was
  kGivenUp,     // the destination is ready; go was not sent
  kGoSent,      // the snapshot still waits
  kDecided,     // of several: none of them runs here again
  kOneHollow,   // of several: one is a deputy, the others are to be
  kHollowed,    // it is the deputy
  kStartSeen,   // the destination said that the child runs
  kAllThere,    // nobody there needs what is here any more
  kEndSeen,     // and how it ended
  kHeldBack,    // of a detached one: no lease lets it go on here any more
  kDismissed,   // the destination was asked to hold it without a home
  kLetGo,       // and does
  // Of a run_on.
  kReturnSeen,  // the destination said that it comes home
  kTakenHome,   // all of its image is here, none of it applied
  kApplied,     // the program runs on here
  // The keeper.
  kExpecting,  // it knows what comes
  kArrived,    // everything came
  kWhole,      // the guest could run
  kReadySent,
  kGoSeen,      // the guest waits
  kReleased,    // it runs
  kStarted,     // and home was told
  kEnded,       // it ended
  kStatusSent,  // and home was told
  // The keeper of a run_on, or of what was moved.
  kCalledHome,  // the function has returned, or home has called
  kHeld,        // its process stands still
  kSentHome,    // all of it that changed was sent, or all of it
};

struct StepName {
  Step step;
  std::string_view name;
};
inline constexpr StepName kStepNames[] = {
    {Step::kAsked, "asked"},
    {Step::kChecked, "checked"},
    {Step::kForked, "forked"},
    {Step::kAnnounced, "announced"},
    {Step::kWatched, "watched"},
    {Step::kRoundsSent, "rounds_sent"},
    {Step::kFrozen, "frozen"},
    {Step::kDescribed, "described"},
    {Step::kSent, "sent"},
    {Step::kGivenUp, "given_up"},
    {Step::kGoSent, "go_sent"},
    {Step::kDecided, "decided"},
    {Step::kOneHollow, "one_hollow"},
    {Step::kHollowed, "hollowed"},
    {Step::kStartSeen, "start_seen"},
    {Step::kAllThere, "all_there"},
    {Step::kEndSeen, "end_seen"},
    {Step::kHeldBack, "held_back"},
    {Step::kDismissed, "dismissed"},
    {Step::kLetGo, "let_go"},
    {Step::kReturnSeen, "return_seen"},
    {Step::kTakenHome, "taken_home"},
    {Step::kApplied, "applied"},
    {Step::kExpecting, "expecting"},
    {Step::kArrived, "arrived"},
    {Step::kWhole, "whole"},
    {Step::kReadySent, "ready_sent"},
    {Step::kGoSeen, "go_seen"},
    {Step::kReleased, "released"},
    {Step::kStarted, "started"},
    {Step::kEnded, "ended"},
    {Step::kStatusSent, "status_sent"},
    {Step::kCalledHome, "called_home"},
    {Step::kHeld, "held"},
    {Step::kSentHome, "sent_home"},
};

constexpr std::string_view step_name(Step step) {
  for (const StepName& known : kStepNames) {
    if (known.step == step) return known.name;
  }
  return {};
}

class Steps {
 public:
  Steps() = default;
  explicit Steps(std::function<void(Step)> on_step) : on_step_(std::move(on_step)) {}
  void reach(Step step) const {
    if (on_step_) on_step_(step);
  }

 private:
  std::function<void(Step)> on_step_;
};

}  // namespace telefork::session
