// Where capture/ writes its records. It knows nothing of what becomes of them: writer.h makes bytes
// of them, a test keeps them.
//
//     ::capnp::MallocMessageBuilder message;
//     auto vma = message.initRoot<schema::Vma>();
//     ...
//     sink.write(RecordType::kVma, message);
//
//     sink.begin_payload_record(RecordType::kPages, message, bytes);
//     while (...) sink.payload(piece);         // pieces of any size, `bytes` in all
//
// The order is that of docs/image-format.md. Giving more or less than the announced bytes, or
// another record before they are complete, is a bug and asserted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <capnp/message.h>

#include "image/format.h"
#include "image/image.capnp.h"

namespace telefork::image {

class RecordSink {
 public:
  virtual ~RecordSink() = default;
  // A record without a payload.
  virtual void write(RecordType type, ::capnp::MessageBuilder& message) = 0;
  // A record with one: pages or a file's content. `payload_bytes` may be 0.
  virtual void begin_payload_record(RecordType type, ::capnp::MessageBuilder& message,
                                    std::uint64_t payload_bytes) = 0;
  virtual void payload(std::span<const std::byte> bytes) = 0;
};

}  // namespace telefork::image
