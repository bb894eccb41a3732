#include "protocol/link.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "net/fd_stream.h"

namespace telefork::protocol {
namespace {

using net::Deadline;

// Records are gathered up to this; what is longer goes out uncopied.
constexpr std::size_t kGather = 64 * 1024;
// How long a closed connection is searched for the reason.
constexpr std::chrono::seconds kReasonPatience(5);  // for last words
constexpr pollfd kNothing{-1, 0, 0};

// How long a wait may go on before it looks whether the connection is as good as lost.
Deadline next_look(const net::ResumableStream* control, Deadline deadline) {
  constexpr std::chrono::milliseconds kLook(1000);
  if (control == nullptr || !control->entrance()->is_armed()) return deadline;
  const int left = deadline.poll_timeout();
  return left < 0 || left > kLook.count() ? Deadline::in(kLook) : deadline;
}

}  // namespace

class Link::RecordSink final : public image::ByteSink {
 public:
  explicit RecordSink(Link& link) : link_(link) {}
  void write(std::span<const std::byte> bytes) override { link_.write_records(bytes); }

 private:
  Link& link_;
};

class Link::RecordSource final : public image::ByteSource {
 public:
  explicit RecordSource(Link& link) : link_(link) {}
  void read(std::span<std::byte> bytes) override { link_.read_channel(link_.image_, bytes); }

 private:
  Link& link_;
};

class Link::BulkSink final : public image::ByteSink {
 public:
  explicit BulkSink(Link& link) : link_(link) {}
  void write(std::span<const std::byte> bytes) override { link_.write_bulk(bytes); }

 private:
  Link& link_;
};

class Link::BulkSource final : public image::ByteSource {
 public:
  explicit BulkSource(Link& link) : link_(link) {}
  void read(std::span<std::byte> bytes) override { link_.read_bulk(bytes); }

 private:
  Link& link_;
};

std::size_t Link::Unread::take(std::span<std::byte> out) {
  std::size_t count = std::min(out.size(), size());
  if (count == 0) return 0;
  std::memcpy(out.data(), bytes.data() + begin, count);
  begin += count;
  if (begin == bytes.size()) {
    bytes.clear();
    begin = 0;
  }
  return count;
}

void Link::Unread::put(std::span<const std::byte> in) {
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(begin));
  begin = 0;
  bytes.insert(bytes.end(), in.begin(), in.end());
}

Link::Link(std::string node, std::unique_ptr<net::Stream> control,
           std::unique_ptr<net::Stream> bulk)
    : node_(std::move(node)),
      control_(std::move(control)),
      resumable_(dynamic_cast<net::ResumableStream*>(control_.get())),
      bulk_(std::move(bulk)),
      record_sink_(std::make_unique<RecordSink>(*this)),
      record_source_(std::make_unique<RecordSource>(*this)),
      bulk_sink_(std::make_unique<BulkSink>(*this)),
      bulk_source_(std::make_unique<BulkSource>(*this)) {
  if (bulk_fd() >= 0) net::widen_send_buffer(bulk_fd());
}

// Where the end is not in good order the other one waits for another connection.
Link::~Link() {
  if (resumable_ == nullptr) return;
  try {
    resumable_->shutdown_write();
  } catch (const std::exception&) {
    // It hears the end of the lease.
  }
}

image::ByteSink& Link::record_sink() { return *record_sink_; }
image::ByteSource& Link::record_source() { return *record_source_; }
image::ByteSink& Link::bulk_sink() { return *bulk_sink_; }
image::ByteSource& Link::bulk_source() { return *bulk_source_; }

int Link::bulk_fd() const {
  const auto* plain = dynamic_cast<const net::FdStream*>(bulk_.get());
  return plain == nullptr ? -1 : plain->fd();
}

void Link::set_bulk(std::unique_ptr<net::Stream> bulk) {
  TELEFORK_ASSERT(!bulk_ && !bulk_elsewhere_);
  bulk_ = std::move(bulk);
  if (bulk_fd() >= 0) net::widen_send_buffer(bulk_fd());
}

void Link::compress_bulk(net::Compression compression) {
  TELEFORK_ASSERT(bulk_ && compressed_ == nullptr);
  auto compressed = std::make_unique<net::CompressedStream>(std::move(bulk_), compression);
  compressed_ = compressed.get();
  bulk_ = std::move(compressed);
}

void Link::close_bulk() {
  do_without_bulk();
  bulk_elsewhere_ = true;
}

void Link::do_without_bulk() {
  compressed_ = nullptr;
  bulk_.reset();
  bulk_elsewhere_ = false;
  bulk_begun_ = false;
}

