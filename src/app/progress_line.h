// How far something long has come: one line that is written over again and again, where stderr is a
// terminal.
//
//     ProgressLine progress("process 4711 to node7");
//     progress.show(bytes, all); // "process 4711 to node7: 1.2 GB of about 3.0 GB, 310.0 MB a
//     second" progress.clear();          // before anything else is said there
//
// What is over soon shows none. Never waits: a terminal that takes nothing (^S) gets nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace telefork::app {

class ProgressLine {
 public:
  explicit ProgressLine(std::string what);
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() { clear(); }

  // `done` of about `expected` bytes.
  void show(std::uint64_t done, std::uint64_t expected);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  bool is_wanted_;
  bool is_shown_ = false;
  Clock::time_point begun_;  // when the first bytes had gone
  Clock::time_point shown_;
};

}  // namespace telefork::app
