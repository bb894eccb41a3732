// A stream that outlives the connections that carry it: whatever of it the other end has not
// acknowledged is kept, and goes once more by the next one.
//
//     owner's thread                               any thread
//     ResumableStream stream(first, kClient, ...)
//     entrance = stream.entrance()                 entrance->arm()
//     try_read(), try_write()   <-- connection --  entrance->offer(connection, received there)
//
//     u32 kind | u64 value                    all numbers are little-endian
//      1 data      so many bytes follow, 256 KiB at most
//      2 received  so many bytes of the stream have come here, since its beginning
//      3 tell      say `received` now
//
// On another connection than the first the client learns beforehand how much the server has
// received (`offer`), and begins with its own `received`; until then the server sends nothing. An
// end says `received` after 64 KiB, and ahead of whatever else it sends, so that 4 MiB that nobody
// has acknowledged are a bound which nothing waits at while the other end reads.
//
// Until it is armed a connection that is lost is an Error, as that of any stream. From then on it
// is none, and neither is any other Error of it (TLS has a damaged record, an alert): there is
// nothing to read and no room, until another one is offered or the Entrance refuses (which is an
// Error then). What ends in good order has ended, as ever.
//
// A Stream is owned by one thread (stream.h); poll its descriptor for reading, both to read and to
// write.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "net/stream.h"

namespace telefork::net {

class ResumableStream final : public Stream {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kMaxBlock = 256 * 1024;
  static constexpr std::size_t kMaxUnacknowledged = 4 * 1024 * 1024;

  enum class Role { kClient, kServer };

  // How it gets connections; lives as long as anybody has it. For any thread.
  class Entrance {
   public:
    // A server's: tells the other end, by that connection, how much of the stream has come here.
    using Greet = std::function<void(Stream& connection, std::uint64_t received)>;

    // `armed_with`: it is armed when that is.
    explicit Entrance(std::shared_ptr<Entrance> armed_with = nullptr);
    // From now on a lost connection is mended.
    void arm() { armed_ = true; }
    bool is_armed() const { return armed_with_ ? armed_with_->is_armed() : armed_.load(); }
    // Of a client: the other end has `received` so much of the stream, as it has just said.
    void offer(std::unique_ptr<Stream> connection, std::uint64_t received);
    // Of a server. The connection comes back where the stream is gone.
    std::unique_ptr<Stream> offer(std::unique_ptr<Stream> connection, Greet greet);
    // There will be no other one: why. kLost.
    void refuse(const Error& why);

   private:
    friend class ResumableStream;
    struct Offer {
      std::unique_ptr<Stream> connection;
      std::uint64_t received = 0;
      Greet greet;
      Clock::time_point since;
    };
    std::unique_ptr<Stream> put(Offer offer);

    UniqueFd news_;  // an eventfd
    std::atomic<bool> armed_{false};
    const std::shared_ptr<Entrance> armed_with_;
    std::mutex mutex_;
    std::optional<Offer> offer_;
    std::optional<Error> refusal_;
    bool closed_ = false;
  };

  struct Settings {
    Role role = Role::kClient;
    // Called by the owner's calls when another connection is wanted: this one is lost, or nothing
    // has come for `patience`, or nothing of what has gone has been acknowledged for so long.
    // Empty: nobody is asked.
    std::function<void()> on_loss = {};
    std::optional<Clock::duration> patience = {};
    // Called by the owner's thread when another connection has taken over.
    std::function<void()> on_resumed = {};
    // The other end of a connection is another process of this machine, which goes without a word
    // when it has lost what is behind it (POLLHUP); in good order it shuts down its side.
    bool hangup_is_loss = false;
    std::shared_ptr<Entrance> armed_with = {};
  };