Link::Clock::time_point Link::last_heard() const {
  return resumable_ == nullptr ? last_heard_ : std::max(last_heard_, resumable_->renewed_at());
}

void Link::outlive_connection() {
  if (resumable_ == nullptr) return;
  resumable_->entrance()->arm();
  bulk_begun_ = false;
}

bool Link::has_lost_bulk() const {
  return bulk_ && resumable_ != nullptr && resumable_->resumptions() > 0;
}

// The other end finds the same.
void Link::look_at_bulk() {
  if (!has_lost_bulk()) return;
  if (bulk_begun_) throw Error(Code::kLost, node_ + ": the bulk connection was lost");
  do_without_bulk();
}

void Link::set_discarding(bool on) {
  discarding_ = on;
  image_ = {};
  bulk_frames_ = {};
  abort_.reset();
}

// ---- Input ----

// One read of the control connection; whether anything came, the end included.
bool Link::read_once() {
  if (bulk_begun_) look_at_bulk();
  if (input_ended_) return false;
  std::optional<std::size_t> count;
  try {
    count = control_->try_read(decoder_.begin_receive());
  } catch (const Error& error) {
    // ECONNRESET comes after everything that had arrived was read, so it is an end like any other.
    if (error.code() != Code::kLost) throw;
    if (error.error() == 0) loss_ = error;
    count = 0;
  }
  if (!count) return false;
  if (*count == 0) {
    input_ended_ = true;
    return true;
  }
  last_heard_ = Clock::now();
  decoder_.end_receive(*count);
  with_context(node_, [&] {
    while (std::optional<Frame> frame = decoder_.next()) take_frame(*frame);
  });
  return true;
}

void Link::take_frame(const Frame& frame) {
  switch (frame.channel) {
    case Channel::kControl:
      take_message(frame.payload);
      break;
    case Channel::kImage:
      if (!discarding_) image_.put(frame.payload);
      break;
    case Channel::kBulk:
      if (!discarding_) bulk_frames_.put(frame.payload);
      break;
  }
  if (message_bytes_ + image_.size() + bulk_frames_.size() > kMaxUnread) {
    throw Error(Code::kCorrupt, "the other end sends more than anybody here asked for");
  }
}

void Link::take_message(std::span<const std::byte> bytes) {
  ReceivedMessage message(bytes);
  switch (message->which()) {
    case schema::Message::HEARTBEAT:
      return;
    case schema::Message::FAILED:
      if (!failure_) failure_ = decode_failure(message->getFailed(), node_);
      return;
    case schema::Message::ABORT:
      abort_ = Error(Code::kGone, fmt::format("{} gave up: {}", node_, message->getAbort().cStr()));
      break;
    case schema::Message::FINISHED:
      // So that the other end need not wait for another connection to hear that this has come.
      if (resumable_ != nullptr) resumable_->shutdown_write();
      break;
    default:
      break;
  }
  message_bytes_ += bytes.size();
  messages_.push_back({std::move(message), bytes.size()});
}

std::optional<ReceivedMessage> Link::pop_message() {
  if (messages_.empty()) return std::nullopt;
  Queued first = std::move(messages_.front());
  messages_.pop_front();
  message_bytes_ -= first.size;
  return std::move(first.message);
}

void Link::throw_if_given_up() const {
  if (failure_) throw *failure_;
  if (abort_) throw *abort_;
}

// A stream of ours was closed over there. The reason may still be on its way.
void Link::throw_lost() {
  Deadline deadline = Deadline::in(kReasonPatience);
  while (!input_ended_ && !failure_ && !abort_ && !deadline.passed()) {
    if (read_once()) continue;
    pollfd entry = control_->read_interest();
    if (net::poll_until({&entry, 1}, deadline) == 0) break;
  }
  throw_if_given_up();
  if (loss_) throw Error(*loss_);
  throw Error(Code::kLost, node_ + ": the other end closed the connection");
}

std::optional<ReceivedMessage> Link::try_receive() {
  close_record_frame();
  try_flush();
  while (true) {
    if (std::optional<ReceivedMessage> message = pop_message()) return message;
    if (failure_) throw *failure_;
    if (input_ended_) throw_lost();
    if (!read_once()) return std::nullopt;
  }
}

ReceivedMessage Link::receive(Deadline deadline) {
  while (true) {
    if (std::optional<ReceivedMessage> message = try_receive()) return std::move(*message);
    wait(kNothing, deadline);
  }
}

