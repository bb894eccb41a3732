#include "restore/sockets.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/socket_options.h"
#include "restore/in_root.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;
using image::schema::Socket;

constexpr int kSocketRoom = 1 << 30;  // for what is sent before anybody reads: the kernel's maximum

// "/run/socket", "@abstract"
std::string describe_name(const sockaddr_storage& address, std::size_t size) {
  sockaddr_un name{};
  std::memcpy(&name, &address, std::min(size, sizeof(name)));
  std::string text(name.sun_path, std::min(size, sizeof(name)) - offsetof(sockaddr_un, sun_path));
  if (text.starts_with('\0')) return "@" + text.substr(1);
  return text.substr(0, text.find('\0'));
}

// "[::1]:80", "(number 4711 of netlink)"
std::string describe_address(const sockaddr_storage& address, std::size_t size) {
  if (address.ss_family == AF_UNIX) return describe_name(address, size);
  if (address.ss_family == AF_NETLINK) {
    sockaddr_nl netlink{};
    std::memcpy(&netlink, &address, sizeof(netlink));
    return fmt::format("(number {} of netlink)", netlink.nl_pid);
  }
  char text[INET6_ADDRSTRLEN] = "";
  const bool v6 = address.ss_family == AF_INET6;
  sockaddr_in6 six{};
  sockaddr_in four{};
  std::memcpy(&six, &address, sizeof(six));
  std::memcpy(&four, &address, sizeof(four));
  const void* number = v6 ? static_cast<const void*>(&six.sin6_addr) : &four.sin_addr;
  ::inet_ntop(address.ss_family, number, text, sizeof(text));
  if (v6) return fmt::format("[{}]:{}", text, ntohs(six.sin6_port));
  return fmt::format("{}:{}", text, ntohs(four.sin_port));
}

// An address, and the root directory in which it is a path.
struct Address {
  sockaddr_storage bytes;
  socklen_t size;
  std::string root;  // empty: this process's

  using Act = int (*)(int socket, const sockaddr* address, socklen_t size);
  // bind(2) or connect(2). 0 or an errno.
  int pass_to(Act act, const UniqueFd& socket) const {
    return run_in_root(root, [&] {
      return act(socket.get(), reinterpret_cast<const sockaddr*>(&bytes), size) == 0 ? 0 : errno;
    });
  }
};

// Whether a name is a socket's that is there no more. One that is would say that it is of another
// type (unix_find_other in net/unix/af_unix.c), and does not hear of it; a file of any other kind
// says the same as one that is left behind.
bool is_left_behind(const std::string& path, const Address& address, int type) {
  struct stat stat;
  if (::lstat(path.c_str(), &stat) != 0 || !S_ISSOCK(stat.st_mode)) return false;
  const int other = type == SOCK_SEQPACKET ? SOCK_DGRAM : SOCK_SEQPACKET;
  UniqueFd probe(::socket(AF_UNIX, other | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe && address.pass_to(::connect, probe) == ECONNREFUSED;
}

void set_flags(const UniqueFd& socket, unsigned flags) {
  if (::fcntl(socket.get(), F_SETFL, flags & O_NONBLOCK) != 0) {
    throw_errno("setting the flags of a socket");
  }
}

void shut_down(unsigned directions, const UniqueFd& socket) {
  if (directions == 0) return;
  const int how = directions == 1 ? SHUT_RD : directions == 2 ? SHUT_WR : SHUT_RDWR;
  if (::shutdown(socket.get(), how) != 0) throw_errno("shutting down a socket");
}

void make_room(const UniqueFd& socket) {
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kSocketRoom, sizeof(kSocketRoom)) !=
      0) {
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kSocketRoom, sizeof(kSocketRoom));
  }
}

// Descriptors go with the first piece of it.
void send_all(std::span<const std::byte> message, std::span<const UniqueFd> along,
              const UniqueFd& socket) {
  std::vector<int> numbers;
  for (const UniqueFd& file : along) numbers.push_back(file.get());
  std::vector<std::byte> control(numbers.empty() ? 0 : CMSG_SPACE(numbers.size() * sizeof(int)));
  do {
    iovec io = {const_cast<std::byte*>(message.data()), message.size()};
    msghdr header{};
    header.msg_iov = &io;
    header.msg_iovlen = 1;
    if (!control.empty()) {
      header.msg_control = control.data();
      header.msg_controllen = control.size();
      cmsghdr rights{CMSG_LEN(numbers.size() * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
      std::memcpy(control.data(), &rights, sizeof(rights));
      std::memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), numbers.data(), numbers.size() * sizeof(int));
    }
    const ssize_t count = ::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("filling a socket", errno, Code::kResources);
    message = message.subspan(static_cast<std::size_t>(count));
    control.clear();
  } while (!message.empty());
}

}  // namespace

