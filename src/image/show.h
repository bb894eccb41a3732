// An image as a tree that people and scripts can be shown. app/ makes text and JSON of it.
//
//     for_each_tree(reader, [](const Tree& record) { print(record); });   // bounded memory
//     Tree image = tree_of_image(reader);                                 // all of it
//
// The trees are made by reflection over the schema, so that a field which is added there is shown
// without anybody writing code. Names are the schema's in snake_case. Of payloads the runs and the
// number of bytes are shown, not the bytes; they are read all the same, so a damaged one is
// noticed.
//
// Text comes as it stands in the image, any byte but NUL: escape it for a terminal, and replace
// what is not UTF-8 for JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "image/record_source.h"

namespace telefork::image {

struct Tree {
  struct Absent {  // a struct that the record does not have
    bool operator==(const Absent&) const = default;
  };
  struct Object {  // its children are named
    bool operator==(const Object&) const = default;
  };
  struct List {  // its children have no names
    bool operator==(const List&) const = default;
  };
  using Bytes = std::vector<std::byte>;
  using Value =
      std::variant<Absent, Object, List, bool, std::int64_t, std::uint64_t, std::string, Bytes>;

  std::string name;
  Value value;
  std::vector<Tree> children;  // of an Object or List, in the order of the schema

  // The child of that name, or null.
  const Tree* find(std::string_view child) const;
};

// An Object: "record" (number), "type", the fields, and "payload_bytes" if it has a payload.
Tree tree_of(const Record& record);

// Calls f for every record up to and with the End.
void for_each_tree(RecordSource& source, const std::function<void(Tree)>& f);

// An Object with one List, "records".
Tree tree_of_image(RecordSource& source);

// "0a0b0c", and "0a0b0c... (216 bytes)" where there are more than `most`.
std::string hex(std::span<const std::byte> bytes);
std::string abbreviated_hex(std::span<const std::byte> bytes, std::size_t most = 16);

}  // namespace telefork::image
