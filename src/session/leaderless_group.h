// A process group whose leader ends before anybody of interest is in it. A child of fork(2) is in
// its parent's group and never leads one, so it may always call setsid(2); so may a guest in here,
// and what is sent to its group reaches nobody of ours.
#pragma once

#include <sys/types.h>

namespace telefork::session {

class LeaderlessGroup {
 public:
  // Forks the leader, which waits; its pid is any but `avoided`, which the guest is to have.
  explicit LeaderlessGroup(pid_t avoided);
  // Ends and reaps it. The group goes on for as long as it has members, and nobody is given its
  // number meanwhile (kernel/pid.c).
  ~LeaderlessGroup();
  LeaderlessGroup(const LeaderlessGroup&) = delete;
  LeaderlessGroup& operator=(const LeaderlessGroup&) = delete;

  pid_t id() const { return leader_; }
  // When the group has a member: so that the end of this object need not wait for the leader's.
  void kill_leader();

 private:
  pid_t leader_;
};

}  // namespace telefork::session
