#include "session/agent_socket.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "session/description.h"

namespace telefork::session {
namespace {

// A whole struct, or empty at the end of the stream.
template <class T>
bool receive_struct(int socket, T& object, telefork_abi_magic magic, pid_t* sender) {
  iovec io = {&object, sizeof(object)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t count;
  do {
    count = ::recvmsg(socket, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && errno != ECONNRESET) throw_errno("receiving from the program");
  if (count <= 0) return false;
  if (count != static_cast<ssize_t>(sizeof(object)) || object.header.magic != magic ||
      object.header.version != TELEFORK_ABI_VERSION || object.header.size != sizeof(object)) {
    throw Error(Code::kCorrupt, "the program's libtelefork speaks another version than this agent");
  }
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_CREDENTIALS) continue;
    ucred credentials;
    std::memcpy(&credentials, CMSG_DATA(part), sizeof(credentials));
    if (sender != nullptr) *sender = credentials.pid;
  }
  return true;
}

template <class T>
T make(telefork_abi_magic magic) {
  T object{};
  object.header.magic = magic;
  object.header.version = TELEFORK_ABI_VERSION;
  object.header.size = sizeof(object);
  return object;
}

// Refusals are a line each. Where not all of them have room, the whole lines that have it, and how
// many more there are.
std::string fit_text(const std::string& text, std::size_t room) {
  constexpr std::size_t kNoteRoom = 80;
  if (text.size() <= room) return text;
  std::size_t end = text.rfind('\n', room - kNoteRoom);
  std::string fitting = text.substr(0, end);
  if (end == std::string::npos) {
    end = std::min(text.find('\n'), text.size());
    fitting = shorten(text.substr(0, end), room - kNoteRoom);
  }
  auto left = std::count(text.begin() + static_cast<std::ptrdiff_t>(end), text.end(), '\n');
  if (left == 0) return fitting;
  return fmt::format("{}\n... and {} more: telefork check PID tells all", fitting, left);
}

template <class T>
void fill_error(T& object, const Error& error) {
  object.code = static_cast<std::int32_t>(error.code());
  object.error = error.error();
  std::string text = fit_text(error.text(), sizeof(object.message) - 1);
  std::memcpy(object.message, text.data(), text.size());
}

}  // namespace

std::optional<telefork_agent_request> receive_request(int socket) {
  telefork_agent_request request;
  if (!receive_struct(socket, request, TELEFORK_MAGIC_REQUEST, nullptr)) return std::nullopt;
  request.node[sizeof(request.node) - 1] = 0;
  return request;
}

void send_reply(int socket, const Error* error, int fd, std::string_view lease) {
  auto reply = make<telefork_agent_reply>(TELEFORK_MAGIC_REPLY);
  if (error != nullptr) fill_error(reply, *error);
  if (error == nullptr) lease.copy(reply.message, sizeof(reply.message) - 1);
  iovec io = {&reply, sizeof(reply)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  }
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(reply))) {
    throw_errno("answering the program", Code::kGone);
  }
}

void refuse_request(int socket, const Error& why) noexcept {
  try {
    send_reply(socket, &why, -1);
  } catch (const std::exception&) {
    // The program is gone.
  }
}

std::optional<ReceivedSnapshot> receive_snapshot(int socket) {
  ReceivedSnapshot received{};
  if (!receive_struct(socket, received.message, TELEFORK_MAGIC_SNAPSHOT, &received.pid)) {
    return std::nullopt;
  }
  if (received.pid <= 0) {
    throw Error(Code::kRefused,
                "the program is in a pid namespace that telefork does not see; run telefork inside "
                "of it");
  }
  return received;
}

void send_verdict(int socket, const Error& error) {
  auto verdict = make<telefork_verdict>(TELEFORK_MAGIC_VERDICT);
  fill_error(verdict, error);
  // A snapshot that is gone needs no verdict.
  [[maybe_unused]] ssize_t sent = ::send(socket, &verdict, sizeof(verdict), MSG_NOSIGNAL);
}

void ask_for_credentials(int socket) {
  int on = 1;
  if (::setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) {
    throw_errno("asking for credentials");
  }
}

void name_session_socket(int socket) {
  struct stat status;
  if (::fstat(socket, &status) != 0) throw_errno("looking at a session socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = fmt::format("{}{}", TELEFORK_SESSION_SOCKET_NAME, status.st_ino);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(socket, reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    throw_errno("naming a session socket");
  }
}

}  // namespace telefork::session
