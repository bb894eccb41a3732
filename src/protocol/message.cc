#include "protocol/message.h"

#include <cstring>

#include <capnp/dynamic.h>
#include <fmt/format.h>

namespace telefork::protocol {
namespace {

using ::capnp::DynamicList;
using ::capnp::DynamicStruct;
using ::capnp::DynamicValue;
using ::capnp::StructSchema;

constexpr unsigned kHighestCode = static_cast<unsigned>(Code::kGone);

void check_struct(const DynamicStruct::Reader& value);

void check_value(const DynamicValue::Reader& value) {
  switch (value.getType()) {
    case DynamicValue::STRUCT:
      check_struct(value.as<DynamicStruct>());
      break;
    case DynamicValue::LIST:
      for (DynamicValue::Reader element : value.as<DynamicList>()) check_value(element);
      break;
    case DynamicValue::ENUM:
      if (value.as<::capnp::DynamicEnum>().getEnumerant() == nullptr) {
        throw Error(Code::kCorrupt, "a message with an unknown value");
      }
      break;
    default:
      break;  // numbers cannot be wrong; text and data were checked when they were got
  }
}

// Of a union only the member that is set is there.
void check_struct(const DynamicStruct::Reader& value) {
  for (StructSchema::Field field : value.getSchema().getNonUnionFields()) {
    check_value(value.get(field));
  }
  KJ_IF_MAYBE (member, value.which()) {
    check_value(value.get(*member));
  }
}

kj::ArrayPtr<const ::capnp::word> as_words(const std::vector<std::uint64_t>& words) {
  return {reinterpret_cast<const ::capnp::word*>(words.data()), words.size()};
}

// Each object of an honest message is visited once, so that its size bounds the visit; a bomb (few
// bytes that unfold to many) does not pass.
void check_message(const std::vector<std::uint64_t>& words) {
  ::capnp::ReaderOptions options;
  options.traversalLimitInWords = 2 * words.size() + 64;
  ::capnp::FlatArrayMessageReader reader(as_words(words), options);
  if (reader.getEnd() != as_words(words).end()) {
    throw Error(Code::kCorrupt, "a message with bytes behind it");
  }
  check_struct(reader.getRoot<DynamicStruct>(::capnp::Schema::from<schema::Message>()));
}

}  // namespace

ReceivedMessage::ReceivedMessage(std::span<const std::byte> bytes) : words_(decode_words(bytes)) {
  try {
    check_message(words_);
    ::capnp::ReaderOptions options;
    options.traversalLimitInWords = kj::maxValue;
    reader_ = std::make_unique<::capnp::FlatArrayMessageReader>(as_words(words_), options);
    root_ = reader_->getRoot<schema::Message>();
  } catch (const kj::Exception& exception) {
    throw Error(Code::kCorrupt,
                fmt::format("a damaged message: {}", exception.getDescription().cStr()));
  }
}

std::vector<std::byte> encode_words(::capnp::MessageBuilder& message) {
  auto segments = message.getSegmentsForOutput();
  std::size_t words = ::capnp::computeSerializedSizeInWords(segments);
  kj::Array<::capnp::word> array = ::capnp::messageToFlatArray(segments);
  TELEFORK_ASSERT(array.size() == words);
  std::vector<std::byte> bytes(words * sizeof(::capnp::word));
  std::memcpy(bytes.data(), array.begin(), bytes.size());
  return bytes;
}

std::vector<std::byte> encode_message(const FillMessage& fill) {
  ::capnp::MallocMessageBuilder message;
  fill(message.initRoot<schema::Message>());
  return encode_words(message);
}

std::vector<std::uint64_t> decode_words(std::span<const std::byte> bytes) {
  if (bytes.size() % sizeof(std::uint64_t) != 0 || bytes.empty()) {
    throw Error(Code::kCorrupt, fmt::format("a message of {} bytes", bytes.size()));
  }
  std::vector<std::uint64_t> words(bytes.size() / sizeof(std::uint64_t));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

std::string_view message_name(schema::Message::Which which) {
  auto number = static_cast<unsigned>(which);
  for (auto field : ::capnp::Schema::from<schema::Message>().getUnionFields()) {
    if (field.getProto().getDiscriminantValue() == number) {
      kj::StringPtr name = field.getProto().getName();
      return {name.cStr(), name.size()};
    }
  }
  return "unknown";
}

void throw_unexpected(const ReceivedMessage& message, std::string_view expected) {
  throw Error(Code::kCorrupt, fmt::format("the message '{}' came where '{}' was expected",
                                          message_name(message->which()), expected));
}

void encode_failure(const Error& error, schema::Failure::Builder failure) {
  failure.setCode(static_cast<std::uint32_t>(error.code()));
  failure.setErrno(static_cast<std::uint32_t>(error.error()));
  failure.setText(error.what());
}

namespace {

// Each line of refusals says so once, and whose it is.
std::string with_node(std::string_view node, std::string_view text) {
  constexpr std::string_view kRefused = "refused: ";
  if (!text.starts_with(kRefused)) return fmt::format("{}: {}", node, text);
  std::string lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    if (line.starts_with(kRefused)) line.remove_prefix(kRefused.size());
    lines += fmt::format("{}{}: {}", lines.empty() ? "" : "\n", node, line);
    at = end + 1;
  }
  return lines;
}

}  // namespace

Error decode_failure(schema::Failure::Reader failure, std::string_view node) {
  bool known = failure.getCode() >= 1 && failure.getCode() <= kHighestCode;
  Code code = known ? static_cast<Code>(failure.getCode()) : Code::kFailed;
  auto number = static_cast<int>(failure.getErrno());
  std::string text(failure.getText().cStr(), failure.getText().size());
  // Error appends the errno's text, which the other machine did as well.
  std::string ending = fmt::format(": {}", std::strerror(number));
  if (number != 0 && text.ends_with(ending)) {
    text.resize(text.size() - ending.size());
  } else {
    number = 0;
  }
  return {code, with_node(node, text), number};
}

}  // namespace telefork::protocol
