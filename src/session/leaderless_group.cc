#include "session/leaderless_group.h"

#include <cerrno>
#include <csignal>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::session {
namespace {

pid_t fork_leader() {
  pid_t leader = ::fork();
  if (leader < 0) throw_errno("making the guest's process group", Code::kResources);
  if (leader > 0) return leader;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  for (;;) ::pause();
}

void end(pid_t leader) {
  ::kill(leader, SIGKILL);
  ::waitpid(leader, nullptr, 0);
}

}  // namespace

LeaderlessGroup::LeaderlessGroup(pid_t avoided) : leader_(fork_leader()) {
  if (leader_ == avoided) {
    leader_ = fork_leader();
    end(avoided);
  }
  if (::setpgid(leader_, leader_) == 0) return;
  int error = errno;
  end(leader_);
  throw_errno("making the guest's process group", error, Code::kResources);
}

void LeaderlessGroup::kill_leader() { ::kill(leader_, SIGKILL); }

LeaderlessGroup::~LeaderlessGroup() { end(leader_); }

}  // namespace telefork::session
