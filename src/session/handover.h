// The hand-over: where the process is, and who may run it. Two never run. Pure: no I/O, no clock.
//
//   source                                      destination
//   ------                                      -----------
//   kSending      records and pages  ---------> kReceiving   nothing runs
//                              <------- ready   kReady       whole, stopped
//   kGivenUp      recorded first, then go ----> kRunning     only now
//                             <------ started
//   kAway
//                              <------ status   kEnded
//   kOver
//
// Until kGivenUp the source may go on (for a fork: the pid ends with 125, nothing has run). After
// it, only when the other end is known not to run: it said that it failed, or it is fenced. For a
// fork no source ever goes on after kGivenUp; but its pid does not end, for a parent to act on
// that, while the child may run.
#pragma once

#include <string_view>

namespace telefork::session {

enum class SourceState {
  kSending,  // the destination has not said ready: the process is ours
  kGivenUp,  // go was sent, or is about to be: the process may run there
  kAway,     // the destination said that it runs
  kOver,     // its end was told
  kFailed,   // it never ran there
  kUnknown,  // the connection was lost after go: it may run
  kFenced,   // it may have run, and does not run any more; how it ended is not known
};

enum class SourceEvent {
  kReady,    // the destination is ready and waits
  kStarted,  // it runs
  kStatus,   // its end, or that of its last descendant
  kFailure,  // the destination gave up, and says so
  kLost,     // the connection is gone
  kFence,    // the node has confirmed that nothing of it runs, or its lease is over
};

// The next state; the same state where the event changes nothing. Throws Error kCorrupt for an
// event that cannot be in this state: a peer that says it is ill-behaved.
SourceState next_state(SourceState state, SourceEvent event);

enum class DestinationState {
  kReceiving,  // not whole yet
  kReady,      // whole and stopped: waits for go
  kRunning,    // go came, it runs
  kEnded,
  kDropped,  // it never ran, and never will
};

enum class DestinationEvent {
  kWhole,
  kGo,
  kEnd,
  kLost,   // the connection is gone: a guest that waits is dropped, one that runs is ended
  kAbort,  // the source took it back
};

DestinationState next_state(DestinationState state, DestinationEvent event);

std::string_view state_name(SourceState state);
std::string_view state_name(DestinationState state);

}  // namespace telefork::session
