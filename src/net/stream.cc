#include "net/stream.h"

#include <cerrno>

#include "base/error.h"

namespace telefork::net {

int poll_until(std::span<pollfd> entries, Deadline deadline) {
  while (true) {
    int ready = ::poll(entries.data(), entries.size(), deadline.poll_timeout());
    if (ready >= 0) return ready;
    if (errno != EINTR) throw_errno("polling");
  }
}

void Stream::throw_closed() const {
  throw Error(Code::kLost, name() + ": the other end closed the connection");
}

void Stream::wait(pollfd interest, Deadline deadline, const char* doing) const {
  if (poll_until({&interest, 1}, deadline) == 0) {
    throw Error(Code::kLost, name() + ": " + doing, ETIMEDOUT);
  }
}

std::optional<std::size_t> Stream::try_splice(int /*pipe*/, std::size_t /*size*/) {
  TELEFORK_ASSERT(false);  // can_splice()
}

std::size_t Stream::read_some(Bytes bytes, Deadline deadline) {
  while (true) {
    if (std::optional<std::size_t> count = try_read(bytes)) return *count;
    wait(read_interest(), deadline, "waiting for bytes");
  }
}

void Stream::read_exactly(Bytes bytes, Deadline deadline) {
  while (!bytes.empty()) {
    std::size_t count = read_some(bytes, deadline);
    if (count == 0) throw_closed();
    bytes = bytes.subspan(count);
  }
}

void Stream::write_all(ConstBytes head, ConstBytes body, Deadline deadline) {
  while (!head.empty() || !body.empty()) {
    std::optional<std::size_t> count = try_write(head, body);
    if (!count) {
      wait(write_interest(), deadline, "waiting for room to write");
      continue;
    }
    std::size_t of_head = std::min(*count, head.size());
    head = head.subspan(of_head);
    body = body.subspan(*count - of_head);
  }
}

}  // namespace telefork::net
