// Control messages as values: filled in by a function, sent by a Link, received whole and checked.
//
//     link.send([&](schema::Message::Builder message) { message.initReady().setPid(pid); });
//
//     ReceivedMessage message = link.receive(Deadline::in(10s));
//     switch (message->which()) {
//       case schema::Message::READY: use(message->getReady().getPid()); break;
//       default: throw_unexpected(message, "ready");
//     }
//
// Nothing read from a ReceivedMessage can throw (image/checked_message.h). `which()` may be a
// number that this version does not know.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include "base/error.h"
#include "protocol/messages.capnp.h"

namespace telefork::protocol {

class ReceivedMessage {
 public:
  // Throws kCorrupt unless every pointer that the schema knows is sound.
  explicit ReceivedMessage(std::span<const std::byte> bytes);
  ReceivedMessage(ReceivedMessage&&) noexcept = default;
  ReceivedMessage& operator=(ReceivedMessage&&) noexcept = default;

  const schema::Message::Reader& operator*() const { return root_; }
  const schema::Message::Reader* operator->() const { return &root_; }

 private:
  std::vector<std::uint64_t> words_;
  std::unique_ptr<::capnp::FlatArrayMessageReader> reader_;
  schema::Message::Reader root_;
};

using FillMessage = std::function<void(schema::Message::Builder)>;

// The bytes of one message as one flat array.
std::vector<std::byte> encode_words(::capnp::MessageBuilder& message);
std::vector<std::byte> encode_message(const FillMessage& fill);
// Copied to where Cap'n Proto may read them; kCorrupt when they are no whole words.
std::vector<std::uint64_t> decode_words(std::span<const std::byte> bytes);

// "checkFiles"; "unknown" for a number that is none.
std::string_view message_name(schema::Message::Which which);
// kCorrupt: "status came where ready was expected".
[[noreturn]] void throw_unexpected(const ReceivedMessage& message, std::string_view expected);

// An Error across machines. What arrives reads "node7: restoring memory: ...".
void encode_failure(const Error& error, schema::Failure::Builder failure);
Error decode_failure(schema::Failure::Reader failure, std::string_view node);

}  // namespace telefork::protocol
