// The bytes of one connection of a resumable stream, which has something to send: what its other
// end says of it may be wrong. The first byte says which end it is, and in what pieces the rest is
// read.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "net/fd_stream.h"
#include "net/resumable_stream.h"

namespace {

using namespace telefork;
using net::ResumableStream;

void read_all(ResumableStream& stream, std::size_t step) {
  std::vector<std::byte> room(step);
  while (std::optional<std::size_t> count = stream.try_read(room)) {
    if (*count == 0) return;
    if (*count > step) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kMost = 64 * 1024;  // what a socket takes at once
  if (size == 0 || size > kMost) return 0;
  const auto role =
      data[0] % 2 == 0 ? ResumableStream::Role::kClient : ResumableStream::Role::kServer;
  auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  auto [ours, theirs] = net::make_stream_pair();
  net::widen_send_buffer(theirs->fd());
  ResumableStream stream(std::move(ours), {role, {}, {}, {}, false, {}});
  const std::array<std::byte, 100> sent{};
  try {
    stream.try_write(sent);
    theirs->try_write(bytes);
    read_all(stream, std::size_t{data[0]} + 1);
    stream.try_write(sent);
  } catch (const Error& error) {
    if (error.code() != Code::kCorrupt && error.code() != Code::kLost) throw;
  }
  return 0;
}