Sockets::Sockets(List records, const ContentStore& contents, SocketNames& names, MakePair make_pair,
                 Connect connect, ConnectWaiting connect_waiting, TakeDescription take_description,
                 std::function<void(const std::string&)> warn)
    : records_(records),
      contents_(contents),
      names_(names),
      make_pair_(std::move(make_pair)),
      connect_(std::move(connect)),
      connect_waiting_(std::move(connect_waiting)),
      take_description_(std::move(take_description)),
      warn_(std::move(warn)),
      made_(records.size()) {}

SocketNames::~SocketNames() {
  for (const std::string& path : paths_) ::unlink(path.c_str());
}

void Sockets::bind_to_address(Socket::Reader record, const UniqueFd& socket) const {
  ::capnp::Data::Reader bytes = record.getAddress();
  if (bytes.size() == 0) return;
  Address address{{}, static_cast<socklen_t>(bytes.size()), record.getRoot()};
  if (bytes.size() > sizeof(address.bytes)) throw Error(Code::kCorrupt, "an address is too long");
  std::memcpy(&address.bytes, bytes.begin(), bytes.size());
  const std::string name = describe_address(address.bytes, address.size);
  const std::string path = address.root + name;
  const bool is_file = address.bytes.ss_family == AF_UNIX && name.starts_with('/');
  // The name gets what the socket has, but for the umask.
  if (is_file && ::fchmod(socket.get(), record.getMode()) != 0) throw_errno("preparing a name");
  int error = address.pass_to(::bind, socket);
  if (error == EADDRINUSE && is_file && is_left_behind(path, address, record.getType())) {
    error = ::unlink(path.c_str()) == 0 ? address.pass_to(::bind, socket) : errno;
  }
  if (error != 0) {
    throw Error(Code::kRefused,
                fmt::format("its address {} cannot be had here: {}", path, std::strerror(error)));
  }
  if (!is_file) return;
  names_.add(path);
  if (::chmod(path.c_str(), record.getMode()) != 0) throw_errno("giving " + path + " its mode");
}

void Sockets::set_options(Socket::Reader record, const UniqueFd& socket) const {
  for (image::schema::SocketOption::Reader option : record.getOptions()) {
    auto value = option.getValue();
    const auto* bytes = reinterpret_cast<const std::byte*>(value.begin());
    if (value.size() > kernel::kMaxSocketOption) {
      throw Error(Code::kCorrupt, "an option of a socket is too long");
    }
    kernel::SocketOption wanted{option.getLevel(), option.getName(), {bytes, bytes + value.size()}};
    if (kernel::try_set_socket_option(socket, wanted)) continue;
    warn_(fmt::format("option {} (level {}) of a socket of it is not what it was: {}", wanted.name,
                      wanted.level, std::strerror(errno)));
  }
}

std::vector<UniqueFd> Sockets::take_sent_along(Socket::Reader record, std::uint32_t message) const {
  std::vector<UniqueFd> files;
  for (image::schema::SentAlong::Reader sent : record.getSentAlong()) {
    if (sent.getMessage() != message) continue;
    for (std::uint32_t index : sent.getDescriptions()) files.push_back(take_description_(index));
  }
  return files;
}

void Sockets::fill(Socket::Reader record, const UniqueFd& sender) const {
  if (record.getContentId() == 0) return;
  const std::vector<std::byte> bytes = contents_.read(record.getContentId());
  make_room(sender);
  std::span<const std::byte> rest(bytes);
  std::uint32_t number = 0;
  for (std::uint32_t size : record.getMessages()) {
    if (size > rest.size()) throw Error(Code::kCorrupt, "a socket holds less than it says");
    send_all(rest.first(size), take_sent_along(record, number++), sender);
    rest = rest.subspan(size);
  }
}

