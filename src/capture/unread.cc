#include "capture/unread.h"

#include <cerrno>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/mapped_region.h"
#include "base/remote_ptr.h"
#include "capture/refusal.h"

namespace telefork::capture {
namespace {

constexpr std::size_t kLargestMessage = 4 * 1024 * 1024;
constexpr std::size_t kMostDescriptors = 253;  // SCM_MAX_FD (include/net/scm.h)
constexpr int kFirstOrdinary = 3;              // not to be taken for a standard stream

// Where MSG_PEEK goes on (SO_PEEK_OFF, socket(7)): the process's own again in the end. If we die
// before, its next MSG_PEEK begins elsewhere; nothing else does.
class PeekOffset {
 public:
  explicit PeekOffset(const UniqueFd& socket) : socket_(socket) {
    socklen_t size = sizeof(before_);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEEK_OFF, &before_, &size) != 0 || !set(0)) {
      throw_errno("looking into a socket");
    }
  }
  PeekOffset(const PeekOffset&) = delete;
  PeekOffset& operator=(const PeekOffset&) = delete;
  ~PeekOffset() { set(before_); }

  bool set(int value) const {
    return ::setsockopt(socket_.get(), SOL_SOCKET, SO_PEEK_OFF, &value, sizeof(value)) == 0;
  }

 private:
  const UniqueFd& socket_;
  int before_ = -1;
};

struct Peeked {
  ssize_t count = -1;  // or errno
  int error = 0;
  bool whole = true;  // and nothing but descriptors came along
  std::vector<UniqueFd> sent_along;
};

void take_descriptors(const cmsghdr& header, const unsigned char* data, Peeked& peeked) {
  const std::size_t count = (header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
  for (std::size_t i = 0; i < count; ++i) {
    int number = -1;
    std::memcpy(&number, data + i * sizeof(int), sizeof(number));
    UniqueFd file(number);
    if (number < kFirstOrdinary) file.reset(::fcntl(number, F_DUPFD_CLOEXEC, kFirstOrdinary));
    if (!file) throw_errno("looking at a descriptor that was sent");
    peeked.sent_along.push_back(std::move(file));
  }
}

Peeked peek(const UniqueFd& socket, std::span<iovec> buffers) {
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(kMostDescriptors * sizeof(int))];
  msghdr message{};
  message.msg_iov = buffers.data();
  message.msg_iovlen = buffers.size();
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  Peeked peeked;
  do {
    peeked.count = ::recvmsg(socket.get(), &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (peeked.count < 0 && errno == EINTR);
  if (peeked.count < 0) {
    peeked.error = errno;
    return peeked;
  }
  peeked.whole = (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
      take_descriptors(*header, CMSG_DATA(header), peeked);
    } else {
      peeked.whole = false;
    }
  }
  return peeked;
}

// A stream is read up to the end of what descriptors came with, and may have begun before that. A
// peek goes on for descriptors when all its bytes are there, so that no length tells where that
// was; but it ends before a piece that it cannot copy whole (unix_stream_read_generic in
// net/unix/af_unix.c). -> how many bytes lie before.
std::size_t bytes_before_descriptors(const UniqueFd& socket, const PeekOffset& offset, int from,
                                     std::size_t size) {
  std::vector<std::byte> buffer(size - 1);
  const MappedRegion none(kPageSize);
  if (::mprotect(none.data(), kPageSize, PROT_NONE) != 0) throw_errno("protecting a page");
  iovec pieces[] = {{buffer.data(), buffer.size()}, {none.data(), 1}};
  if (!offset.set(from)) throw_errno("looking into a socket");
  const Peeked before = peek(socket, pieces);
  if (!offset.set(from + static_cast<int>(size))) throw_errno("looking into a socket");
  if (before.count < 0 && before.error != EFAULT) {
    throw_errno("looking into a socket", before.error);
  }
  return before.count < 0 ? 0 : static_cast<std::size_t>(before.count);
}

}  // namespace

std::vector<UnreadMessage> read_unread(const UniqueFd& socket, const std::string& name, int type,
                                       unsigned shutdown) {
  std::vector<UnreadMessage> unread;
  const PeekOffset offset(socket);
  std::vector<std::byte> buffer(kLargestMessage);
  int from = 0;
  for (;;) {
    iovec whole[] = {{buffer.data(), buffer.size()}};
    Peeked peeked = peek(socket, whole);
    if (peeked.count < 0) {
      // EAGAIN: no more. Never connected; EINVAL is what a unix stream calls it.
      if (peeked.error == EAGAIN || peeked.error == ENOTCONN || peeked.error == EINVAL) {
        return unread;
      }
      throw_errno("reading what lies in " + name, peeked.error);
    }
    // Behind the last there is an end where the other end sends no more.
    if (peeked.count == 0 && (type == SOCK_STREAM || (shutdown & 1) != 0)) return unread;
    if (!peeked.whole) throw Error(Code::kRefused, refuse(name, Reason::kSentAlong).text());
    const auto count = static_cast<std::size_t>(peeked.count);
    std::size_t before = 0;
    if (type == SOCK_STREAM && !peeked.sent_along.empty()) {
      before = bytes_before_descriptors(socket, offset, from, count);
    }
    const auto middle = buffer.begin() + static_cast<std::ptrdiff_t>(before);
    const auto end = buffer.begin() + peeked.count;
    if (before != 0) unread.push_back({{buffer.begin(), middle}, {}});
    unread.push_back({{middle, end}, std::move(peeked.sent_along)});
    from += static_cast<int>(peeked.count);
  }
}

}  // namespace telefork::capture
