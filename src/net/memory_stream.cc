#include "net/memory_stream.h"

#include <algorithm>

namespace telefork::net {

std::optional<std::size_t> MemoryStream::try_read(Bytes bytes) {
  std::size_t count = std::min(bytes.size(), unread());
  std::copy_n(input_.begin() + static_cast<std::ptrdiff_t>(position_), count, bytes.begin());
  position_ += count;
  return count;
}

std::optional<std::size_t> MemoryStream::try_write(ConstBytes head, ConstBytes body) {
  written_.insert(written_.end(), head.begin(), head.end());
  written_.insert(written_.end(), body.begin(), body.end());
  return head.size() + body.size();
}

std::optional<std::size_t> FaultyStream::try_read(Bytes bytes) {
  std::uint64_t left = faults_.cut_read_after - read_;
  if (left == 0) return 0;
  std::size_t room = std::min(bytes.size(), faults_.longest_read);
  std::optional<std::size_t> count =
      stream_->try_read(bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(room, left))));
  read_ += count.value_or(0);
  return count;
}

std::optional<std::size_t> FaultyStream::try_write(ConstBytes head, ConstBytes body) {
  std::uint64_t left = faults_.cut_write_after - written_;
  if (left == 0 && (!head.empty() || !body.empty())) {
    stream_->shutdown_write();
    throw_closed();
  }
  auto room = static_cast<std::size_t>(std::min<std::uint64_t>(faults_.longest_write, left));
  head = head.first(std::min(head.size(), room));
  body = body.first(std::min(body.size(), room - head.size()));
  std::optional<std::size_t> count = stream_->try_write(head, body);
  written_ += count.value_or(0);
  return count;
}

}  // namespace telefork::net
