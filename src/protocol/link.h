// What connects the two machines of one session: control messages, the records of an image, and
// the raw bytes of its payloads.
//
//     session process                                 keeper
//     Link: control stream  <== frames (frame.h) ==>  Link: control stream
//           bulk stream     ---- raw bytes -------->        bulk stream, or whoever has bulk_fd()
//
// Without a bulk stream (ssh has only one) payload bytes travel as bulk frames of the control
// stream; bulk_sink() and bulk_source() hide the difference.
//
// Guarantees:
//  * Whatever arrives while something else is waited for is kept, in order. It is bounded: an end
//    that sends more than this one can have asked for is kCorrupt.
//  * A `failed` of the other end surfaces as its Error ("node7: ...") from every call that waits,
//    also from one that writes and finds the connection closed: the true reason is looked for
//    first. Records and payloads end with kGone when `abort` arrives.
//  * send() does not wait while the other end is slow: up to kMaxUnsent bytes are kept and go out
//    with the next calls. Nor does it throw when the connection is closed: what the other end said
//    before that is still to be received, and then the loss is told.
//    In a poll loop: poll poll_entries(), then try_receive() until it is empty.
//  * Heartbeats are taken here; last_heard() tells when anything came last.
//  * Where the control connection is a net::ResumableStream its loss is none after
//    outlive_connection(): what waits goes on to wait, and nobody is heard, until there is another
//    one. With it a bulk stream goes: payloads are frames from then on, and where one was under way
//    that is kLost.
//
// Records are gathered in a buffer. Every call that waits, polls or sends lets them go first;
// before another process sends on bulk_fd(), call flush().
//
// The process must ignore SIGPIPE. Owned by one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "image/byte_stream.h"
#include "net/compressed_stream.h"
#include "net/resumable_stream.h"
#include "net/stream.h"
#include "protocol/frame.h"
#include "protocol/message.h"

namespace telefork::protocol {

class Link {
 public:
  using Clock = net::Deadline::Clock;
  static constexpr std::size_t kMaxUnsent = 4 * 1024 * 1024;
  static constexpr std::size_t kMaxUnread = 8 * 1024 * 1024;

  // `node` names the other end in Errors. `bulk` may be null.
  Link(std::string node, std::unique_ptr<net::Stream> control, std::unique_ptr<net::Stream> bulk);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  const std::string& node() const { return node_; }

  void send(const FillMessage& fill);
  void send_heartbeat();
  // The last words: `failed` with this Error, then nothing more is written, and what the other end
  // still sends is thrown away until it has read them and closed, 5 s at most; where the Error is
  // that the other end is lost nobody is waited for. (Closing with unread bytes would reset a TCP
  // connection, and the words would be lost.) Never throws.
  void fail(const Error& error) noexcept;

  // The next message; kLost when the other end closed or the deadline passed.
  ReceivedMessage receive(net::Deadline deadline);
  // As receive(), and kCorrupt when it is another one than `expected`.
  ReceivedMessage expect(schema::Message::Which expected, net::Deadline deadline);
  // As expect(); kLost when nothing at all, heartbeats included, has come for as long as
  // set_patience() says.
  ReceivedMessage expect_while_heard(schema::Message::Which expected);
  // The same of any message.
  ReceivedMessage receive_while_heard();
  // Never waits. Also sends what is left to send. Throws kLost at the end of the connection, once
  // everything that came before was given out.
  std::optional<ReceivedMessage> try_receive();

  // For a poll loop: the control connection, and for writing only while something is unsent.
  // Entries that is_ready_now() knows of are not seen by poll(2): ask it before waiting.
  std::vector<pollfd> poll_entries();
  bool is_ready_now() const;

  // What the connection takes at once; the other end can begin with it.
  void flush_some();
  // Everything that was sent has left this process.
  void flush(net::Deadline deadline);
  // The same; kLost when nothing of it could be sent for as long as set_patience() says.
  void flush();
  Clock::time_point last_heard() const;
  // To be called at both ends.
  void outlive_connection();
  // flush(), and the other end has all of it, where that can be known; or it has closed.
  void flush_to_other_end(net::Deadline deadline);
  // Null where the control connection is none.
  net::ResumableStream* resumable() const { return resumable_; }
  // False: it is lost, and waits for another one.
  bool is_connected() const { return resumable_ == nullptr || resumable_->is_connected(); }
  // The other end has said `failed`.
  bool other_end_failed() const { return failure_.has_value(); }
  // And `abort`, since the last set_discarding().
  bool other_end_aborted() const { return abort_.has_value(); }
  // Records, payloads and expect_while_heard() give up (kLost) after so long without a byte. 60 s
  // unless set.
  void set_patience(std::chrono::milliseconds patience) { patience_ = patience; }
  // Something else that may end a wait: whenever `fd` is readable while records or payloads are
  // sent, or something is waited for, `check` is called, which may throw. -1: nothing any more.
  void set_interrupt(int fd, std::function<void()> check);
  // Messages that may come at any time: expect() and expect_while_heard() pass over those that it
  // takes, which is to return true. It may throw. Empty: none.
  void set_bystander(std::function<bool(const ReceivedMessage&)> bystander) {
    bystander_ = std::move(bystander);
  }

