#include "protocol/page_message.h"

#include <cstring>

#include <fmt/format.h>

#include "base/error.h"
#include "base/remote_ptr.h"

namespace telefork::protocol {
namespace {

// As it is on the wire; little-endian, as the machines are (machine.h).
struct Header {
  std::uint8_t kind;
  std::uint8_t zero[3];
  std::uint32_t process;
  std::uint64_t address;
  std::uint64_t count;
};
static_assert(sizeof(Header) == kPageMessageSize);

bool is_known(std::uint8_t kind) { return (kind >= 1 && kind <= 6) || (kind >= 16 && kind <= 18); }

bool has_range(PageMessage::Kind kind) {
  return kind == PageMessage::Kind::kPages || kind == PageMessage::Kind::kZeros;
}

}  // namespace

std::array<std::byte, kPageMessageSize> encode_page_message(const PageMessage& message) {
  const Header header{
      static_cast<std::uint8_t>(message.kind), {}, message.process, message.address, message.count};
  std::array<std::byte, kPageMessageSize> bytes;
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

PageMessage decode_page_message(std::span<const std::byte, kPageMessageSize> bytes) {
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const bool padded = header.zero[0] == 0 && header.zero[1] == 0 && header.zero[2] == 0;
  if (!is_known(header.kind) || !padded || header.address % kPageSize != 0) {
    throw Error(Code::kCorrupt,
                fmt::format("the page connection has a message of kind {} for {:#x}", header.kind,
                            header.address));
  }
  const PageMessage message{static_cast<PageMessage::Kind>(header.kind), header.process,
                            header.address, header.count};
  // No process has more.
  constexpr std::uint64_t kMost = (std::uint64_t{1} << 57) / kPageSize;
  if (has_range(message.kind) &&
      (message.count == 0 || message.count > kMost || message.address / kPageSize > kMost ||
       (message.kind == PageMessage::Kind::kPages && message.count > kMaxPagesInMessage))) {
    throw Error(Code::kCorrupt, fmt::format("the page connection has {} pages at {:#x}",
                                            message.count, message.address));
  }
  return message;
}

}  // namespace telefork::protocol
