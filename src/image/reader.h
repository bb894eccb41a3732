// Makes records out of the bytes of an image, and believes none of them.
//
//     Reader reader(file);                    // an image file: payloads in the same stream
//     Reader reader(control, &bulk);          // a link: payloads raw from over there
//     Reader reader(control, nullptr);        // a link whose payloads another process receives
//
// Guarantees: every record that next() gives is whole, of a known type, in its place, and obeys
// record_rules.h; its accessors cannot throw. In a file, no byte can change unnoticed, payloads
// included (theirs is known only when all of one was read). Memory is taken as bytes arrive, never
// by an announced length. Whatever is wrong is an Error of code kCorrupt (kLost if a link broke)
// whose text names the record. After an Error nothing more can be read.
//
// A record is two reads of the source (32 bytes, then its metadata): buffer below if that costs.
// Owned by one thread; the sources must outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "image/byte_stream.h"
#include "image/hash.h"
#include "image/record_rules.h"
#include "image/record_source.h"
#include "image/totals.h"

namespace telefork::image {

class Reader : public RecordSource {
 public:
  explicit Reader(ByteSource& file);
  Reader(ByteSource& records, ByteSource* payloads);

  Record next() override;
  void read_payload(std::span<std::byte> bytes) override;
  void skip_payload() override;
  void payload_taken_elsewhere(std::uint64_t bytes) override;
  std::uint64_t payload_left() const override { return payload_left_; }

  // So far; all of it after the End.
  const Totals& totals() const { return totals_; }
  bool ended() const { return ended_; }

 private:
  Record read_record();
  FrameHeader read_frame();
  CheckedMessage check_message(const FrameHeader& frame, std::vector<std::uint64_t> words);
  std::vector<std::uint64_t> read_metadata(const FrameHeader& frame);
  void begin_payload(const Record& record);
  void finish_payload();
  void check_end(schema::End::Reader end);
  void read_exactly(ByteSource& source, std::span<std::byte> bytes);
  bool payloads_inline() const { return payloads_ == &records_; }
  // "image record 4 (vma)": the one being read, as far as it is known.
  std::string current() const;
  // "the image is truncated after record 3 (vma)".
  std::string where_truncated() const;

  ByteSource& records_;
  ByteSource* payloads_;
  RecordRules rules_;
  Totals totals_;
  Hash64 frames_hash_;
  Hash64 payload_hash_;
  std::uint64_t payload_left_ = 0;
  bool in_payload_ = false;
  bool ended_ = false;
  std::optional<RecordType> type_;      // of the record being read, once it is known
  std::optional<RecordType> previous_;  // of the last whole one
};

}  // namespace telefork::image
