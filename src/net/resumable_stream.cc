#include "net/resumable_stream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

namespace telefork::net {
namespace {

// After so many bytes the other end is told that they have come.
constexpr std::uint64_t kTellAfter = 64 * 1024;

template <class T>
T get_number(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

}  // namespace

// ---- The entrance ----

ResumableStream::Entrance::Entrance(std::shared_ptr<Entrance> armed_with)
    : news_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), armed_with_(std::move(armed_with)) {
  if (!news_) throw_errno("making an eventfd");
}

std::unique_ptr<Stream> ResumableStream::Entrance::put(Offer offer) {
  std::lock_guard lock(mutex_);
  if (closed_) return std::move(offer.connection);
  offer_ = std::move(offer);
  ::eventfd_write(news_.get(), 1);
  return nullptr;
}

void ResumableStream::Entrance::offer(std::unique_ptr<Stream> connection, std::uint64_t received) {
  put({std::move(connection), received, {}, Clock::now()});
}

std::unique_ptr<Stream> ResumableStream::Entrance::offer(std::unique_ptr<Stream> connection,
                                                         Greet greet) {
  return put({std::move(connection), 0, std::move(greet), Clock::now()});
}

void ResumableStream::Entrance::refuse(const Error& why) {
  std::lock_guard lock(mutex_);
  refusal_ = why;
  refusal_->set_code(Code::kLost);
  ::eventfd_write(news_.get(), 1);
}

// ---- Connections ----

ResumableStream::ResumableStream(std::unique_ptr<Stream> first, Settings settings)
    : settings_(std::move(settings)),
      entrance_(std::make_shared<Entrance>(settings_.armed_with)),
      name_(first->name()),
      poll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!poll_) throw_errno("making an epoll");
  epoll_event event{EPOLLIN, {}};
  if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, entrance_->news_.get(), &event) != 0) {
    throw_errno("watching for connections");
  }
  adopt(std::move(first));
}

ResumableStream::~ResumableStream() {
  std::lock_guard lock(entrance_->mutex_);
  entrance_->closed_ = true;
  entrance_->offer_.reset();
}

void ResumableStream::adopt(std::unique_ptr<Stream> connection) {
  TELEFORK_ASSERT(!connection_ &&
                  connection->read_interest().fd == connection->write_interest().fd);
  connection_ = std::move(connection);
  waits_for_room_ = false;
  epoll_event event{EPOLLIN, {}};
  if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, connection_->poll_fd(), &event) != 0) {
    throw_errno("watching a connection");
  }
  last_heard_ = Clock::now();
  waits_since_ = last_heard_;
  asked_ = false;
}

void ResumableStream::set_interest(bool blocked) {
  if (!connection_ || blocked == waits_for_room_) return;
  epoll_event event{EPOLLIN | (blocked ? std::uint32_t{EPOLLOUT} : 0U), {}};
  if (::epoll_ctl(poll_.get(), EPOLL_CTL_MOD, connection_->poll_fd(), &event) != 0) {
    throw_errno("watching a connection");
  }
  waits_for_room_ = blocked;
}

void ResumableStream::watch(int fd, std::function<void()> on_ready) {
  epoll_event event{EPOLLIN, {}};
  if (watched_ >= 0) ::epoll_ctl(poll_.get(), EPOLL_CTL_DEL, watched_, nullptr);
  watched_ = fd;
  on_watched_ = std::move(on_ready);
  if (fd >= 0 && ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    throw_errno("watching for connections");
  }
}

void ResumableStream::take_news() {
  if (watched_ >= 0) {
    pollfd entry{watched_, POLLIN, 0};
    if (::poll(&entry, 1, 0) > 0) {
      const std::function<void()> on_ready = on_watched_;  // it may be its last time
      on_ready();
    }
  }
  eventfd_t count = 0;
  if (::eventfd_read(entrance_->news_.get(), &count) != 0) return;
  std::optional<Entrance::Offer> offer;
  {
    std::lock_guard lock(entrance_->mutex_);
    offer = std::exchange(entrance_->offer_, std::nullopt);
    if (entrance_->refusal_) failure_ = entrance_->refusal_;
  }
  if (offer && !failure_ && !ended_ && !shut_) resume(std::move(*offer));
}

void ResumableStream::resume(Entrance::Offer offer) {
  const bool is_client = settings_.role == Role::kClient;
  if (!is_client) {
    try {
      offer.greet(*offer.connection, received_);
    } catch (const Error&) {
      return;  // Whoever came by it is gone already.
    }
  }
  if (connection_) {
    ::epoll_ctl(poll_.get(), EPOLL_CTL_DEL, connection_->poll_fd(), nullptr);
    connection_.reset();
  }
  have_header_ = 0;
  block_left_ = 0;
  out_header_left_ = 0;
  out_left_ = 0;
  output_lost_ = false;
  adopt(std::move(offer.connection));
  ++resumptions_;
  if (is_client) {
    renewed_at_ = offer.since;
    acknowledge(offer.received);
    begin_again();
    tell_received_ = true;
  } else {
    told_ = received_;
    awaits_position_ = true;
  }
  pump();
  if (settings_.on_resumed) settings_.on_resumed();
}

