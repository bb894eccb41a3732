// A stream over descriptors that are connected already: a socket, one end of a socket pair, or two
// pipes as `telepad --stdio` gets them from sshd.
//
// Sockets are read and written with MSG_DONTWAIT. Of pipes and terminals it writes at most
// PIPE_BUF after a poll, which is what the kernel then takes without waiting (pipe(7)).
#pragma once

#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "net/stream.h"

namespace telefork::net {

class FdStream final : public Stream {
 public:
  FdStream(UniqueFd fd, std::string name);
  FdStream(UniqueFd in, UniqueFd out, std::string name);

  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes bytes) override;
  std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) override;
  bool can_splice() const override;
  std::optional<std::size_t> try_splice(int pipe, std::size_t size) override;
  pollfd read_interest() const override { return {in_.get(), POLLIN, 0}; }
  pollfd write_interest() const override { return {out(), POLLOUT, 0}; }
  void shutdown_write() override;
  const std::string& name() const override { return name_; }

  // Reads nothing ahead, so that the descriptor may be handed to another process at any time.
  int fd() const { return in_.get(); }
  // Of a stream over one descriptor: gives it away. Nothing may be called after it.
  UniqueFd release() { return std::move(in_); }

 private:
  enum class Ends {
    kOne,     // in_ serves both directions
    kTwo,     // out_ is the way out
    kClosed,  // there were two, and the way out was shut
  };
  int out() const { return ends_ == Ends::kOne ? in_.get() : out_.get(); }

  UniqueFd in_;
  UniqueFd out_;
  std::string name_;
  Ends ends_;
  bool socket_in_;
  bool socket_out_;
};

// Two connected streams, over a socket pair.
std::pair<std::unique_ptr<FdStream>, std::unique_ptr<FdStream>> make_stream_pair();

bool is_socket(int fd);
// Gives a Unix socket room for 2 MB that were sent and not yet received, or for what this user may
// have (net.core.wmem_max). With the default, 208 KB, who sends large pieces waits for the receiver
// ten times in each.
void widen_send_buffer(int fd);
// One attempt at a descriptor of either kind, as Stream::try_read().
std::optional<std::size_t> try_read_fd(int fd, Stream::Bytes bytes);

}  // namespace telefork::net
