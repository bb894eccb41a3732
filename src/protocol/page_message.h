// What goes over the page connection of a session, on which memory follows its process
// (docs/wire-protocol.md, 4): a header of 24 bytes, behind `pages` the pages themselves.
//
//     destination                                 source
//     begin    it runs: push                      pages  the content of `count` from `address` on
//     want     somebody waits for that page       zeros  these hold nothing
//     placed   so many bytes are there            all    what has not come is zeros
//     hold     push no more
//     enough   nobody there needs any of it
//     over     nobody there needs any of that process's
//
// Addresses are those that the process had at the source; of several each message but begin, hold,
// enough and all says which one. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace telefork::protocol {

struct PageMessage {
  enum class Kind : std::uint8_t {
    kBegin = 1,
    kWant = 2,
    kPlaced = 3,
    kHold = 4,
    kEnough = 5,
    kOver = 6,
    kPages = 16,
    kZeros = 17,
    kAll = 18,
  };
  Kind kind = Kind::kAll;
  std::uint32_t process = 0;  // of several, which: as they come in the image, 0 is the first
  std::uint64_t address = 0;
  std::uint64_t count = 0;  // pages; of kPlaced bytes
};

inline constexpr std::size_t kPageMessageSize = 24;
// Behind one message.
inline constexpr std::uint64_t kMaxPagesInMessage = 256;

std::array<std::byte, kPageMessageSize> encode_page_message(const PageMessage& message);
// Throws kCorrupt.
PageMessage decode_page_message(std::span<const std::byte, kPageMessageSize> bytes);

}  // namespace telefork::protocol
