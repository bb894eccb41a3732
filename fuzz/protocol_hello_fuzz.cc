// The first bytes of a connection, as a telepad and as a client take them. The first byte says in
// what pieces the rest arrives, and which of the two it is.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"

namespace {

using namespace telefork;

void take(const protocol::HelloDecoder& decoder, bool as_reply) {
  static const protocol::OwnMachine own;
  if (as_reply) {
    auto reply = decoder.reply();
    if (reply->hasRefusal()) protocol::decode_failure(reply->getRefusal(), "node");
    protocol::check_compatible(own.reader(), reply->getMachine(), false);
  } else {
    protocol::check_hello(*decoder.hello(), own.reader());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  bool as_reply = (data[0] & 1) != 0;
  std::size_t step = std::size_t{data[0]} / 2 + 1;
  auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  protocol::HelloDecoder decoder;
  try {
    while (!bytes.empty() && !decoder.complete()) {
      auto room = decoder.begin_receive();
      std::size_t count = std::min({room.size(), step, bytes.size()});
      std::copy_n(bytes.begin(), count, room.begin());
      decoder.end_receive(count);
      bytes = bytes.subspan(count);
    }
    if (decoder.complete()) take(decoder, as_reply);
  } catch (const Error& error) {
    if (error.code() != Code::kCorrupt && error.code() != Code::kRefused) throw;
  }
  return 0;
}
