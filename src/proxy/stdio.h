// One stream of standard input or output across a link: bytes are read from a descriptor at one
// end and written to a descriptor at the other.
//
//     guest -- pipe --> StdioSender  ==stdioData==>   StdioReceiver --> home's descriptor
//        (stdout, stderr)            <==stdioCredit==
//     home's descriptor --> StdioSender ==stdioData==> StdioReceiver -- pipe --> guest  (stdin)
//
// The sender may have kStdioWindow bytes under way; the receiver gives credit for what it has
// written. So a terminal at home that is held with ^S stops the guest, as it would at home, and
// nobody's memory grows.
//
// Ends of a stream:
//     end of file at the sender      stdioEnd; the receiver writes what it has, then closes its
//                                    descriptor if it was given it to own
//     nobody reads at the receiver   (EPIPE) stdioBroken; the sender closes its descriptor, so that
//                                    the guest gets SIGPIPE or EPIPE
//
// What the receiver cannot write for any other reason is thrown away, and the next is tried again:
// a signal is not what a guest would get at home for a full disk, or for a terminal that is gone.
// It believes that all was written, so loss() says why not; of a terminal that is gone nothing is
// lost that anybody could have read.
//
// Both are driven by a poll loop that belongs to somebody else, and never wait. They never change
// the status flags of a descriptor, which home's programs share. StdioPump (stdio_pump.h) has up to
// three of them. Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <poll.h>

#include "base/unique_fd.h"
#include "protocol/link.h"
#include "proxy/shared_fd.h"

namespace telefork::proxy {

inline constexpr std::size_t kStdioWindow = 256 * 1024;

class StdioSender {
 public:
  StdioSender(protocol::Link& link, unsigned stream, UniqueFd fd);

  // Asks to be called when its descriptor is readable, unless the window is full.
  void add_interest(std::vector<pollfd>& entries) const;
  void on_ready(std::span<const pollfd> entries);
  void on_credit(std::size_t bytes);
  // The other end has nobody to write to any more.
  void on_broken();

  // While paused nothing is read: stdin, as long as the deputy is in the background.
  void set_paused(bool paused) { paused_ = paused; }
  // The guest has ended: what is in the pipe now is its last output, or older. Goes on carrying
  // what a descendant writes later, even if that never ends.
  void begin_drain();
  // Everything that was in the pipe at begin_drain() has been sent.
  bool drained() const { return drain_left_ == 0U || !fd_; }
  bool ended() const { return !fd_; }
  // Because of that.
  bool broken() const { return broken_; }

 private:
  void read_once();
  void drain();
  void end_if_closed();
  void end();

  protocol::Link* link_;
  unsigned stream_;
  SharedFd fd_;
  std::size_t window_ = kStdioWindow;
  bool paused_ = false;
  bool broken_ = false;
  std::optional<std::size_t> drain_left_;  // bytes, once begin_drain() was called
};

class StdioReceiver {
 public:
  // `fd` is closed with the end of the stream: whoever reads it is to see the end of the file.
  StdioReceiver(protocol::Link& link, unsigned stream, UniqueFd fd);

  void add_interest(std::vector<pollfd>& entries) const;
  void on_ready(std::span<const pollfd> entries);
  // kCorrupt when it is more than the window.
  void on_data(std::span<const std::byte> bytes);
  void on_end();

  // Nothing waits to be written.
  bool idle() const { return unwritten() == 0; }
  bool ended() const { return !fd_; }
  // What came and is not written yet; it stays.
  std::span<const std::byte> waiting() const { return std::span(queue_).subspan(begin_); }
  // The first errno for which something that somebody would have read was not written; 0: none.
  int loss() const { return loss_; }

 private:
  std::size_t unwritten() const { return queue_.size() - begin_; }
  void write_some();
  void give_credit(std::size_t bytes);
  void break_off();
  void throw_away(int error);
  void close_if_done();

  protocol::Link* link_;
  unsigned stream_;
  SharedFd fd_;
  std::vector<std::byte> queue_;
  std::size_t begin_ = 0;
  std::size_t uncredited_ = 0;
  int loss_ = 0;
  bool end_seen_ = false;
};

}  // namespace telefork::proxy
