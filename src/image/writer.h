// Makes the bytes of an image out of records.
//
//     Writer writer(file);                     // telefork save: records and payloads in one file
//     Writer writer(control, bulk);            // a link: records here, payloads raw over there
//     capture(process, writer);                // as a RecordSink
//     writer.end();                            // the End record; nothing may follow
//
// In a file every payload is followed by its checksum; over a link the transport guards the bytes
// and whoever receives the bulk stream gets nothing but pages. Each record is one write() of the
// sink. An image without its End is recognised as cut short, so a Writer that is dropped half-way
// needs no clean-up. Owned by one thread; the sinks must outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "image/byte_stream.h"
#include "image/hash.h"
#include "image/record_sink.h"
#include "image/totals.h"

namespace telefork::image {

class Writer : public RecordSink {
 public:
  explicit Writer(ByteSink& file);
  Writer(ByteSink& records, ByteSink& payloads);

  void write(RecordType type, ::capnp::MessageBuilder& message) override;
  void begin_payload_record(RecordType type, ::capnp::MessageBuilder& message,
                            std::uint64_t payload_bytes) override;
  void payload(std::span<const std::byte> bytes) override;
  void end();

  // Called behind each piece of a payload that was written, with all of them so far.
  void watch(std::function<void(std::uint64_t payload_bytes)> on_payload) {
    on_payload_ = std::move(on_payload);
  }

  // So far.
  const Totals& totals() const { return totals_; }

 private:
  void write_frame(RecordType type, ::capnp::MessageBuilder& message, std::uint64_t payload_bytes);
  void finish_payload();
  bool payloads_inline() const { return &records_ == &payloads_; }

  std::function<void(std::uint64_t)> on_payload_;
  ByteSink& records_;
  ByteSink& payloads_;
  Totals totals_;
  Hash64 frames_hash_;   // of the frame headers so far
  Hash64 payload_hash_;  // of the payload being written, when it goes into a file
  std::uint64_t payload_left_ = 0;
  bool in_payload_ = false;
  bool ended_ = false;
  std::vector<std::byte> buffer_;
};

}  // namespace telefork::image
