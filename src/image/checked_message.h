// A Cap'n Proto message from outside, made safe to read.
//
// Cap'n Proto looks at a pointer when it is followed, so a damaged message throws kj::Exception
// somewhere in the middle of whoever reads it. A CheckedMessage follows every pointer that its
// schema knows once, when it is made, and is refused there as a whole (Error of code kCorrupt).
// After that no accessor can throw: not for bounds, types, text without its end, enumerants that
// this program does not know, nor for being read too often. A message whose pointers overlap (a
// bomb: few bytes that unfold to many) does not pass either.
//
//     CheckedMessage message(std::move(words), ::capnp::Schema::from<schema::Vma>());
//     message.root<schema::Vma>().getStart();
//
// What the values mean is still the reader's to check. Text may hold any bytes but NUL: escape it
// before it reaches a terminal or JSON. The words belong to the CheckedMessage; what root() gives
// lives as long. Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <capnp/dynamic.h>
#include <capnp/schema.h>
#include <capnp/serialize.h>

namespace telefork::image {

class CheckedMessage {
 public:
  // Throws kCorrupt. `words` is one message as messageToFlatArray() makes it, nothing behind it.
  CheckedMessage(std::vector<std::uint64_t> words, ::capnp::StructSchema schema);
  CheckedMessage(CheckedMessage&&) noexcept;
  CheckedMessage& operator=(CheckedMessage&&) noexcept;
  ~CheckedMessage();

  // T must be the struct that the message was checked against.
  template <class T>
  typename T::Reader root() const {
    return root().as<T>();
  }
  ::capnp::DynamicStruct::Reader root() const { return root_; }
  ::capnp::StructSchema schema() const { return root_.getSchema(); }

 private:
  std::vector<std::uint64_t> words_;
  std::unique_ptr<::capnp::FlatArrayMessageReader> reader_;
  ::capnp::DynamicStruct::Reader root_;
};

}  // namespace telefork::image
