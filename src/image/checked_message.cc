#include "image/checked_message.h"

#include <string>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::image {
namespace {

using ::capnp::DynamicList;
using ::capnp::DynamicStruct;
using ::capnp::DynamicValue;
using ::capnp::StructSchema;
namespace types = ::capnp::schema;

// Whether reading an element of this struct could still throw once the list itself was found good.
bool holds_something_to_check(StructSchema schema) {
  if (schema.getProto().getStruct().getPointerCount() > 0) return true;
  for (StructSchema::Field field : schema.getFields()) {
    if (field.getType().isEnum()) return true;
  }
  return false;
}

void check_struct(const DynamicStruct::Reader& value);

void check_enumerant(const ::capnp::DynamicEnum& value, StructSchema::Field field) {
  if (value.getEnumerant() != nullptr) return;
  throw Error(Code::kCorrupt, fmt::format("{} has the unknown value {}",
                                          field.getProto().getName().cStr(), value.getRaw()));
}

void check_list(const DynamicList::Reader& list) {
  const ::capnp::Type element = list.getSchema().getElementType();
  switch (element.which()) {
    case types::Type::STRUCT:
      if (!holds_something_to_check(element.asStruct())) return;
      for (DynamicValue::Reader value : list) check_struct(value.as<DynamicStruct>());
      return;
    case types::Type::TEXT:
    case types::Type::DATA:
      for (unsigned i = 0; i < list.size(); ++i) list[i];  // throws if it is no such thing
      return;
    default:
      // Numbers cannot be wrong; the schema has no lists of anything else.
      TELEFORK_ASSERT(!element.isList() && !element.isEnum() && !element.isAnyPointer());
  }
}

void check_struct(const DynamicStruct::Reader& value) {
  for (StructSchema::Field field : value.getSchema().getFields()) {
    switch (field.getType().which()) {
      case types::Type::TEXT:
      case types::Type::DATA:
        value.get(field);
        break;
      case types::Type::LIST:
        check_list(value.get(field).as<DynamicList>());
        break;
      case types::Type::STRUCT:
        check_struct(value.get(field).as<DynamicStruct>());
        break;
      case types::Type::ENUM:
        check_enumerant(value.get(field).as<::capnp::DynamicEnum>(), field);
        break;
      default:
        TELEFORK_ASSERT(!field.getType().isAnyPointer() && !field.getType().isInterface());
    }
  }
}

kj::ArrayPtr<const ::capnp::word> as_words(const std::vector<std::uint64_t>& words) {
  return {reinterpret_cast<const ::capnp::word*>(words.data()), words.size()};
}

// Each object of an honest message is visited once, so the visit costs no more than the message is
// long. Whatever costs more has objects that overlap.
void check_once(const std::vector<std::uint64_t>& words, StructSchema schema) {
  ::capnp::ReaderOptions options;
  options.traversalLimitInWords = words.size();
  ::capnp::FlatArrayMessageReader reader(as_words(words), options);
  if (reader.getEnd() != as_words(words).end()) {
    throw Error(Code::kCorrupt, "the metadata has bytes behind its message");
  }
  check_struct(reader.getRoot<DynamicStruct>(schema));
}

}  // namespace

CheckedMessage::CheckedMessage(std::vector<std::uint64_t> words, StructSchema schema)
    : words_(std::move(words)) {
  try {
    check_once(words_, schema);
    ::capnp::ReaderOptions options;
    options.traversalLimitInWords = kj::maxValue;
    reader_ = std::make_unique<::capnp::FlatArrayMessageReader>(as_words(words_), options);
    root_ = reader_->getRoot<DynamicStruct>(schema);
  } catch (const kj::Exception& exception) {
    throw Error(Code::kCorrupt,
                fmt::format("the metadata is no {}: {}", schema.getShortDisplayName().cStr(),
                            exception.getDescription().cStr()));
  }
}

CheckedMessage::CheckedMessage(CheckedMessage&&) noexcept = default;
CheckedMessage& CheckedMessage::operator=(CheckedMessage&&) noexcept = default;
CheckedMessage::~CheckedMessage() = default;

}  // namespace telefork::image
