// Sockets, and what unix ones have not read: looked at by MSG_PEEK, which leaves it where it is.
#include <cerrno>
#include <vector>

#include <fmt/format.h>
#include <sys/socket.h>

#include "base/error.h"
#include "capture/capture.h"
#include "kernel/pidfd.h"
#include "kernel/socket_options.h"

namespace telefork::capture {
namespace {

using Kind = image::schema::FileDescription::Kind;

constexpr std::size_t kLargestMessage = 4 * 1024 * 1024;

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

 private:
  bool set(int value) const {
    return ::setsockopt(socket_.get(), SOL_SOCKET, SO_PEEK_OFF, &value, sizeof(value)) == 0;
  }

  const UniqueFd& socket_;
  int before_ = -1;
};

struct Unread {
  std::vector<std::byte> bytes;
  std::vector<std::uint32_t> messages;
};

Unread read_unread(const UniqueFd& socket, const SocketObject& object) {
  Unread unread;
  PeekOffset offset(socket);
  std::vector<std::byte> buffer(kLargestMessage);
  for (;;) {
    iovec io = {buffer.data(), buffer.size()};
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    const ssize_t count = ::recvmsg(socket.get(), &message, MSG_PEEK | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return unread;
    // Never connected; EINVAL is what a unix stream calls it.
    if (count < 0 && (errno == ENOTCONN || errno == EINVAL)) return unread;
    if (count < 0) throw_errno("reading what lies in " + object.link);
    // Behind the last there is an end where the other end sends no more.
    if (count == 0 && (object.type == SOCK_STREAM || (object.shutdown & 1) != 0)) return unread;
    if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
      throw Error(Code::kRefused, refuse(object.link, Reason::kSentAlong).text());
    }
    unread.messages.push_back(static_cast<std::uint32_t>(count));
    unread.bytes.insert(unread.bytes.end(), buffer.begin(), buffer.begin() + count);
  }
}

void fill_options(const UniqueFd& socket, image::schema::Socket::Builder record) {
  const std::vector<kernel::SocketOption> options = kernel::read_socket_options(socket);
  auto list = record.initOptions(static_cast<unsigned>(options.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setLevel(options[i].level);
    list[i].setName(options[i].name);
    list[i].setValue(::capnp::Data::Reader(
        reinterpret_cast<const kj::byte*>(options[i].value.data()), options[i].value.size()));
  }
}

}  // namespace

void Capture::fill_socket(const Description& description, image::schema::Socket::Builder record,
                          image::RecordSink& sink) {
  const SocketObject& object = survey_.sockets[description.object];
  UniqueFd socket = kernel::take_fd(description.pid, description.fd);
  if (!socket) throw Error(Code::kGone, object.link + " has just been closed");
  record.setFamily(object.family);
  record.setType(object.type);
  record.setProtocol(object.protocol);
  if (object.peer_index) record.setPeer(static_cast<std::uint32_t>(*object.peer_index + 1));
  record.setPaired(object.paired);
  record.setShutdown(object.shutdown);
  record.setListening(object.listening);
  record.setBacklog(object.backlog);
  record.setMode(object.mode);
  record.setAddress(::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(object.address.data()),
                                          object.address.size()));
  fill_options(socket, record);
  if (object.family != AF_UNIX) return;
  Unread unread = read_unread(socket, object);
  if (unread.messages.empty()) return;
  record.setContentId(write_bytes(unread.bytes, sink));
  record.setMessages({unread.messages.data(), unread.messages.size()});
}

void Capture::write_sockets(image::RecordSink& sink) {
  if (survey_.sockets.empty()) return;
  ::capnp::MallocMessageBuilder message;
  auto list = message.initRoot<image::schema::Sockets>().initSockets(
      static_cast<unsigned>(survey_.sockets.size()));
  for (const Description& description : survey_.descriptions) {
    if (description.kind != Kind::SOCKET) continue;
    fill_socket(description, list[static_cast<unsigned>(description.object)], sink);
  }
  sink.write(image::RecordType::kSockets, message);
}

}  // namespace telefork::capture
