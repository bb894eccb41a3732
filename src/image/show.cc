#include "image/show.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include <capnp/dynamic.h>
#include <fmt/format.h>

#include "base/error.h"

namespace telefork::image {
namespace {

using ::capnp::DynamicEnum;
using ::capnp::DynamicList;
using ::capnp::DynamicStruct;
using ::capnp::DynamicValue;

// childTid -> child_tid
std::string snake_case(std::string_view camel_case) {
  std::string name;
  for (char c : camel_case) {
    const auto letter = static_cast<unsigned char>(c);
    if (std::isupper(letter) != 0) name += '_';
    name += static_cast<char>(std::tolower(letter));
  }
  return name;
}

Tree::Bytes bytes_of(::capnp::Data::Reader data) {
  const auto bytes = std::as_bytes(std::span(data.begin(), data.size()));
  return {bytes.begin(), bytes.end()};
}

std::string name_of(const DynamicEnum& value) {
  KJ_IF_MAYBE (enumerant, value.getEnumerant()) {
    return snake_case(enumerant->getProto().getName().cStr());
  }
  return fmt::format("{}", value.getRaw());
}

Tree tree_of_value(std::string name, const DynamicValue::Reader& value);

void add_fields(Tree& tree, const DynamicStruct::Reader& value) {
  for (::capnp::StructSchema::Field field : value.getSchema().getFields()) {
    std::string name = snake_case(field.getProto().getName().cStr());
    const bool absent = field.getType().isStruct() && !value.has(field);
    tree.children.push_back(absent ? Tree{std::move(name), Tree::Absent{}, {}}
                                   : tree_of_value(std::move(name), value.get(field)));
  }
}

Tree tree_of_list(std::string name, const DynamicList::Reader& list) {
  Tree tree{std::move(name), Tree::List{}, {}};
  tree.children.reserve(list.size());
  for (DynamicValue::Reader element : list) tree.children.push_back(tree_of_value("", element));
  return tree;
}

Tree tree_of_struct(std::string name, const DynamicStruct::Reader& value) {
  Tree tree{std::move(name), Tree::Object{}, {}};
  add_fields(tree, value);
  return tree;
}

Tree tree_of_value(std::string name, const DynamicValue::Reader& value) {
  switch (value.getType()) {
    case DynamicValue::BOOL:
      return {std::move(name), value.as<bool>(), {}};
    case DynamicValue::INT:
      return {std::move(name), value.as<std::int64_t>(), {}};
    case DynamicValue::UINT:
      return {std::move(name), value.as<std::uint64_t>(), {}};
    case DynamicValue::TEXT:
      return {std::move(name), std::string(value.as<::capnp::Text>().cStr()), {}};
    case DynamicValue::DATA:
      return {std::move(name), bytes_of(value.as<::capnp::Data>()), {}};
    case DynamicValue::ENUM:
      return {std::move(name), name_of(value.as<DynamicEnum>()), {}};
    case DynamicValue::LIST:
      return tree_of_list(std::move(name), value.as<DynamicList>());
    case DynamicValue::STRUCT:
      return tree_of_struct(std::move(name), value.as<DynamicStruct>());
    default:
      assertion_failed("a type that the schema uses", __FILE__, __LINE__);
  }
}

}  // namespace

const Tree* Tree::find(std::string_view child) const {
  const auto found = std::find_if(children.begin(), children.end(),
                                  [&](const Tree& tree) { return tree.name == child; });
  return found == children.end() ? nullptr : &*found;
}

Tree tree_of(const Record& record) {
  Tree tree{"", Tree::Object{}, {}};
  tree.children.push_back({"record", record.number(), {}});
  tree.children.push_back({"type", std::string(record_type_name(record.type())), {}});
  add_fields(tree, record.fields());
  if (has_payload(record.type())) {
    tree.children.push_back({"payload_bytes", record.payload_bytes(), {}});
  }
  return tree;
}

void for_each_tree(RecordSource& source, const std::function<void(Tree)>& f) {
  RecordType type{};
  do {
    const Record record = source.next();
    type = record.type();
    f(tree_of(record));
    source.skip_payload();
  } while (type != RecordType::kEnd);
}

Tree tree_of_image(RecordSource& source) {
  Tree records{"records", Tree::List{}, {}};
  for_each_tree(source, [&](Tree tree) { records.children.push_back(std::move(tree)); });
  return {"", Tree::Object{}, {std::move(records)}};
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (std::byte byte : bytes) {
    fmt::format_to(std::back_inserter(text), "{:02x}", std::to_integer<unsigned>(byte));
  }
  return text;
}

std::string abbreviated_hex(std::span<const std::byte> bytes, std::size_t most) {
  if (bytes.size() <= most) return hex(bytes);
  return fmt::format("{}... ({} bytes)", hex(bytes.first(most)), bytes.size());
}

}  // namespace telefork::image
