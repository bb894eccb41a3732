#include "image/record_buffer.h"

#include <utility>

#include <capnp/any.h>

namespace telefork::image {

void RecordBuffer::keep(RecordType type, ::capnp::MessageBuilder& message, bool has_payload) {
  auto copy = std::make_unique<::capnp::MallocMessageBuilder>();
  copy->setRoot(message.getRoot<::capnp::AnyPointer>().asReader());
  records_.push_back({type, std::move(copy), has_payload, {}});
}

void RecordBuffer::write(RecordType type, ::capnp::MessageBuilder& message) {
  keep(type, message, false);
}

void RecordBuffer::begin_payload_record(RecordType type, ::capnp::MessageBuilder& message,
                                        std::uint64_t payload_bytes) {
  keep(type, message, true);
  records_.back().payload.reserve(payload_bytes);
}

void RecordBuffer::payload(std::span<const std::byte> bytes) {
  std::vector<std::byte>& kept = records_.back().payload;
  kept.insert(kept.end(), bytes.begin(), bytes.end());
}

void RecordBuffer::write_to(RecordSink& sink) {
  for (Kept& record : std::exchange(records_, {})) {
    if (!record.has_payload) {
      sink.write(record.type, *record.message);
      continue;
    }
    sink.begin_payload_record(record.type, *record.message, record.payload.size());
    sink.payload(record.payload);
  }
}

}  // namespace telefork::image
