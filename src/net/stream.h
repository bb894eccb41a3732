// Bytes to and from one other end, in order, without borders. A Stream knows nothing of what it
// carries.
//
// Whoever implements one writes the two attempts that never wait, and says which descriptor to
// poll; the calls that wait are made of them here:
//
//     try_read / try_write     one attempt, never waits
//     read_some                waits for the first byte
//     read_exactly, write_all  wait for all; an early end is an Error
//
// No implementation ever changes the status flags of its descriptor (O_NONBLOCK belongs to the
// open file description, which another process may share): it uses MSG_DONTWAIT, or polls first.
//
// An early end is Error kLost "NAME: the other end closed the connection"; a deadline that passes
// is kLost with ETIMEDOUT. A Stream is owned and used by one thread. The process must ignore
// SIGPIPE, or the thread block it, where a stream may be a pipe or is spliced to (else sockets are
// written with MSG_NOSIGNAL).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include <poll.h>

#include "net/deadline.h"

namespace telefork::net {

class Stream {
 public:
  using Bytes = std::span<std::byte>;
  using ConstBytes = std::span<const std::byte>;

  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream() = default;

  // Empty: nothing is there now. 0: the other end closed in good order (or `bytes` is empty).
  virtual std::optional<std::size_t> try_read(Bytes bytes) = 0;
  // Writes from the two pieces as if they were one; both may be empty. Empty: no room now, and the
  // next attempt begins with the same bytes (of which a TLS stream may have sent some already).
  virtual std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) = 0;
  std::optional<std::size_t> try_write(ConstBytes bytes) { return try_write(bytes, {}); }

  // Whether try_splice() may be called: the bytes on the wire are the plain ones.
  virtual bool can_splice() const { return false; }
  // Writes at most `size` bytes that lie in `pipe`, without a copy of what was spliced into that.
  // Empty: no room now, or nothing in the pipe. 0: nobody is to write to it any more.
  virtual std::optional<std::size_t> try_splice(int pipe, std::size_t size);

  // What to poll for before the next attempt can succeed.
  virtual pollfd read_interest() const = 0;
  virtual pollfd write_interest() const = 0;
  int poll_fd() const { return read_interest().fd; }
  // True when bytes were read ahead, of which poll() knows nothing.
  virtual bool has_buffered() const { return false; }
  // The other end reads the end after what was written so far.
  virtual void shutdown_write() = 0;
  // For messages: "unix:/run/telefork/telepad.sock".
  virtual const std::string& name() const = 0;

  // At least one byte; 0 only at the end.
  std::size_t read_some(Bytes bytes, Deadline deadline);
  void read_exactly(Bytes bytes, Deadline deadline);
  void write_all(ConstBytes bytes, Deadline deadline) { write_all(bytes, {}, deadline); }
  void write_all(ConstBytes head, ConstBytes body, Deadline deadline);

  [[noreturn]] void throw_closed() const;

 private:
  void wait(pollfd interest, Deadline deadline, const char* doing) const;
};

// poll(2) that goes on after a signal; the number of entries that are ready, 0 after the deadline.
int poll_until(std::span<pollfd> entries, Deadline deadline);

}  // namespace telefork::net
