// Any bytes as an image: as they are, and with the numbers and checksums of their frames made
// right, without which hardly any input would get past its first record. Whatever is in them, the
// reader either gives records whose every field can be shown, or throws kCorrupt.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "image/frame.h"
#include "image/hash.h"
#include "image/memory_stream.h"
#include "image/reader.h"
#include "image/show.h"

namespace telefork::image {
namespace {

void read_all(ByteSource& records, ByteSource* payloads) {
  try {
    Reader reader(records, payloads);
    RecordType type{};
    do {
      const Record record = reader.next();
      type = record.type();
      tree_of(record);
      if (payloads == nullptr) {
        reader.payload_taken_elsewhere(reader.payload_left());
      } else {
        reader.skip_payload();
      }
    } while (type != RecordType::kEnd);
  } catch (const Error& error) {
    TELEFORK_ASSERT(error.code() == Code::kCorrupt);
  }
}

// The trailer of a payload that begins at `at`. Returns where the next frame begins.
std::size_t repair_payload(std::span<std::byte> image, std::size_t at, const FrameHeader& frame) {
  if (frame.payload_bytes > image.size() - at || image.size() - at - frame.payload_bytes < 8) {
    return image.size();
  }
  Hash64 hash(frame.number);
  hash.add(image.subspan(at, frame.payload_bytes));
  const std::uint64_t trailer = hash.value();
  std::memcpy(image.data() + at + frame.payload_bytes, &trailer, sizeof trailer);
  return at + frame.payload_bytes + sizeof trailer;
}

void repair(std::span<std::byte> image, bool payloads_inline) {
  std::uint32_t number = 0;
  for (std::size_t at = 0; image.size() - at >= sizeof(FrameHeader);) {
    FrameHeader frame;
    std::memcpy(&frame, image.data() + at, sizeof frame);
    const bool payload = has_payload(static_cast<RecordType>(frame.type));
    frame.magic = kMagic;
    frame.number = number++;
    frame.flags = payload && payloads_inline ? kPayloadInline : 0;
    if (!payload) frame.payload_bytes = 0;
    const std::size_t left = image.size() - at - sizeof frame;
    frame.metadata_bytes = static_cast<std::uint32_t>(
        std::min<std::size_t>(frame.metadata_bytes, left) & ~std::size_t{7});
    frame.checksum = frame_checksum(frame, image.subspan(at + sizeof frame, frame.metadata_bytes));
    std::memcpy(image.data() + at, &frame, sizeof frame);
    at += sizeof frame + frame.metadata_bytes;
    if (payload && payloads_inline) at = repair_payload(image, at, frame);
  }
}

}  // namespace
}  // namespace telefork::image

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace telefork::image;
  const auto input = std::as_bytes(std::span(data, size));
  MemorySource file(input);
  read_all(file, &file);

  std::vector<std::byte> repaired(input.begin(), input.end());
  repair(repaired, true);
  MemorySource repaired_file(repaired);
  read_all(repaired_file, &repaired_file);

  repair(repaired, false);
  MemorySource link(repaired);
  read_all(link, nullptr);
  return 0;
}