  // Each lives as long as the Link.
  image::ByteSink& record_sink();
  image::ByteSource& record_source();
  image::ByteSink& bulk_sink();
  image::ByteSource& bulk_source();

  bool has_bulk_stream() const { return bulk_ != nullptr; }
  // The raw descriptor of the bulk stream for another process, which then reads or writes the
  // payload bytes itself; -1 when there is none, or when the bytes on it are not the plain ones.
  // Nothing is ever read ahead of it.
  int bulk_fd() const;
  // The bulk connection came later than the control connection (a join).
  void set_bulk(std::unique_ptr<net::Stream> bulk);
  // To be called at both ends of a bulk stream ahead of its first byte. Each end chooses how what
  // it sends is compressed.
  void compress_bulk(net::Compression compression);
  // Bytes that did not have to go since, of those that went this way; negative: more went.
  std::int64_t bulk_bytes_saved() const {
    return compressed_ == nullptr ? 0 : compressed_->saved();
  }
  // Another process has its own copy of bulk_fd() and does the rest, so that its end is the end of
  // the stream. bulk_sink() and bulk_source() may not be used after it.
  void close_bulk();
  // From now on payloads are frames of the control connection. To be called at both ends.
  void do_without_bulk();
  // While `on`, records and payloads that come are forgotten, as are those that nobody has read
  // yet: of an image that is not wanted any more. An `abort` that came with it is forgotten too.
  void set_discarding(bool on);

 private:
  class RecordSink;
  class RecordSource;
  class BulkSink;
  class BulkSource;
  // Bytes of a channel that arrived before anybody asked for them.
  struct Unread {
    std::vector<std::byte> bytes;
    std::size_t begin = 0;
    std::size_t size() const { return bytes.size() - begin; }
    std::size_t take(std::span<std::byte> out);
    void put(std::span<const std::byte> in);
  };

  // Input.
  bool read_once();
  void take_frame(const Frame& frame);
  void take_message(std::span<const std::byte> bytes);
  std::optional<ReceivedMessage> pop_message();
  void throw_if_given_up() const;
  [[noreturn]] void throw_lost();
  // Output.
  void put_frame(Channel channel, std::span<const std::byte> payload);
  void close_record_frame();
  void try_flush();
  ReceivedMessage check(ReceivedMessage message, schema::Message::Which expected);
  void check_interrupt() const;
  void flush_with_patience(std::size_t limit);
  std::size_t unsent() const { return unsent_.size() - unsent_begin_; }
  void write_waiting(net::Stream& stream, std::span<const std::byte> head,
                     std::span<const std::byte> body);
  void write_frame(Channel channel, std::span<const std::byte> payload);
  void write_in_frames(Channel channel, std::span<const std::byte> bytes);
  void prepare_to_write();
  // Until something moved on the control connection, or `extra` is ready.
  void wait(pollfd extra, net::Deadline deadline);

  void write_records(std::span<const std::byte> bytes);
  void read_channel(Unread& unread, std::span<std::byte> bytes);
  void write_bulk(std::span<const std::byte> bytes);
  void read_bulk(std::span<std::byte> bytes);
  bool has_lost_bulk() const;
  void look_at_bulk();
  net::Deadline patience() const { return net::Deadline::in(patience_); }

  std::string node_;
  std::unique_ptr<net::Stream> control_;
  net::ResumableStream* resumable_;  // control_, where it is one
  std::unique_ptr<net::Stream> bulk_;
  bool bulk_begun_ = false;                            // since outlive_connection()
  const net::CompressedStream* compressed_ = nullptr;  // bulk_, where it is one
  bool bulk_elsewhere_ = false;
  FrameDecoder decoder_;
  struct Queued {
    ReceivedMessage message;
    std::size_t size;
  };
  std::deque<Queued> messages_;
  std::size_t message_bytes_ = 0;
  Unread image_;
  Unread bulk_frames_;
  bool input_ended_ = false;
  bool output_closed_ = false;
  std::optional<Error> failure_;  // `failed`: why the other end gave up
  std::optional<Error> abort_;    // `abort`, also among the messages
  std::optional<Error> loss_;     // what the stream itself knows of its end
  std::vector<std::byte> unsent_;
  std::size_t unsent_begin_ = 0;
  std::vector<std::byte> records_;  // not yet a frame
  Clock::time_point last_heard_ = Clock::now();
  std::uint64_t heartbeats_ = 0;
  std::chrono::milliseconds patience_{60'000};
  int interrupt_fd_ = -1;
  std::function<void()> interrupt_;
  std::function<bool(const ReceivedMessage&)> bystander_;
  bool discarding_ = false;
  std::unique_ptr<RecordSink> record_sink_;
  std::unique_ptr<RecordSource> record_source_;
  std::unique_ptr<BulkSink> bulk_sink_;
  std::unique_ptr<BulkSource> bulk_source_;
};

}  // namespace telefork::protocol