// Throws where that is not to be mended.
void ResumableStream::lose(const Error& why) {
  ::epoll_ctl(poll_.get(), EPOLL_CTL_DEL, connection_->poll_fd(), nullptr);
  connection_.reset();
  if (!entrance_->is_armed() || shut_) failure_ = why;
  if (failure_) throw Error(*failure_);
  asked_ = true;
  if (settings_.on_loss) settings_.on_loss();
}

bool ResumableStream::was_hung_up() const {
  if (!settings_.hangup_is_loss || shut_) return false;
  pollfd entry{connection_->poll_fd(), 0, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & POLLHUP) != 0;
}

// It may be as good as lost, and nobody be told: what is on its way nowhere comes back.
void ResumableStream::ask_again_if_silent() {
  if (!settings_.patience || !settings_.on_loss || asked_ || !entrance_->is_armed()) return;
  const Clock::time_point now = Clock::now();
  const bool is_heard = acknowledged_ == end() || now - waits_since_ < *settings_.patience;
  if (is_heard && now - last_heard_ < *settings_.patience) return;
  asked_ = true;
  settings_.on_loss();
}

// ---- Input ----

bool ResumableStream::has_buffered() const { return connection_ && connection_->has_buffered(); }

std::optional<std::size_t> ResumableStream::try_read(Bytes bytes) {
  if (bytes.empty()) return 0;
  take_news();
  pump();
  for (;;) {
    if (ended_) return 0;
    if (!connection_) {
      if (failure_) throw Error(*failure_);
      return std::nullopt;
    }
    if (block_left_ == 0) {
      if (read_header()) {
        take_header();
      } else if (connection_ && !ended_) {
        ask_again_if_silent();
        return std::nullopt;
      }
      continue;
    }
    std::optional<std::size_t> count =
        receive(bytes.first(std::min<std::uint64_t>(bytes.size(), block_left_)));
    if (!count && connection_) {
      ask_again_if_silent();
      return std::nullopt;
    }
    if (count == std::size_t{0}) lose(closed());
    if (!connection_) continue;
    block_left_ -= *count;
    received_ += *count;
    if (received_ - told_ >= kTellAfter) {
      tell_received_ = true;
      pump();
    }
    return count;
  }
}

Error ResumableStream::closed() const {
  return {Code::kLost, name_ + ": the other end closed the connection"};
}

// Whatever is wrong with the connection, there may be a better one.
std::optional<std::size_t> ResumableStream::receive(Bytes bytes) {
  std::optional<std::size_t> count;
  try {
    count = connection_->try_read(bytes);
  } catch (const Error& error) {
    lose(error);
  }
  if (count.value_or(0) > 0) last_heard_ = Clock::now();
  return count;
}

// False: it is not all there.
bool ResumableStream::read_header() {
  while (have_header_ < kHeaderSize) {
    std::optional<std::size_t> count = receive(std::span(header_).subspan(have_header_));
    if (!count) return false;
    if (*count == 0) {
      ended_ = have_header_ == 0 && !was_hung_up();
      if (!ended_) lose(closed());
      return false;
    }
    have_header_ += *count;
  }
  have_header_ = 0;
  return true;
}

void ResumableStream::take_header() {
  const auto kind = get_number<std::uint32_t>(header_.data());
  const auto value = get_number<std::uint64_t>(header_.data() + sizeof(kind));
  switch (static_cast<Kind>(kind)) {
    case Kind::kData:
      if (value == 0 || value > kMaxBlock) break;
      block_left_ = value;
      return;
    case Kind::kReceived:
      acknowledge(value);
      if (std::exchange(awaits_position_, false)) begin_again();
      pump();
      return;
    case Kind::kTell:
      tell_received_ = true;
      pump();
      return;
  }
  throw Error(Code::kCorrupt,
              fmt::format("{}: a block of kind {} and {} bytes", name_, kind, value));
}

// The other end has all of the stream up to there.
void ResumableStream::acknowledge(std::uint64_t received) {
  if (received < acknowledged_ || received > end()) {
    throw Error(Code::kCorrupt, fmt::format("{}: it has received {} bytes of {} to {}", name_,
                                            received, acknowledged_, end()));
  }
  if (received > acknowledged_) waits_since_ = Clock::now();
  acknowledged_ = received;
  forget_acknowledged();
  wake_writer();
}

// By another connection, with what the other end does not have.
void ResumableStream::begin_again() {
  sent_ = acknowledged_;
  forget_acknowledged();
}

