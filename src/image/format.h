// The bytes of an image: its frames, its record types and its caps. docs/image-format.md is the
// same for people.
//
// An image is a process as a stream of records. A record is one frame:
//
//      0        4      6       8                12         16              24           32
//     +--------+------+-------+----------------+----------+---------------+------------+
//     | "TFRK" | type | flags | metadata bytes | number   | payload bytes | checksum   |
//     +--------+------+-------+----------------+----------+---------------+------------+
//     | metadata: one Cap'n Proto message (segment table, segments), whole 8-byte words|
//     +--------------------------------------------------------------------------------+
//     | payload: raw bytes, of pages and file contents only                            |
//     +-----------------------+--------------------------------------------------------+
//     | XXH3-64 of the payload|  in a file; over a link the payload goes elsewhere
//     +-----------------------+
//
// All numbers are little-endian. The checksum is XXH3-64 of the 24 bytes before it and the
// metadata. Records are numbered from 0.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace telefork::image {

// Part of the format: a number is never used again for something else.
enum class RecordType : std::uint16_t {
  kHeader = 1,   // schema::Header: version, purpose, machine; the first record
  kProcess,      // schema::Process; the second, unless there is a Command
  kVma,          // schema::Vma, one a mapping
  kPages,        // schema::Pages and their bytes; their VMA came before
  kFileContent,  // schema::FileContent and its bytes
  kFreezeMark,   // schema::FreezeMark: from here on the process stood still
  kFiles,        // schema::Files: open file descriptions and descriptors
  kSockets,      // schema::Sockets: what descriptions of kind socket name
  kTimers,       // schema::Timers
  kSignals,      // schema::Signals: actions, and what is pending for the process
  kThreads,      // schema::Thread, one a record
  kCommand,      // schema::Command: instead of a process, a command to be started
  kEnd,          // schema::End: totals; the last record
  kTree,         // schema::Tree: several processes that move as one; before the first of them
  kRound,        // schema::Round: pages follow that come while it runs; over a link only
};

// What this program writes, and the newest that it reads (Header.version). A field that old readers
// may ignore does not raise it; a new record type, enumerant or meaning does.
constexpr std::uint32_t kFormatVersion = 5;
constexpr std::uint32_t kOldestReadableVersion = 1;

// "TFRK" at the start of every frame, so also of every image file.
constexpr std::uint32_t kMagic = 0x4b524654;

// The payload follows its record in the same stream, and an 8-byte XXH3-64 follows the payload.
constexpr std::uint16_t kPayloadInline = 1;

// Of one record. A reader takes memory only as bytes arrive, kReadStep at a time, never by trusting
// a length.
constexpr std::uint32_t kMaxMetadata = 64 * 1024 * 1024;
constexpr std::size_t kReadStep = 1024 * 1024;
// Whoever writes pages splits them by this, and stays far below kMaxMetadata.
constexpr std::size_t kMaxRunsPerRecord = 1024 * 1024;

// The largest pages of hugetlb that a record may speak of: 1 GB, as log2 (Vma.hugeShift).
constexpr unsigned kMostHugeShift = 30;

struct FrameHeader {
  std::uint32_t magic = kMagic;
  std::uint16_t type = 0;
  std::uint16_t flags = 0;
  std::uint32_t metadata_bytes = 0;
  std::uint32_t number = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t checksum = 0;
};
static_assert(sizeof(FrameHeader) == 32 && offsetof(FrameHeader, checksum) == 24);
static_assert(std::is_trivially_copyable_v<FrameHeader>);
static_assert(std::endian::native == std::endian::little, "the format is little-endian");

// "vma"; "unknown" for a number that is no RecordType.
std::string_view record_type_name(RecordType type);
bool is_record_type(std::uint16_t number);
// Whether raw bytes belong to such a record.
bool has_payload(RecordType type);

}  // namespace telefork::image