  ResumableStream(std::unique_ptr<Stream> first, Settings settings);
  ~ResumableStream() override;

  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes bytes) override;
  std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) override;
  pollfd read_interest() const override { return {poll_.get(), POLLIN, 0}; }
  pollfd write_interest() const override { return {poll_.get(), POLLIN, 0}; }
  bool has_buffered() const override;
  void shutdown_write() override;
  const std::string& name() const override { return name_; }

  const std::shared_ptr<Entrance>& entrance() const { return entrance_; }
  // While `fd` is readable `on_ready` is called by try_read(), and whoever polls the stream is
  // woken. -1: none any more.
  void watch(int fd, std::function<void()> on_ready);
  // False: it waits for another connection.
  bool is_connected() const { return connection_ != nullptr; }
  // How often another connection has taken over, and when the other end was last known to be there
  // by that; of a client.
  std::uint64_t resumptions() const { return resumptions_; }
  Clock::time_point renewed_at() const { return renewed_at_; }
  // All that was written has come there, or nobody is there any more to say so.
  bool is_acknowledged() const { return acknowledged_ == end() || ended_; }
  // The other end is to say so soon.
  void ask_for_acknowledgement();

 private:
  enum class Kind : std::uint32_t { kData = 1, kReceived = 2, kTell = 3 };
  static constexpr std::size_t kHeaderSize = 12;
  using Header = std::array<std::byte, kHeaderSize>;

  static Header encode(Kind kind, std::uint64_t value);
  void take_news();
  void resume(Entrance::Offer offer);
  void adopt(std::unique_ptr<Stream> connection);
  void lose(const Error& why);
  Error closed() const;
  bool was_hung_up() const;
  void ask_again_if_silent();
  std::optional<std::size_t> receive(Bytes bytes);
  bool read_header();
  void take_header();
  void acknowledge(std::uint64_t received);
  void begin_again();
  void forget_acknowledged();
  bool choose_block();
  bool keep(ConstBytes head, ConstBytes body);
  void pump();
  void set_interest(bool blocked);
  void wake_writer();
  std::uint64_t end() const { return begin_ + kept_bytes_; }
  ConstBytes unsent_of_block() const;

  Settings settings_;
  std::shared_ptr<Entrance> entrance_;
  std::string name_;
  UniqueFd poll_;  // an epoll
  std::unique_ptr<Stream> connection_;
  bool waits_for_room_ = false;  // as poll_ knows it
  int watched_ = -1;
  std::function<void()> on_watched_;
  bool ended_ = false;            // in good order
  bool shut_ = false;             // by this end
  std::optional<Error> failure_;  // there will be no other connection
  std::uint64_t resumptions_ = 0;
  Clock::time_point renewed_at_ = Clock::time_point::min();
  Clock::time_point last_heard_ = Clock::now();
  bool asked_ = false;  // for another connection

  // Input.
  Header header_{};
  std::size_t have_header_ = 0;
  std::uint64_t block_left_ = 0;  // of data, to be read
  std::uint64_t received_ = 0;    // of the stream
  std::uint64_t told_ = 0;        // of that, to the other end

  // Output: positions in the stream.
  std::deque<std::vector<std::byte>> kept_;
  std::size_t front_done_ = 0;    // of kept_.front(): is not kept any more
  std::uint64_t begin_ = 0;       // of what is kept
  std::uint64_t kept_bytes_ = 0;  // from there
  std::uint64_t acknowledged_ = 0;
  Clock::time_point waits_since_ = Clock::now();  // for what is not acknowledged
  // By this connection; more may have gone, of an attempt that is not over.
  std::uint64_t sent_ = 0;
  std::size_t accepted_ = 0;      // of an attempt that is to come again
  bool output_lost_ = false;      // this connection takes no more
  bool has_waiter_ = false;       // there was no room for an attempt
  bool awaits_position_ = false;  // of the other end's, on another connection
  bool tell_ = false;             // say `tell`
  bool tell_received_ = false;    // say `received`
  Header out_header_{};
  std::size_t out_header_left_ = 0;
  std::uint64_t out_left_ = 0;  // of the block that goes
};

}  // namespace telefork::net
