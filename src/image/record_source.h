// Where restore/ and `telefork show` get their records from. reader.h makes one of bytes.
//
//     for (;;) {
//       Record record = source.next();
//       switch (record.type()) {
//         case RecordType::kVma:   restore_vma(record.get<schema::Vma>()); break;
//         case RecordType::kPages: while (...) source.read_payload(piece); break;
//         case RecordType::kEnd:   return;
//       }
//     }
//
// A payload is to be dealt with in these ways before the next record is asked for; a
// RecordSource asserts that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <capnp/schema.h>

#include "image/checked_message.h"
#include "image/format.h"
#include "image/image.capnp.h"

namespace telefork::image {

// The struct that stands in a record of this type.
::capnp::StructSchema record_schema(RecordType type);

// One record. It owns its metadata and may be kept; what get() gives lives as long as it.
class Record {
 public:
  Record(RecordType type, std::uint64_t number, std::uint64_t payload_bytes, CheckedMessage message)
      : type_(type), number_(number), payload_bytes_(payload_bytes), message_(std::move(message)) {}

  RecordType type() const { return type_; }
  // From 0.
  std::uint64_t number() const { return number_; }
  std::uint64_t payload_bytes() const { return payload_bytes_; }

  // Throws kCorrupt if the record is of another type: what comes next in an image is the sender's
  // choice. Nothing read from the result can throw; see checked_message.h.
  template <class T>
  typename T::Reader get() const {
    if (message_.schema() != ::capnp::Schema::from<T>()) throw_wrong_type();
    return message_.root<T>();
  }
  // For those who treat all records alike.
  ::capnp::DynamicStruct::Reader fields() const { return message_.root(); }

 private:
  [[noreturn]] void throw_wrong_type() const;

  RecordType type_;
  std::uint64_t number_;
  std::uint64_t payload_bytes_;
  CheckedMessage message_;
};

class RecordSource {
 public:
  virtual ~RecordSource() = default;
  // The next record; the last one is of type kEnd, and nothing may be asked for after it. Throws
  // kCorrupt, and what the stream throws.
  virtual Record next() = 0;

  // The payload of the record that next() gave last, in order and in pieces of any size.
  virtual void read_payload(std::span<std::byte> bytes) = 0;
  // The rest of it is read and thrown away.
  virtual void skip_payload() = 0;
  // The next bytes of it do not come through here: another process has received them. They are
  // counted only. Not where payloads stand between the records.
  virtual void payload_taken_elsewhere(std::uint64_t bytes) = 0;
  virtual std::uint64_t payload_left() const = 0;
};

}  // namespace telefork::image
