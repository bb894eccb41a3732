#include "session/greeting.h"

#include <array>
#include <cstring>
#include <optional>
#include <span>

#include <sys/socket.h>

#include "abi/agent.h"
#include "base/error.h"
#include "net/fd_stream.h"

namespace telefork::session {

Greeting::Greeting(UniqueFd connection, Via from, uid_t user, std::string name)
    : fd(std::move(connection)),
      via(from),
      uid(user),
      who(std::move(name)),
      deadline_(net::Deadline::Clock::now() + protocol::kHandshakePatience),
      is_link_(from != Via::kSocket) {}

// The first bytes say which of the two protocols it is; those of a link are left for its decoder.
// True for a program's.
bool Greeting::take_preamble() {
  std::array<char, TELEFORK_AGENT_PREAMBLE_SIZE> bytes;
  ssize_t count = ::recv(fd.get(), bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  if (count == 0) throw Error(Code::kLost, "it closed before it said anything");
  if (count < static_cast<ssize_t>(bytes.size())) return false;
  if (std::memcmp(bytes.data(), TELEFORK_AGENT_PREAMBLE, bytes.size()) == 0) {
    [[maybe_unused]] ssize_t taken = ::recv(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    return true;
  }
  is_link_ = true;
  return false;
}

// Whether it is there whole.
bool Greeting::take_hello() {
  for (;;) {
    std::span<std::byte> room = decoder_.begin_receive();
    if (room.empty()) return true;
    std::optional<std::size_t> count = net::try_read_fd(fd.get(), room);
    if (!count) return false;
    if (*count == 0) throw Error(Code::kLost, "it closed in the middle of its greeting");
    decoder_.end_receive(*count);
  }
}

Greeting::Progress Greeting::advance() {
  if (!is_link_ && take_preamble()) return Progress::kProgram;
  if (is_link_ && take_hello()) return Progress::kHello;
  if (net::Deadline::Clock::now() >= deadline_) {
    throw Error(Code::kLost, "it did not say hello in time");
  }
  return Progress::kWaits;
}

}  // namespace telefork::session
