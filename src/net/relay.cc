#include "net/relay.h"

#include <vector>

#include "base/error.h"

namespace telefork::net {
namespace {

constexpr std::size_t kBuffer = 64 * 1024;

class Direction {
 public:
  Direction(Stream& from, Stream& to) : from_(from), to_(to), buffer_(kBuffer) {}

  // As far as it goes without waiting.
  void advance() {
    while (!ended_ || begin_ != end_) {
      if (begin_ == end_ && !read()) return;
      if (begin_ != end_ && !write()) return;
    }
  }

  bool ended() const { return ended_ && begin_ == end_; }
  // Nobody reads any more what comes; it is thrown away.
  bool broken() const { return broken_; }
  void add_interest(std::vector<pollfd>& entries) const {
    if (begin_ != end_) {
      entries.push_back(to_.write_interest());
    } else if (!ended_) {
      entries.push_back(from_.read_interest());
    }
  }

 private:
  bool read() {
    std::optional<std::size_t> count;
    try {
      count = from_.try_read(buffer_);
    } catch (const Error& error) {
      // A reset comes after everything that had arrived was read, so it is an end like any other.
      if (error.code() != Code::kLost) throw;
      count = 0;
    }
    if (!count) return false;
    begin_ = 0;
    end_ = *count;
    if (*count > 0) return true;
    ended_ = true;
    to_.shutdown_write();
    return false;
  }

  // One end may be gone while its last words are still to be carried the other way.
  bool write() {
    std::span<const std::byte> bytes = std::span(buffer_).subspan(begin_, end_ - begin_);
    try {
      std::optional<std::size_t> count = broken_ ? bytes.size() : to_.try_write(bytes);
      begin_ += count.value_or(0);
      return count.has_value();
    } catch (const Error& error) {
      if (error.code() != Code::kLost) throw;
      broken_ = true;
      return true;
    }
  }

  Stream& from_;
  Stream& to_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool ended_ = false;
  bool broken_ = false;
};

}  // namespace

void relay(Stream& one, Stream& other, Deadline::Clock::duration patience) {
  Direction there(one, other);
  Direction back(other, one);
  std::optional<Deadline> deadline;
  for (;;) {
    there.advance();
    back.advance();
    if (there.ended() && back.ended()) return;
    bool ending = there.ended() || back.ended() || there.broken() || back.broken();
    if (!deadline && ending) deadline = Deadline::in(patience);
    std::vector<pollfd> entries;
    there.add_interest(entries);
    back.add_interest(entries);
    if (poll_until(entries, deadline.value_or(Deadline::never())) == 0) return;
  }
}

}  // namespace telefork::net
