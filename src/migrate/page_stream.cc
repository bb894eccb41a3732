#include "migrate/page_stream.h"

#include <algorithm>

#include "base/error.h"
#include "base/remote_ptr.h"

namespace telefork::migrate {

using protocol::PageMessage;

void PageStream::send(const PageMessage& message, std::span<const std::byte> pages) {
  TELEFORK_ASSERT((message.kind == PageMessage::Kind::kPages) == !pages.empty());
  const auto header = protocol::encode_page_message(message);
  unsent_.push_back({header, pages, -1, header.size() + pages.size(), 0});
  flush_some();
}

void PageStream::send_from(int pipe, const PageMessage& message) {
  TELEFORK_ASSERT(message.kind == PageMessage::Kind::kPages);
  const auto header = protocol::encode_page_message(message);
  unsent_.push_back({header, {}, pipe, header.size() + message.count * kPageSize, 0});
  flush_some();
}

void PageStream::flush_some() {
  while (!unsent_.empty()) {
    Unsent& next = unsent_.front();
    auto header = std::span<const std::byte>(next.header);
    header = header.subspan(std::min(next.done, header.size()));
    std::optional<std::size_t> sent;
    if (next.pipe >= 0 && header.empty()) {
      sent = stream_->try_splice(next.pipe, next.size - next.done);
      if (sent == 0) throw Error(Code::kGone, "who had the memory has ended");
    } else {
      const std::size_t of_pages = next.done - std::min(next.done, next.header.size());
      sent = stream_->try_write(header, next.pages.subspan(of_pages));
    }
    if (!sent) return;
    next.done += *sent;
    if (next.done == next.size) unsent_.pop_front();
  }
}

bool PageStream::fill(std::span<std::byte> buffer, std::size_t& have) {
  while (have < buffer.size()) {
    std::optional<std::size_t> got = stream_->try_read(buffer.subspan(have));
    if (!got) return false;
    if (*got == 0) stream_->throw_closed();
    have += *got;
  }
  return true;
}

std::optional<PageStream::Received> PageStream::try_receive() {
  if (!fill(header_, have_header_)) return std::nullopt;
  const PageMessage message = protocol::decode_page_message(header_);
  std::size_t size = 0;
  if (message.kind == PageMessage::Kind::kPages) size = message.count * kPageSize;
  if (pages_.size() < size) pages_.resize(protocol::kMaxPagesInMessage * kPageSize);
  const std::span<std::byte> pages = std::span(pages_).first(size);
  if (!fill(pages, have_pages_)) return std::nullopt;
  have_header_ = 0;
  have_pages_ = 0;
  return Received{message, pages};
}

std::vector<pollfd> PageStream::poll_entries() const {
  std::vector<pollfd> entries = {stream_->read_interest()};
  if (unsent_.empty()) return entries;
  const Unsent& next = unsent_.front();
  // Where the pipe is empty the connection may well have room.
  pollfd filled{next.pipe, POLLIN, 0};
  const bool waits_for_pipe = next.pipe >= 0 && next.done >= next.header.size() &&
                              net::poll_until({&filled, 1}, net::Deadline::now()) == 0;
  entries.push_back(waits_for_pipe ? filled : stream_->write_interest());
  return entries;
}

}  // namespace telefork::migrate
