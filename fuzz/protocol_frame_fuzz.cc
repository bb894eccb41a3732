// The bytes of a control connection: frames, and the message in each control frame. The first byte
// says in what pieces the rest arrives.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "protocol/frame.h"
#include "protocol/message.h"

namespace {

using namespace telefork;

void take(const protocol::Frame& frame) {
  if (frame.payload.size() > protocol::max_frame(frame.channel)) __builtin_trap();
  if (frame.channel != protocol::Channel::kControl) return;
  protocol::ReceivedMessage message(frame.payload);
  // Nothing read from a message that was taken may throw.
  if (message->isFailed()) protocol::decode_failure(message->getFailed(), "node");
  if (message->isCheckFiles()) {
    for (auto file : message->getCheckFiles().getFiles()) file.getIdentity().getHandle().size();
  }
  if (message->isStdioData()) message->getStdioData().getData().size();
  protocol::message_name(message->which());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::size_t step = std::size_t{data[0]} + 1;
  auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  protocol::FrameDecoder decoder;
  try {
    while (!bytes.empty()) {
      auto room = decoder.begin_receive();
      std::size_t count = std::min({room.size(), step, bytes.size()});
      std::copy_n(bytes.begin(), count, room.begin());
      decoder.end_receive(count);
      bytes = bytes.subspan(count);
      while (auto frame = decoder.next()) take(*frame);
    }
  } catch (const Error& error) {
    if (error.code() != Code::kCorrupt) throw;
  }
  return 0;
}
