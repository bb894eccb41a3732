#include "image/frame.h"

#include <array>

#include <fmt/format.h>

#include "base/error.h"
#include "image/hash.h"

namespace telefork::image {
namespace {

struct TypeFacts {
  std::string_view name;
  bool payload;
};

// By number, from RecordType::kHeader on.
constexpr std::array<TypeFacts, 15> kTypes{{
    {"header", false},
    {"process", false},
    {"vma", false},
    {"pages", true},
    {"file content", true},
    {"freeze mark", false},
    {"files", false},
    {"sockets", false},
    {"timers", false},
    {"signals", false},
    {"thread", false},
    {"command", false},
    {"end", false},
    {"tree", false},
    {"round", false},
}};
static_assert(kTypes.size() == static_cast<std::size_t>(RecordType::kRound));

}  // namespace

bool is_record_type(std::uint16_t number) { return number >= 1 && number <= kTypes.size(); }

std::string_view record_type_name(RecordType type) {
  const auto number = static_cast<std::uint16_t>(type);
  return is_record_type(number) ? kTypes[number - 1].name : "unknown";
}

bool has_payload(RecordType type) {
  const auto number = static_cast<std::uint16_t>(type);
  return is_record_type(number) && kTypes[number - 1].payload;
}

std::uint64_t frame_checksum(const FrameHeader& header, std::span<const std::byte> metadata) {
  Hash64 hash;
  hash.add(frame_bytes(header).first(offsetof(FrameHeader, checksum)));
  hash.add(metadata);
  return hash.value();
}

void check_frame(const FrameHeader& header, std::uint64_t expected_number, bool payloads_inline) {
  if (header.magic != kMagic) {
    throw Error(Code::kCorrupt, expected_number == 0 ? "this is not a telefork image"
                                                     : "no record begins where one should");
  }
  if (!is_record_type(header.type)) {
    throw Error(Code::kCorrupt, fmt::format("its type {} is unknown", header.type));
  }
  if (header.number != static_cast<std::uint32_t>(expected_number)) {
    throw Error(Code::kCorrupt, fmt::format("it says that it is record {}", header.number));
  }
  if (header.metadata_bytes > kMaxMetadata) {
    throw Error(Code::kCorrupt, fmt::format("{} bytes of metadata are more than the {} allowed",
                                            header.metadata_bytes, kMaxMetadata));
  }
  if (header.metadata_bytes == 0 || header.metadata_bytes % 8 != 0) {
    throw Error(Code::kCorrupt,
                fmt::format("{} bytes of metadata are not whole words", header.metadata_bytes));
  }
  const bool payload = has_payload(static_cast<RecordType>(header.type));
  if (!payload && header.payload_bytes != 0) {
    throw Error(Code::kCorrupt, "it has a payload, which its type cannot have");
  }
  if (header.flags != (payload && payloads_inline ? kPayloadInline : 0)) {
    throw Error(Code::kCorrupt, fmt::format("its flags {:#x} do not fit here", header.flags));
  }
}

}  // namespace telefork::image
