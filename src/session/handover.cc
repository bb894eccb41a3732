#include "session/handover.h"

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::session {
namespace {

template <class State>
[[noreturn]] void impossible(State state, std::string_view event) {
  throw Error(Code::kCorrupt,
              fmt::format("{} came while the process was {}", event, state_name(state)));
}

}  // namespace

std::string_view state_name(SourceState state) {
  switch (state) {
    case SourceState::kSending:
      return "being sent";
    case SourceState::kGivenUp:
      return "given up";
    case SourceState::kAway:
      return "away";
    case SourceState::kOver:
      return "over";
    case SourceState::kFailed:
      return "failed";
    case SourceState::kUnknown:
      return "unknown";
    case SourceState::kFenced:
      return "fenced";
  }
  return "?";
}

std::string_view state_name(DestinationState state) {
  switch (state) {
    case DestinationState::kReceiving:
      return "arriving";
    case DestinationState::kReady:
      return "ready";
    case DestinationState::kRunning:
      return "running";
    case DestinationState::kEnded:
      return "ended";
    case DestinationState::kDropped:
      return "dropped";
  }
  return "?";
}

SourceState next_state(SourceState state, SourceEvent event) {
  switch (event) {
    case SourceEvent::kReady:
      if (state == SourceState::kSending) return SourceState::kGivenUp;
      impossible(state, "ready");
    case SourceEvent::kStarted:
      if (state == SourceState::kGivenUp) return SourceState::kAway;
      impossible(state, "started");
    case SourceEvent::kStatus:
      if (state == SourceState::kAway || state == SourceState::kOver) return SourceState::kOver;
      impossible(state, "a status");
    case SourceEvent::kFailure:
      // It is said when nothing of the guest is left. After go it means that it did not start;
      // once it runs there is no failing, only an end that nobody saw.
      if (state == SourceState::kSending || state == SourceState::kGivenUp) {
        return SourceState::kFailed;
      }
      return state == SourceState::kAway ? SourceState::kFenced : state;
    case SourceEvent::kLost:
      if (state == SourceState::kSending) return SourceState::kFailed;
      if (state == SourceState::kGivenUp || state == SourceState::kAway) {
        return SourceState::kUnknown;
      }
      return state;
    case SourceEvent::kFence:
      if (state == SourceState::kUnknown) return SourceState::kFenced;
      impossible(state, "a fence");
  }
  return state;
}

DestinationState next_state(DestinationState state, DestinationEvent event) {
  switch (event) {
    case DestinationEvent::kWhole:
      if (state == DestinationState::kReceiving) return DestinationState::kReady;
      impossible(state, "the end of the image");
    case DestinationEvent::kGo:
      if (state == DestinationState::kReady) return DestinationState::kRunning;
      impossible(state, "go");
    case DestinationEvent::kEnd:
      // A guest that is killed before it ran never ran.
    case DestinationEvent::kLost:
    case DestinationEvent::kAbort:
      if (state == DestinationState::kRunning) return DestinationState::kEnded;
      return state == DestinationState::kEnded ? state : DestinationState::kDropped;
  }
  return state;
}

}  // namespace telefork::session