UniqueFd Sockets::make(Socket::Reader record) const {
  UniqueFd socket(
      ::socket(record.getFamily(), record.getType() | SOCK_CLOEXEC, record.getProtocol()));
  if (!socket) throw_errno("making a socket");
  // Some of them say what it may be bound to.
  set_options(record, socket);
  bind_to_address(record, socket);
  if (record.getListening() && ::listen(socket.get(), static_cast<int>(record.getBacklog())) != 0) {
    throw_errno("listening");
  }
  shut_down(record.getFamily() == AF_UNIX ? record.getShutdown() : 0, socket);
  return socket;
}

std::optional<std::uint32_t> Sockets::listener_of(Socket::Reader record) const {
  if (record.getAddress().size() == 0) return std::nullopt;
  for (std::uint32_t i = 0; i < records_.size(); ++i) {
    const bool same = !records_[i].getPaired() && records_[i].getType() == record.getType() &&
                      records_[i].getAddress() == record.getAddress() &&
                      records_[i].getRoot() == record.getRoot();
    if (records_[i].getListening() && same) return i;
  }
  throw Error(Code::kCorrupt, "nothing listens where a socket was accepted");
}

std::optional<std::uint32_t> Sockets::awaited_listener_of(std::uint32_t index) const {
  for (std::uint32_t i = 0; i < records_.size(); ++i) {
    for (const std::uint32_t waiting : records_[i].getWaiting()) {
      if (waiting == index) return i;
    }
  }
  return std::nullopt;
}

// Behind all that was accepted there: what connects for that is accepted at once, and is to be the
// first in the queue.
void Sockets::make_waiting_at(std::uint32_t listener) {
  Socket::Reader record = records_[listener];
  for (std::uint32_t i = 0; i < records_.size(); ++i) {
    if (records_[i].getPaired() && listener_of(records_[i]) == listener) get(i);
  }
  const auto waiting = record.getWaiting();
  std::vector<UniqueFd> clients = connect_waiting_(get(listener), record, waiting.size());
  for (unsigned i = 0; i < waiting.size(); ++i) {
    const std::uint32_t index = waiting[i];
    if (made_.at(index)) throw Error(Code::kCorrupt, "a socket waits twice");
    made_[index] = std::move(clients[i]);
    set_options(records_[index], made_[index]);
    shut_down(records_[index].getShutdown(), made_[index]);
  }
}

// One that was accepted has the name of what listened. -> its end first.
std::pair<UniqueFd, UniqueFd> Sockets::make_ends(std::uint32_t index) {
  Socket::Reader one = records_[index];
  if (auto listener = listener_of(one)) {
    auto [connected, accepted] = connect_(get(*listener), records_[*listener]);
    return {std::move(accepted), std::move(connected)};
  }
  if (one.getPeer() != 0) {
    if (auto listener = listener_of(records_[one.getPeer() - 1])) {
      return connect_(get(*listener), records_[*listener]);
    }
  }
  return make_pair_(one.getType(), one.getProtocol());
}

// Nothing is sent that is not there before its sender is shut down or closed. What is sent along
// may be one of the two itself, or have such a one sent along: they are there before.
void Sockets::make_pair_of(std::uint32_t index) {
  Socket::Reader one = records_[index];
  auto [mine, others] = make_ends(index);
  made_[index] = std::move(mine);
  if (one.getPeer() == 0) {
    fill(one, others);
    others.reset();
    set_options(one, made_[index]);
    return;
  }
  const std::uint32_t peer = one.getPeer() - 1;
  made_[peer] = std::move(others);
  Socket::Reader other = records_[peer];
  fill(one, made_[peer]);
  fill(other, made_[index]);
  for (const std::uint32_t end : {peer, index}) {
    set_options(records_[end], made_[end]);
    shut_down(records_[end].getShutdown(), made_[end]);
  }
}

UniqueFd Sockets::open(FileDescription::Reader description) {
  const std::uint32_t index = description.getSocket();
  if (index >= made_.size()) throw Error(Code::kCorrupt, "a socket is not in the image");
  set_flags(get(index), description.getFlags());
  return made_[index].duplicate();
}

const UniqueFd& Sockets::get(std::uint32_t index) {
  Socket::Reader record = records_[index];
  if (!made_[index]) {
    if (auto listener = awaited_listener_of(index)) {
      make_waiting_at(*listener);
    } else if (record.getPaired()) {
      make_pair_of(index);
    } else {
      made_[index] = make(record);
    }
  }
  return made_[index];
}

}  // namespace telefork::restore
