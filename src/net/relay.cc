#include "net/relay.h"

#include <vector>

#include "base/error.h"

namespace telefork::net {
namespace {

constexpr std::size_t kBuffer = 64 * 1024;

class Direction {
 public:
  // `hangup_is_loss`: `from` is a socket that says by its end alone that it is one in good order.
  Direction(Stream& from, Stream& to, bool hangup_is_loss)
      : from_(from), to_(to), hangup_is_loss_(hangup_is_loss), buffer_(kBuffer) {}

  // As far as it goes without waiting. `back`: the other direction.
  void advance(const Direction& back) {
    while (!ended_ || begin_ != end_) {
      if (begin_ == end_ && !read(back)) return;
      if (begin_ != end_ && !write()) return;
    }
  }

  bool ended() const { return ended_ && begin_ == end_; }
  // And whoever it came from is lost.
  bool lost() const { return lost_ && ended(); }
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
  bool read(const Direction& back) {
    std::optional<std::size_t> count;
    try {
      count = from_.try_read(buffer_);
    } catch (const Error& error) {
      // A reset comes after everything that had arrived was read.
      if (error.code() != Code::kLost) throw;
      lost_ = true;
      count = 0;
    }
    if (!count) return false;
    begin_ = 0;
    end_ = *count;
    if (*count > 0) return true;
    ended_ = true;
    // Whose end this one has been told to come is closed both ways when it says so too.
    lost_ = lost_ || (!back.ended_ && was_hung_up());
    if (!lost_) to_.shutdown_write();
    return false;
  }

  // Its other end has closed both ways, and has not said that it was to.
  bool was_hung_up() const {
    if (!hangup_is_loss_) return false;
    pollfd entry{from_.poll_fd(), 0, 0};
    return ::poll(&entry, 1, 0) > 0 && (entry.revents & POLLHUP) != 0;
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
  bool hangup_is_loss_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool ended_ = false;
  bool lost_ = false;
  bool broken_ = false;
};

}  // namespace

void relay(Stream& one, Stream& other, Deadline::Clock::duration patience) {
  Direction there(one, other, false);
  Direction back(other, one, true);
  std::optional<Deadline> deadline;
  for (;;) {
    there.advance(back);
    back.advance(there);
    if (there.lost() || back.lost() || (there.ended() && back.ended())) return;
    bool ending = there.ended() || back.ended() || there.broken() || back.broken();
    if (!deadline && ending) deadline = Deadline::in(patience);
    std::vector<pollfd> entries;
    there.add_interest(entries);
    back.add_interest(entries);
    if (poll_until(entries, deadline.value_or(Deadline::never())) == 0) return;
  }
}

}  // namespace telefork::net
