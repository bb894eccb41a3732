// Records that are kept until they may be written.
//
//     RecordBuffer buffer;
//     capture(process, buffer);        // as a RecordSink
//     buffer.write_to(writer);         // and is empty again
//
// Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <capnp/message.h>

#include "image/record_sink.h"

namespace telefork::image {

class RecordBuffer : public RecordSink {
 public:
  void write(RecordType type, ::capnp::MessageBuilder& message) override;
  void begin_payload_record(RecordType type, ::capnp::MessageBuilder& message,
                            std::uint64_t payload_bytes) override;
  void payload(std::span<const std::byte> bytes) override;

  void write_to(RecordSink& sink);

 private:
  struct Kept {
    RecordType type;
    std::unique_ptr<::capnp::MallocMessageBuilder> message;
    bool has_payload;
    std::vector<std::byte> payload;
  };
  void keep(RecordType type, ::capnp::MessageBuilder& message, bool has_payload);

  std::vector<Kept> records_;
};

}  // namespace telefork::image
