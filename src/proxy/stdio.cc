#include "proxy/stdio.h"

#include <algorithm>
#include <cerrno>
#include <memory>

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "base/error.h"

namespace telefork::proxy {
namespace {

using protocol::schema::Message;

constexpr std::size_t kReadSize = 64 * 1024;
// Credit goes out in such portions: few messages, and never so late that the window runs dry.
constexpr std::size_t kCreditPortion = kStdioWindow / 4;

bool is_ready(std::span<const pollfd> entries, int fd, short events) {
  return std::any_of(entries.begin(), entries.end(), [&](const pollfd& entry) {
    return entry.fd == fd && (entry.events & events) != 0 && entry.revents != 0;
  });
}

}  // namespace

StdioSender::StdioSender(protocol::Link& link, unsigned stream, UniqueFd fd)
    : link_(&link), stream_(stream), fd_(std::move(fd), SharedFd::Direction::kRead) {}

void StdioSender::add_interest(std::vector<pollfd>& entries) const {
  if (fd_ && !paused_ && window_ > 0) entries.push_back({fd_.get(), POLLIN, 0});
}

void StdioSender::on_ready(std::span<const pollfd> entries) {
  if (fd_ && is_ready(entries, fd_.get(), POLLIN)) read_once();
}

void StdioSender::read_once() {
  if (!fd_ || paused_ || window_ == 0) return;
  // Not on the stack, which a program's limit may have made smaller.
  auto buffer = std::make_unique_for_overwrite<std::byte[]>(kReadSize);
  SharedFd::Result result = fd_.try_read({buffer.get(), std::min(kReadSize, window_)});
  // A terminal that hung up says EIO; for the reader that is an end like any other.
  if (result.error != 0 || result.count == 0) return end();
  if (!result.count) {
    if (drain_left_) drain_left_ = 0;
    return;
  }
  std::size_t count = *result.count;
  window_ -= count;
  if (drain_left_) *drain_left_ -= std::min(*drain_left_, count);
  link_->send([&](Message::Builder message) {
    auto data = message.initStdioData();
    data.setStream(stream_);
    data.setData({reinterpret_cast<const kj::byte*>(buffer.get()), count});
  });
}

void StdioSender::end() {
  fd_.reset();
  link_->send([&](Message::Builder message) { message.setStdioEnd(stream_); });
}

void StdioSender::on_credit(std::size_t bytes) {
  if (bytes > kStdioWindow - window_) {
    throw Error(Code::kCorrupt, fmt::format("{}: credit for stream {} that was never sent",
                                            link_->node(), stream_));
  }
  window_ += bytes;
  if (drain_left_) drain();
}

void StdioSender::on_broken() {
  broken_ = true;
  if (fd_) end();
}

void StdioSender::begin_drain() {
  if (!fd_) return;
  paused_ = false;
  int bytes = 0;
  // Pipes, sockets and terminals know it; of anything else one look at what is there will do.
  if (::ioctl(fd_.get(), FIONREAD, &bytes) != 0) bytes = 1;
  drain_left_ = static_cast<std::size_t>(bytes);
  drain();
}

void StdioSender::drain() {
  while (!drained() && window_ > 0) read_once();
  if (fd_ && drained()) end_if_closed();
}

// The reader's end of file is not to come after the status, where nobody is left who could write.
void StdioSender::end_if_closed() {
  pollfd entry{fd_.get(), POLLIN, 0};
  if (::poll(&entry, 1, 0) == 1 && (entry.revents & POLLHUP) && !(entry.revents & POLLIN)) end();
}

StdioReceiver::StdioReceiver(protocol::Link& link, unsigned stream, UniqueFd fd)
    : link_(&link), stream_(stream), fd_(std::move(fd), SharedFd::Direction::kWrite) {}

void StdioReceiver::add_interest(std::vector<pollfd>& entries) const {
  if (fd_ && unwritten() > 0) entries.push_back({fd_.get(), POLLOUT, 0});
}

void StdioReceiver::on_ready(std::span<const pollfd> entries) {
  if (fd_ && is_ready(entries, fd_.get(), POLLOUT)) write_some();
}

void StdioReceiver::on_data(std::span<const std::byte> bytes) {
  if (end_seen_ || unwritten() + uncredited_ + bytes.size() > kStdioWindow) {
    throw Error(Code::kCorrupt,
                fmt::format("{}: more bytes of stream {} than allowed", link_->node(), stream_));
  }
  // What was under way when the stream broke.
  if (!fd_) return;
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(begin_));
  begin_ = 0;
  queue_.insert(queue_.end(), bytes.begin(), bytes.end());
  write_some();
}

void StdioReceiver::on_end() {
  end_seen_ = true;
  close_if_done();
}

void StdioReceiver::write_some() {
  while (unwritten() > 0) {
    SharedFd::Result result = fd_.try_write(std::span(queue_).subspan(begin_));
    if (result.error == EPIPE) return break_off();
    if (result.error != 0) {
      throw_away(result.error);
      break;
    }
    if (!result.count) return;
    begin_ += *result.count;
    give_credit(*result.count);
  }
  queue_.clear();
  begin_ = 0;
  close_if_done();
}

void StdioReceiver::give_credit(std::size_t bytes) {
  uncredited_ += bytes;
  if (uncredited_ < kCreditPortion) return;
  link_->send([&](Message::Builder message) {
    auto credit = message.initStdioCredit();
    credit.setStream(stream_);
    credit.setBytes(static_cast<std::uint32_t>(uncredited_));
  });
  uncredited_ = 0;
}

void StdioReceiver::throw_away(int error) {
  const bool is_gone = error == EIO && fd_.is_character_device();
  if (loss_ == 0 && !is_gone) loss_ = error;
  const std::size_t bytes = unwritten();
  begin_ = queue_.size();
  give_credit(bytes);
}

void StdioReceiver::break_off() {
  fd_.reset();
  queue_.clear();
  begin_ = 0;
  link_->send([&](Message::Builder message) {
    auto broken = message.initStdioBroken();
    broken.setStream(stream_);
    broken.setErrno(EPIPE);
  });
}

void StdioReceiver::close_if_done() {
  if (end_seen_ && unwritten() == 0) fd_.reset();
}

}  // namespace telefork::proxy