// An attempt that is not over is to come again with the same bytes, though some of them may have
// arrived.
void ResumableStream::forget_acknowledged() {
  std::uint64_t done = std::max(std::min(acknowledged_, sent_), begin_) - begin_;
  begin_ += done;
  kept_bytes_ -= done;
  while (done > 0) {
    const std::size_t of_front = std::min<std::uint64_t>(done, kept_.front().size() - front_done_);
    front_done_ += of_front;
    done -= of_front;
    if (front_done_ < kept_.front().size()) break;
    kept_.pop_front();
    front_done_ = 0;
  }
}

// ---- Output ----

ResumableStream::Header ResumableStream::encode(Kind kind, std::uint64_t value) {
  Header header;
  const auto number = static_cast<std::uint32_t>(kind);
  std::memcpy(header.data(), &number, sizeof(number));
  std::memcpy(header.data() + sizeof(number), &value, sizeof(value));
  return header;
}

// What is kept from sent_ on, as far as it lies in one piece.
Stream::ConstBytes ResumableStream::unsent_of_block() const {
  std::uint64_t skip = sent_ - begin_ + front_done_;
  for (const std::vector<std::byte>& piece : kept_) {
    if (skip < piece.size()) return std::span(piece).subspan(skip);
    skip -= piece.size();
  }
  return {};
}

// Whether anything is to be sent.
bool ResumableStream::choose_block() {
  if (out_header_left_ > 0 || out_left_ > 0) return true;
  if (awaits_position_) return false;
  const bool has_data = sent_ < end();
  if (tell_received_ || (has_data && told_ != received_)) {
    tell_received_ = false;
    told_ = received_;
    out_header_ = encode(Kind::kReceived, received_);
  } else if (has_data) {
    out_left_ = unsent_of_block().size();
    out_header_ = encode(Kind::kData, out_left_);
  } else if (std::exchange(tell_, false)) {
    out_header_ = encode(Kind::kTell, 0);
  } else {
    return false;
  }
  out_header_left_ = kHeaderSize;
  return true;
}

// What the other end has said before is still to be read where the connection takes no more.
void ResumableStream::pump() {
  bool blocked = false;
  while (connection_ && !shut_ && !output_lost_ && choose_block()) {
    ConstBytes head = std::span(out_header_).last(out_header_left_);
    ConstBytes body = out_left_ == 0 ? ConstBytes() : unsent_of_block().first(out_left_);
    std::optional<std::size_t> count;
    try {
      count = connection_->try_write(head, body);
    } catch (const Error& error) {
      if (error.code() != Code::kLost && !entrance_->is_armed()) throw;
      output_lost_ = true;
      break;
    }
    blocked = !count;
    if (blocked) break;
    const std::size_t of_head = std::min(*count, out_header_left_);
    out_header_left_ -= of_head;
    out_left_ -= *count - of_head;
    sent_ += *count - of_head;
    forget_acknowledged();
  }
  set_interest(blocked);
  wake_writer();
}

// Who waits for room polls the descriptor, of which a call to read has taken the reason to wake.
void ResumableStream::wake_writer() {
  const bool has_room = accepted_ > 0 || kept_bytes_ < kMaxUnacknowledged;
  if (!has_waiter_ || !connection_ || !has_room || sent_ < end()) return;
  has_waiter_ = false;
  ::eventfd_write(entrance_->news_.get(), 1);
}

bool ResumableStream::keep(ConstBytes head, ConstBytes body) {
  const std::size_t room = std::min<std::size_t>(kMaxUnacknowledged - kept_bytes_, kMaxBlock);
  if (room == 0) return false;
  head = head.first(std::min(head.size(), room));
  body = body.first(std::min(body.size(), room - head.size()));
  if (acknowledged_ == end()) waits_since_ = Clock::now();
  std::vector<std::byte>& piece = kept_.emplace_back();
  piece.reserve(head.size() + body.size());
  piece.insert(piece.end(), head.begin(), head.end());
  piece.insert(piece.end(), body.begin(), body.end());
  kept_bytes_ += piece.size();
  accepted_ = piece.size();
  return true;
}

std::optional<std::size_t> ResumableStream::try_write(ConstBytes head, ConstBytes body) {
  if (head.empty() && body.empty()) return 0;
  take_news();
  has_waiter_ = false;
  const bool has_room = accepted_ > 0 || keep(head, body);
  pump();
  if (!connection_ && failure_) throw Error(*failure_);
  if (shut_ || (output_lost_ && (ended_ || !entrance_->is_armed()))) throw_closed();
  has_waiter_ = !has_room || !connection_ || sent_ < end();
  if (has_waiter_) return std::nullopt;
  return std::exchange(accepted_, 0);
}

void ResumableStream::ask_for_acknowledgement() {
  tell_ = true;
  pump();
}

void ResumableStream::shutdown_write() {
  pump();
  shut_ = true;
  if (connection_) connection_->shutdown_write();
}

}  // namespace telefork::net
