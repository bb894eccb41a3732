// How several deputies end: one after the other, as it was told.
//
//     DeputyEnds ends;
//     ends.add(supervisor, {killed, value});
//     ... its end was seen: ends.on_gone(supervisor) ...
//
// Who waits for a child there sees its end before its own: here too it is the deputies' that are
// children first, and each is gone before the next one ends, so that its parent's has reaped it.
#pragma once

#include <deque>
#include <utility>

#include "deputy/supervisor.h"

namespace telefork::session {

struct DeputyEnd {
  bool killed;
  int value;  // the signal, or the exit status
};

class DeputyEnds {
 public:
  // It outlives this object, or on_gone() is said of it.
  void add(deputy::Supervisor& supervisor, DeputyEnd end);
  void on_gone(const deputy::Supervisor& supervisor);
  bool idle() const { return waiting_.empty() && ending_ == nullptr; }

 private:
  void end_next();

  std::deque<std::pair<deputy::Supervisor*, DeputyEnd>> waiting_;
  const deputy::Supervisor* ending_ = nullptr;
};

}  // namespace telefork::session
