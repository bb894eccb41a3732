#include "image/writer.h"

#include <cstring>

#include <capnp/serialize.h>
#include <fmt/format.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/frame.h"

namespace telefork::image {
namespace {

void append(std::vector<std::byte>& buffer, std::span<const std::byte> bytes) {
  buffer.insert(buffer.end(), bytes.begin(), bytes.end());
}

}  // namespace

Writer::Writer(ByteSink& file) : Writer(file, file) {}

Writer::Writer(ByteSink& records, ByteSink& payloads) : records_(records), payloads_(payloads) {}

void Writer::write(RecordType type, ::capnp::MessageBuilder& message) {
  TELEFORK_ASSERT(!has_payload(type) && type != RecordType::kEnd);
  write_frame(type, message, 0);
}

void Writer::begin_payload_record(RecordType type, ::capnp::MessageBuilder& message,
                                  std::uint64_t payload_bytes) {
  TELEFORK_ASSERT(has_payload(type));
  write_frame(type, message, payload_bytes);
  payload_left_ = payload_bytes;
  in_payload_ = true;
  if (payloads_inline()) payload_hash_.reset(totals_.records - 1);
  if (type == RecordType::kPages) totals_.pages += payload_bytes / kPageSize;
  if (payload_left_ == 0) finish_payload();
}

void Writer::payload(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  TELEFORK_ASSERT(in_payload_ && bytes.size() <= payload_left_);
  payloads_.write(bytes);
  if (payloads_inline()) payload_hash_.add(bytes);
  payload_left_ -= bytes.size();
  totals_.payload_bytes += bytes.size();
  totals_.bytes += bytes.size();
  if (payload_left_ == 0) finish_payload();
  if (on_payload_) on_payload_(totals_.payload_bytes);
}

void Writer::finish_payload() {
  in_payload_ = false;
  if (!payloads_inline()) return;
  const std::uint64_t trailer = payload_hash_.value();
  payloads_.write(std::as_bytes(std::span(&trailer, 1)));
  totals_.bytes += sizeof trailer;
}

void Writer::end() {
  ::capnp::MallocMessageBuilder message;
  auto end = message.initRoot<schema::End>();
  end.setRecords(totals_.records);
  end.setPages(totals_.pages);
  end.setPayloadBytes(totals_.payload_bytes);
  end.setChecksum(frames_hash_.value());
  write_frame(RecordType::kEnd, message, 0);
  ended_ = true;
}

void Writer::write_frame(RecordType type, ::capnp::MessageBuilder& message,
                         std::uint64_t payload_bytes) {
  TELEFORK_ASSERT(!in_payload_ && !ended_);
  TELEFORK_ASSERT((type == RecordType::kHeader) == (totals_.records == 0));
  const kj::Array<::capnp::word> words = ::capnp::messageToFlatArray(message);
  const auto metadata = std::as_bytes(std::span(words.begin(), words.size()));
  if (metadata.size() > kMaxMetadata) {
    throw Error(Code::kFailed,
                fmt::format("a {} record of {} bytes is larger than an image can hold",
                            record_type_name(type), metadata.size()));
  }
  FrameHeader header;
  header.type = static_cast<std::uint16_t>(type);
  header.flags = has_payload(type) && payloads_inline() ? kPayloadInline : 0;
  header.metadata_bytes = static_cast<std::uint32_t>(metadata.size());
  header.number = static_cast<std::uint32_t>(totals_.records);
  header.payload_bytes = payload_bytes;
  header.checksum = frame_checksum(header, metadata);

  buffer_.clear();
  append(buffer_, frame_bytes(header));
  append(buffer_, metadata);
  records_.write(buffer_);
  frames_hash_.add(frame_bytes(header));
  ++totals_.records;
  totals_.bytes += buffer_.size();
}

}  // namespace telefork::image
