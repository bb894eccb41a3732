// Reading and writing a descriptor that other processes use too, without ever waiting and without
// touching its status flags: O_NONBLOCK would be theirs as well.
//
// What the kernel offers for that differs by kind:
//     socket            MSG_DONTWAIT
//     pipe, terminal    opened anew through /proc/self/fd where permitted: an open file description
//                       of our own, which may be O_NONBLOCK
//     regular file      nothing needed: it never waits in poll's sense
//     else              poll(2), then at most PIPE_BUF, which a pipe with room takes whole
//     (pipe(7));
//                       a terminal that is stopped in the middle of that can hold us up
//
// The process must ignore SIGPIPE. Owned by one thread.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "base/unique_fd.h"

namespace telefork::proxy {

class SharedFd {
 public:
  enum class Direction { kRead, kWrite };
  SharedFd(UniqueFd fd, Direction direction);

  int get() const { return fd_.get(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }
  bool is_character_device() const { return is_character_device_; }
  void reset() { fd_.reset(); }

  // An errno is a value here: what a broken stream means is for the caller to say.
  struct Result {
    std::optional<std::size_t> count;  // empty: it would wait, or failed; 0 read: the end
    int error = 0;                     // not 0: it failed
  };
  Result try_read(std::span<std::byte> bytes) const;
  Result try_write(std::span<const std::byte> bytes) const;

 private:
  enum class Kind {
    kSocket,
    kOwn,   // an open file description of our own, O_NONBLOCK
    kFile,  // a regular file: never waits
    kPoll,  // poll first
  };
  UniqueFd fd_;
  Kind kind_;
  bool is_character_device_ = false;
};

}  // namespace telefork::proxy
