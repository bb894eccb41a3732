#include "image/reader.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/frame.h"

namespace telefork::image {
namespace {

// The version alone, out of a Header that may be of a format which is not known here.
std::uint32_t peek_version(const std::vector<std::uint64_t>& words) {
  try {
    ::capnp::FlatArrayMessageReader reader(
        {reinterpret_cast<const ::capnp::word*>(words.data()), words.size()});
    return reader.getRoot<schema::Header>().getVersion();
  } catch (const kj::Exception& exception) {
    throw Error(Code::kCorrupt,
                fmt::format("the metadata is no header: {}", exception.getDescription().cStr()));
  }
}

}  // namespace

Reader::Reader(ByteSource& file) : Reader(file, &file) {}

Reader::Reader(ByteSource& records, ByteSource* payloads)
    : records_(records), payloads_(payloads) {}

Record Reader::next() {
  TELEFORK_ASSERT(!ended_ && !in_payload_);
  previous_ = std::exchange(type_, std::nullopt);
  Record record = read_record();
  if (has_payload(record.type())) begin_payload(record);
  return record;
}

Record Reader::read_record() {
  const FrameHeader frame = read_frame();
  std::vector<std::uint64_t> words = read_metadata(frame);
  return with_context(current(), [&] {
    Record record(*type_, totals_.records, frame.payload_bytes,
                  check_message(frame, std::move(words)));
    rules_.check(record);
    if (*type_ == RecordType::kEnd) check_end(record.get<schema::End>());
    frames_hash_.add(frame_bytes(frame));
    ++totals_.records;
    return record;
  });
}

FrameHeader Reader::read_frame() {
  FrameHeader frame;
  read_exactly(records_, std::as_writable_bytes(std::span(&frame, 1)));
  with_context(current(), [&] { check_frame(frame, totals_.records, payloads_inline()); });
  type_ = static_cast<RecordType>(frame.type);
  return frame;
}

CheckedMessage Reader::check_message(const FrameHeader& frame, std::vector<std::uint64_t> words) {
  if (frame_checksum(frame, std::as_bytes(std::span(words))) != frame.checksum) {
    throw Error(Code::kCorrupt, "its checksum is wrong");
  }
  if (*type_ == RecordType::kHeader) check_format_version(peek_version(words));
  return {std::move(words), record_schema(*type_)};
}

std::vector<std::uint64_t> Reader::read_metadata(const FrameHeader& frame) {
  std::vector<std::uint64_t> words;
  const std::size_t all = frame.metadata_bytes / 8;
  while (words.size() < all) {
    const std::size_t have = words.size();
    words.resize(std::min(all, have + kReadStep / 8));
    read_exactly(records_, std::as_writable_bytes(std::span(words).subspan(have)));
  }
  return words;
}

void Reader::begin_payload(const Record& record) {
  payload_left_ = record.payload_bytes();
  in_payload_ = true;
  if (payloads_inline()) payload_hash_.reset(record.number());
  totals_.payload_bytes += record.payload_bytes();
  if (record.type() == RecordType::kPages) totals_.pages += record.payload_bytes() / kPageSize;
  if (payload_left_ == 0) finish_payload();
}

void Reader::read_payload(std::span<std::byte> bytes) {
  if (bytes.empty()) return;
  TELEFORK_ASSERT(payloads_ != nullptr && bytes.size() <= payload_left_);
  read_exactly(*payloads_, bytes);
  if (payloads_inline()) payload_hash_.add(bytes);
  payload_left_ -= bytes.size();
  if (payload_left_ == 0) finish_payload();
}

void Reader::skip_payload() {
  std::vector<std::byte> buffer(std::min<std::uint64_t>(payload_left_, kReadStep / 4));
  while (payload_left_ > 0) {
    read_payload(std::span(buffer).first(std::min<std::uint64_t>(payload_left_, buffer.size())));
  }
}

void Reader::payload_taken_elsewhere(std::uint64_t bytes) {
  TELEFORK_ASSERT(!payloads_inline() && bytes <= payload_left_);
  totals_.bytes += bytes;
  payload_left_ -= bytes;
  if (payload_left_ == 0) finish_payload();
}

void Reader::finish_payload() {
  if (payloads_inline()) {
    std::uint64_t trailer = 0;
    read_exactly(records_, std::as_writable_bytes(std::span(&trailer, 1)));
    if (trailer != payload_hash_.value()) {
      throw Error(Code::kCorrupt,
                  fmt::format("{}: the checksum of its payload is wrong", current()));
    }
  }
  in_payload_ = false;
}

void Reader::check_end(schema::End::Reader end) {
  if (end.getRecords() != totals_.records || end.getPages() != totals_.pages ||
      end.getPayloadBytes() != totals_.payload_bytes) {
    throw Error(Code::kCorrupt,
                fmt::format("it tells of {} records, {} pages and {} bytes, but {}, {} and {} came",
                            end.getRecords(), end.getPages(), end.getPayloadBytes(),
                            totals_.records, totals_.pages, totals_.payload_bytes));
  }
  if (end.getChecksum() != frames_hash_.value()) {
    throw Error(Code::kCorrupt, "its checksum over all records is wrong");
  }
  if (payloads_inline() && !records_.at_end()) {
    throw Error(Code::kCorrupt, "there are bytes behind it");
  }
  ended_ = true;
}

void Reader::read_exactly(ByteSource& source, std::span<std::byte> bytes) {
  try {
    source.read(bytes);
  } catch (Error& error) {
    if (error.code() != Code::kCorrupt && error.code() != Code::kLost) throw;
    error.add_context(where_truncated());
    throw;
  }
  totals_.bytes += bytes.size();
}

std::string Reader::current() const {
  // A record is counted once it is whole; only its payload is read after that.
  const std::uint64_t number = in_payload_ ? totals_.records - 1 : totals_.records;
  return type_ ? fmt::format("image record {} ({})", number, record_type_name(*type_))
               : fmt::format("image record {}", number);
}

std::string Reader::where_truncated() const {
  if (in_payload_) return fmt::format("the image is truncated in the payload of {}", current());
  if (!previous_) return "the image is truncated in its first record";
  return fmt::format("the image is truncated after record {} ({})", totals_.records - 1,
                     record_type_name(*previous_));
}

}  // namespace telefork::image