ReceivedMessage Link::expect(schema::Message::Which expected, Deadline deadline) {
  while (true) {
    ReceivedMessage message = receive(deadline);
    if (!bystander_ || !bystander_(message)) return check(std::move(message), expected);
  }
}

ReceivedMessage Link::expect_while_heard(schema::Message::Which expected) {
  while (true) {
    ReceivedMessage message = receive_while_heard();
    if (!bystander_ || !bystander_(message)) return check(std::move(message), expected);
  }
}

ReceivedMessage Link::receive_while_heard() {
  const Clock::time_point began = Clock::now();
  while (true) {
    if (std::optional<ReceivedMessage> message = try_receive()) return std::move(*message);
    wait(kNothing, Deadline::at(std::max(began, last_heard()) + patience_));
  }
}

ReceivedMessage Link::check(ReceivedMessage message, schema::Message::Which expected) {
  if (message->which() == expected) return message;
  if (message->isAbort()) throw_if_given_up();
  with_context(node_, [&] { throw_unexpected(message, message_name(expected)); });
  return message;
}

std::vector<pollfd> Link::poll_entries() {
  close_record_frame();
  try_flush();
  std::vector<pollfd> entries;
  if (!input_ended_) entries.push_back(control_->read_interest());
  if (unsent() > 0) entries.push_back(control_->write_interest());
  return entries;
}

bool Link::is_ready_now() const {
  return !messages_.empty() || failure_ || input_ended_ || control_->has_buffered();
}

void Link::read_channel(Unread& unread, std::span<std::byte> bytes) {
  while (true) {
    bytes = bytes.subspan(unread.take(bytes));
    if (bytes.empty()) return;
    throw_if_given_up();
    if (input_ended_) throw_lost();
    if (!read_once()) wait(kNothing, patience());
  }
}

void Link::read_bulk(std::span<std::byte> bytes) {
  TELEFORK_ASSERT(!bulk_elsewhere_);
  look_at_bulk();
  if (!bulk_) return read_channel(bulk_frames_, bytes);
  bulk_begun_ = true;
  while (!bytes.empty()) {
    throw_if_given_up();
    std::optional<std::size_t> count = bulk_->try_read(bytes);
    if (!count) {
      if (input_ended_) throw_lost();
      wait(bulk_->read_interest(), patience());
      continue;
    }
    if (*count == 0) throw_lost();
    last_heard_ = Clock::now();
    bytes = bytes.subspan(*count);
  }
}

// ---- Output ----

void Link::wait(pollfd extra, Deadline deadline) {
  close_record_frame();
  try_flush();
  if (read_once()) return;
  pollfd entries[] = {extra, kNothing, kNothing, {interrupt_fd_, POLLIN, 0}};
  if (!input_ended_) entries[1] = control_->read_interest();
  if (unsent() > 0) entries[2] = control_->write_interest();
  while (net::poll_until(entries, next_look(resumable_, deadline)) == 0) {
    if (deadline.passed()) {
      throw Error(Code::kLost, node_ + ": it does not answer any more: waiting for the other end",
                  ETIMEDOUT);
    }
    // That nothing comes no event tells, and another connection may have to be asked for.
    if (read_once()) return;
  }
  if (entries[3].revents != 0) interrupt_();
}

void Link::set_interrupt(int fd, std::function<void()> check) {
  interrupt_fd_ = fd;
  interrupt_ = std::move(check);
}

void Link::check_interrupt() const {
  pollfd entry{interrupt_fd_, POLLIN, 0};
  if (interrupt_fd_ >= 0 && ::poll(&entry, 1, 0) > 0) interrupt_();
}

void Link::try_flush() {
  while (unsent() > 0) {
    std::optional<std::size_t> count;
    try {
      count = control_->try_write(std::span(unsent_).subspan(unsent_begin_), {});
    } catch (const Error& error) {
      if (error.code() != Code::kLost) throw;
      output_closed_ = true;
      count = unsent();
    }
    if (!count) return;
    unsent_begin_ += *count;
  }
  unsent_.clear();
  unsent_begin_ = 0;
}

void Link::flush_with_patience(std::size_t limit) {
  try_flush();
  while (unsent() > limit) {
    throw_if_given_up();
    wait(control_->write_interest(), patience());
    try_flush();
  }
}

void Link::flush_some() {
  close_record_frame();
  try_flush();
}

void Link::flush() {
  close_record_frame();
  flush_with_patience(0);
  if (output_closed_) throw_lost();
}

void Link::flush(Deadline deadline) {
  close_record_frame();
  try_flush();
  while (unsent() > 0) wait(control_->write_interest(), deadline);
  if (output_closed_) throw_lost();
}

