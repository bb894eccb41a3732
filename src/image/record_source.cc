#include "image/record_source.h"

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::image {

::capnp::StructSchema record_schema(RecordType type) {
  switch (type) {
    case RecordType::kHeader:
      return ::capnp::Schema::from<schema::Header>();
    case RecordType::kProcess:
      return ::capnp::Schema::from<schema::Process>();
    case RecordType::kVma:
      return ::capnp::Schema::from<schema::Vma>();
    case RecordType::kPages:
      return ::capnp::Schema::from<schema::Pages>();
    case RecordType::kFileContent:
      return ::capnp::Schema::from<schema::FileContent>();
    case RecordType::kFreezeMark:
      return ::capnp::Schema::from<schema::FreezeMark>();
    case RecordType::kFiles:
      return ::capnp::Schema::from<schema::Files>();
    case RecordType::kSockets:
      return ::capnp::Schema::from<schema::Sockets>();
    case RecordType::kTimers:
      return ::capnp::Schema::from<schema::Timers>();
    case RecordType::kSignals:
      return ::capnp::Schema::from<schema::Signals>();
    case RecordType::kThreads:
      return ::capnp::Schema::from<schema::Thread>();
    case RecordType::kCommand:
      return ::capnp::Schema::from<schema::Command>();
    case RecordType::kEnd:
      return ::capnp::Schema::from<schema::End>();
    case RecordType::kTree:
      return ::capnp::Schema::from<schema::Tree>();
    case RecordType::kRound:
      return ::capnp::Schema::from<schema::Round>();
  }
  assertion_failed("a RecordType", __FILE__, __LINE__);
}

void Record::throw_wrong_type() const {
  throw Error(Code::kCorrupt,
              fmt::format("record {} of the image is a {} record, which does not belong there",
                          number_, record_type_name(type_)));
}

}  // namespace telefork::image
