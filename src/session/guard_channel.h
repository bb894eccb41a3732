// Descriptors that outlive a keeper, until nothing of what it kept runs any more: a userfaultfd,
// with whose last descriptor whoever waits for a page, or comes to one, would find zeros there.
//
//   keeper: GuardChannel::hold(fd), release()  --SCM_RIGHTS-->  telepad: GuardedFds
//
// Both ends of one SOCK_SEQPACKET pair.
#pragma once

#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace telefork::session {

// The keeper's end. May be used by any thread.
class GuardChannel {
 public:
  GuardChannel() = default;
  explicit GuardChannel(UniqueFd channel) : channel_(std::move(channel)) {}

  // Without a telepad, which then has nothing to kill either, nobody.
  void hold(int fd) const;
  // All of them: they are not needed any more.
  void release() const;

 private:
  UniqueFd channel_;
};

// The telepad's.
class GuardedFds {
 public:
  GuardedFds() = default;
  explicit GuardedFds(UniqueFd channel) : channel_(std::move(channel)) {}

  // To poll for reading; -1: nothing more comes.
  int fd() const { return channel_.get(); }
  // Takes what has come; never waits.
  void take();
  bool empty() const { return fds_.empty(); }

 private:
  UniqueFd channel_;
  std::vector<UniqueFd> fds_;
};

}  // namespace telefork::session
