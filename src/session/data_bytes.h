// The bytes of a field of a message.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <capnp/blob.h>

namespace telefork::session {

// Valid as long as the message is.
inline std::span<const std::byte> as_bytes(::capnp::Data::Reader data) {
  return {reinterpret_cast<const std::byte*>(data.begin()), data.size()};
}

inline std::vector<std::byte> copy_bytes(::capnp::Data::Reader data) {
  const std::span<const std::byte> bytes = as_bytes(data);
  return {bytes.begin(), bytes.end()};
}

// Valid as long as `bytes` are.
inline ::capnp::Data::Reader as_data(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

}  // namespace telefork::session
