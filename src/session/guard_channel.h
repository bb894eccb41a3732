// Descriptors that outlive a keeper, until nothing of what it kept runs any more: a userfaultfd,
// with whose last descriptor whoever waits for a page, or comes to one, would find zeros there.
//
//   keeper: GuardChannel::hold(fd), release()  --SCM_RIGHTS-->  telepad: GuardedFds
//
// And what is kept of a guest (kept_guest.h): a word with a name, which may be answered.
//
// Both ends of one SOCK_SEQPACKET pair.
#pragma once

#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace telefork::session {

// Words about what is kept; the name follows.
inline constexpr std::byte kTakeKept{'t'};  // the answer is one byte, and the file if there is one
inline constexpr std::byte kKeepSoon{'s'};
inline constexpr std::byte kKeep{'k'};  // with the file
inline constexpr std::size_t kKeptNameSize = 16;

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

  struct KeepWord {
    std::byte word;
    std::vector<std::byte> name;
    UniqueFd file;
  };
  // Those that have come. For each kTakeKept one answer is given in time.
  std::vector<KeepWord> take_keep_words() { return std::exchange(keep_words_, {}); }
  // Never waits; a keeper that has asked once has room for it.
  void answer(const UniqueFd& file) const;

 private:
  UniqueFd channel_;
  std::vector<UniqueFd> fds_;
  std::vector<KeepWord> keep_words_;
};

}  // namespace telefork::session
