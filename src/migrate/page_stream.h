// The page connection of a session, as either end has it (protocol/page_message.h). Never waits.
//
//     stream.send(message, pages);            // the pages stay as they are until flushed()
//     while (auto got = stream.try_receive()) // its pages are good until the next call
//     stream.poll_entries() ...
//
// Owned by one thread.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <poll.h>

#include "net/stream.h"
#include "protocol/page_message.h"

namespace telefork::migrate {

class PageStream {
 public:
  explicit PageStream(std::unique_ptr<net::Stream> stream) : stream_(std::move(stream)) {}

  void send(const protocol::PageMessage& message, std::span<const std::byte> pages = {});
  // The same with the pages that come out of `pipe`, as far as they are in it; of a connection
  // that can_splice().
  void send_from(int pipe, const protocol::PageMessage& message);
  bool can_splice() const { return stream_->can_splice(); }
  // What the connection takes now.
  void flush_some();
  bool flushed() const { return unsent_.empty(); }

  struct Received {
    protocol::PageMessage message;
    std::span<const std::byte> pages;  // of kPages
  };
  // Throws kLost at the end of the connection.
  std::optional<Received> try_receive();

  // Nothing may be called after it.
  void close() { stream_.reset(); }

  // For poll(2), to read, and to write while something is unsent.
  std::vector<pollfd> poll_entries() const;
  // try_receive() may have something though poll(2) sees nothing.
  bool is_ready_now() const { return stream_->has_buffered(); }

 private:
  using Header = std::array<std::byte, protocol::kPageMessageSize>;
  struct Unsent {
    Header header;
    std::span<const std::byte> pages;
    int pipe = -1;  // or else they are in there
    std::size_t size = 0;
    std::size_t done = 0;
  };
  // False: it is not all there yet.
  bool fill(std::span<std::byte> buffer, std::size_t& have);

  std::unique_ptr<net::Stream> stream_;
  std::deque<Unsent> unsent_;
  Header header_{};
  std::size_t have_header_ = 0;
  std::vector<std::byte> pages_;
  std::size_t have_pages_ = 0;
};

}  // namespace telefork::migrate
