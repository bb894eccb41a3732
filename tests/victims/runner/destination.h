// Where victims go: a telepad of their own, on this machine or on another one
// (tests/links/victims.sh), which is reached by TLS. Processes on another machine are children of
// ours all the same, with pids of their own there: so whoever looks at processes sees them as he
// sees those at home.
//
//     Destination there(TELEPAD_PROGRAM);
//     ... move to there.node() ...
//     pid_t guest = there.seen_from_here(told);
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

namespace victims {

class Destination {
 public:
  // Starts it; it listens a little later.
  explicit Destination(const std::string& telepad_program);
  // It ends, and on another machine so has all that came with it: a test has failed otherwise.
  ~Destination();
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;

  static bool is_another_machine();
  std::string node() const;
  // Before that nobody need ask it.
  bool may_listen() const;
  bool has_ended() const;
  // What has come there and is there still, but for telefork's own.
  std::vector<pid_t> guests() const;
  // Who has this pid there.
  pid_t seen_from_here(pid_t pid_there) const;

 private:
  pid_t telepad() const;

  std::string socket_;
  std::vector<pid_t> before_;  // all that was on the other machine
  pid_t started_ = -1;         // telepad, or who has brought it to the other machine
};

}  // namespace victims