void Link::flush_to_other_end(Deadline deadline) {
  flush(deadline);
  if (resumable_ == nullptr) return;
  resumable_->ask_for_acknowledgement();
  while (!resumable_->is_acknowledged() && !input_ended_) wait(kNothing, deadline);
}

void Link::write_waiting(net::Stream& stream, std::span<const std::byte> head,
                         std::span<const std::byte> body) {
  while (!head.empty() || !body.empty()) {
    throw_if_given_up();
    std::optional<std::size_t> count;
    try {
      count = stream.try_write(head, body);
    } catch (const Error& error) {
      if (error.code() != Code::kLost) throw;
      throw_lost();
    }
    if (!count) {
      if (input_ended_) throw_lost();
      wait(stream.write_interest(), patience());
      continue;
    }
    std::size_t of_head = std::min(*count, head.size());
    head = head.subspan(of_head);
    body = body.subspan(*count - of_head);
  }
}

void Link::write_frame(Channel channel, std::span<const std::byte> payload) {
  auto header = encode_frame_header(channel, payload.size());
  try {
    write_waiting(*control_, header, payload);
  } catch (const Error&) {
    // A part of the frame may be out; whatever followed would be taken for the rest of it.
    output_closed_ = true;
    throw;
  }
}

void Link::write_in_frames(Channel channel, std::span<const std::byte> bytes) {
  // Where there is one stream a message waits for one such frame at most.
  std::size_t longest = bulk_ || bulk_elsewhere_ ? max_frame(channel) : kMaxBulkFrame;
  while (!bytes.empty()) {
    auto piece = bytes.first(std::min(bytes.size(), longest));
    write_frame(channel, piece);
    bytes = bytes.subspan(piece.size());
  }
}

void Link::put_frame(Channel channel, std::span<const std::byte> payload) {
  auto header = encode_frame_header(channel, payload.size());
  if (output_closed_) return;
  if (unsent_begin_ > kGather) {
    unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(unsent_begin_));
    unsent_begin_ = 0;
  }
  unsent_.insert(unsent_.end(), header.begin(), header.end());
  unsent_.insert(unsent_.end(), payload.begin(), payload.end());
}

void Link::close_record_frame() {
  if (records_.empty()) return;
  put_frame(Channel::kImage, records_);
  records_.clear();
}

void Link::send(const FillMessage& fill) {
  std::vector<std::byte> bytes = encode_message(fill);
  if (bytes.size() > max_frame(Channel::kControl)) {
    throw Error(Code::kResources, fmt::format("a message of {} bytes is too long", bytes.size()));
  }
  close_record_frame();
  put_frame(Channel::kControl, bytes);
  flush_with_patience(kMaxUnsent);
}

void Link::send_heartbeat() {
  send([&](schema::Message::Builder message) { message.setHeartbeat(++heartbeats_); });
}

void Link::fail(const Error& error) noexcept {
  Deadline deadline = error.code() == Code::kLost ? Deadline::now() : Deadline::in(kReasonPatience);
  try {
    close_record_frame();
    put_frame(Channel::kControl, encode_message([&](schema::Message::Builder message) {
                encode_failure(error, message.initFailed());
              }));
    flush(deadline);
    control_->shutdown_write();
    close_bulk();
    std::vector<std::byte> discarded(kGather);
    while (control_->read_some(discarded, deadline) > 0) {
    }
  } catch (const std::exception&) {
    // The other end is gone, or does not listen: it will find the connection closed.
  }
}

void Link::prepare_to_write() {
  // Also when there is always room: the other end may be throwing everything away since it failed.
  read_once();
  throw_if_given_up();
  check_interrupt();
  close_record_frame();
  flush_with_patience(0);
  if (output_closed_) throw_lost();
}

void Link::write_records(std::span<const std::byte> bytes) {
  if (records_.size() + bytes.size() < kGather) {
    records_.insert(records_.end(), bytes.begin(), bytes.end());
    return;
  }
  prepare_to_write();
  write_in_frames(Channel::kImage, bytes);
}

void Link::write_bulk(std::span<const std::byte> bytes) {
  TELEFORK_ASSERT(!bulk_elsewhere_);
  // The record that announces the payload must not wait behind it; prepare_to_write() sends it.
  prepare_to_write();
  look_at_bulk();
  if (!bulk_) return write_in_frames(Channel::kBulk, bytes);
  bulk_begun_ = true;
  write_waiting(*bulk_, bytes, {});
}

}  // namespace telefork::protocol
