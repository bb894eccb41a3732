// The bytes of a field of a message.
#pragma once

#include <cstddef>
#include <span>

#include <capnp/blob.h>

namespace telefork::session {

// Valid as long as the message is.
inline std::span<const std::byte> as_bytes(::capnp::Data::Reader data) {
  return {reinterpret_cast<const std::byte*>(data.begin()), data.size()};
}

inline ::capnp::Data::Reader as_data(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

}  // namespace telefork::session
