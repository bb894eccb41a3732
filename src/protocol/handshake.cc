#include "protocol/handshake.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <sys/random.h>

namespace telefork::protocol {
namespace {

constexpr const char* kMagic = "telefork";
constexpr const char* kCreator = "telefork 0.1.0";
constexpr const char* kNameOne = "name where a telepad listens";
constexpr std::size_t kPreambleName = 6;  // "TFLINK", before the two digits

template <class T>
image::CheckedMessage decode_greeting(std::span<const std::byte> bytes) {
  return with_context("the greeting", [&] {
    return image::CheckedMessage(decode_words(bytes), ::capnp::Schema::from<T>());
  });
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string printable(std::string_view text) {
  std::string out(text);
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return out;
}

void check_preamble(std::string_view text) {
  if (!begins_greeting(text)) throw Error(Code::kCorrupt, "the other end is no telepad");
  if (text.size() >= kPreamble.size() && text.substr(0, kPreamble.size()) != kPreamble) {
    throw Error(Code::kRefused, fmt::format("the link format is {} there and {} here",
                                            printable(text.substr(kPreambleName, 2)),
                                            kPreamble.substr(kPreambleName)));
  }
}

std::size_t decode_length(std::span<const std::byte> bytes) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < 4; ++i) length |= std::to_integer<std::size_t>(bytes[i]) << (8 * i);
  if (length == 0 || length > kMaxHello) {
    throw Error(Code::kCorrupt, fmt::format("a greeting of {} bytes", length));
  }
  return length;
}

void send_greeting(net::Stream& stream, ::capnp::MessageBuilder& message, net::Deadline deadline) {
  std::vector<std::byte> body = encode_words(message);
  TELEFORK_ASSERT(body.size() <= kMaxHello);
  std::vector<std::byte> head;
  for (char c : kPreamble) head.push_back(static_cast<std::byte>(c));
  for (std::size_t i = 0; i < 4; ++i)
    head.push_back(static_cast<std::byte>(body.size() >> (8 * i)));
  stream.write_all(head, body, deadline);
}

HelloDecoder receive_greeting(net::Stream& stream, net::Deadline deadline) {
  HelloDecoder decoder;
  while (!decoder.complete()) {
    std::size_t count = stream.read_some(decoder.begin_receive(), deadline);
    if (count == 0) stream.throw_closed();
    decoder.end_receive(count);
  }
  return decoder;
}

// In the place of what became of a connection whose other end has not answered.
Error explain_no_answer(const Error& error) {
  if (error.error() == ETIMEDOUT) {
    return Error(
        Code::kLost,
        "it was reached and does not answer, as a telepad that is stopped (kill -CONT lets "
        "it go on): waiting for its greeting",
        ETIMEDOUT);
  }
  return Error(Code::kLost,
               fmt::format("it has closed the connection without an answer; if it is a "
                           "telepad its log says why, else {}",
                           kNameOne));
}

// Nothing was said to it so far.
HelloDecoder exchange_greetings(net::Stream& stream, ::capnp::MessageBuilder& message,
                                net::Deadline deadline) {
  HelloDecoder decoder;
  bool begun = false;
  try {
    send_greeting(stream, message, deadline);
    while (!decoder.complete()) {
      std::span<std::byte> room = decoder.begin_receive();
      const std::size_t count = stream.read_some(room, deadline);
      if (count == 0) stream.throw_closed();
      if (!begun && !begins_greeting(as_text(room.first(count)))) {
        throw Error(Code::kCorrupt, fmt::format("it answers, but is no telepad; {}", kNameOne));
      }
      begun = true;
      decoder.end_receive(count);
    }
  } catch (const Error& error) {
    if (error.code() != Code::kLost) throw;
    throw explain_no_answer(error);
  }
  return decoder;
}

void check_version(std::uint32_t there) {
  if (there == kProtocolVersion) return;
  throw Error(Code::kRefused,
              fmt::format("the protocol is version {} there and {} here: use the same telefork on "
                          "both machines",
                          there, kProtocolVersion));
}

void check_architecture(image::schema::Machine::Reader there, image::schema::Machine::Reader here) {
  std::string_view their = there.getArchitecture().cStr();
  std::string_view our = here.getArchitecture().cStr();
  if (their == our) return;
  throw Error(Code::kRefused, fmt::format("the architecture is {} there and {} here",
                                          printable(their), printable(our)));
}

void fill_hello(schema::Hello::Builder hello, image::schema::Machine::Reader own,
                const FillHello& fill) {
  hello.setMagic(kMagic);
  hello.setVersion(kProtocolVersion);
  hello.setMachine(own);
  hello.setCreator(kCreator);
  if (fill) fill(hello);
}

void fill_reply(schema::HelloReply::Builder reply, image::schema::Machine::Reader own) {
  reply.setVersion(kProtocolVersion);
  reply.setMachine(own);
  reply.setCreator(kCreator);
}

// As with_context(), but a stream may have said already which node it is of.
template <class F>
decltype(auto) naming(const std::string& node, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (Error& error) {
    if (!error.text().starts_with(node + ":")) error.add_context(node);
    throw;
  }
}

template <class F>
decltype(auto) recoding(Code from, Code to, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (Error& error) {
    if (error.code() == from) error.set_code(to);
    throw;
  }
}
// Who has not answered the first hello as a telepad does was not reached, whatever became of the
// connection and whoever else has answered.
template <class F>
decltype(auto) reaching(F&& f) {
  return recoding(Code::kCorrupt, Code::kUnreachable,
                  [&] { return recoding(Code::kLost, Code::kUnreachable, std::forward<F>(f)); });
}
// And who has answered it was.
template <class F>
decltype(auto) joining(F&& f) {
  return recoding(Code::kUnreachable, Code::kLost, std::forward<F>(f));
}

}  // namespace

bool offers(const schema::HelloReply::Reader& reply, std::string_view feature) {
  for (auto offered : reply.getFeatures()) {
    if (feature == offered.cStr()) return true;
  }
  return false;
}

std::span<std::byte> HelloDecoder::begin_receive() {
  if (bytes_.size() < wanted()) bytes_.resize(wanted());
  return std::span(bytes_).subspan(received_, wanted() - received_);
}

void HelloDecoder::end_receive(std::size_t count) {
  TELEFORK_ASSERT(count <= bytes_.size() - received_);
  received_ += count;
  std::span<const std::byte> there = std::span(bytes_).first(received_);
  check_preamble(as_text(there.first(std::min(there.size(), kPreamble.size()))));
  if (!length_ && received_ == kHeaderSize)
    length_ = decode_length(there.subspan(kPreamble.size()));
}

ReceivedHello HelloDecoder::hello() const {
  TELEFORK_ASSERT(complete());
  ReceivedHello hello(decode_greeting<schema::Hello>(body()));
  if (hello->getMagic() != kMagic) throw Error(Code::kCorrupt, "the other end is no telefork");
  return hello;
}

ReceivedHelloReply HelloDecoder::reply() const {
  TELEFORK_ASSERT(complete());
  return ReceivedHelloReply(decode_greeting<schema::HelloReply>(body()));
}

ReceivedHello receive_hello(net::Stream& stream, net::Deadline deadline) {
  return receive_greeting(stream, deadline).hello();
}

void check_hello(const schema::Hello::Reader& hello, image::schema::Machine::Reader own) {
  check_version(hello.getVersion());
  if (hello.getRole() == schema::Hello::Role::QUERY) return;
  check_architecture(hello.getMachine(), own);
  const schema::Hello::Role role = hello.getRole();
  const bool of_session = role == schema::Hello::Role::JOIN || role == schema::Hello::Role::FENCE ||
                          role == schema::Hello::Role::RESUME;
  if (hello.getToken().size() != (of_session ? kTokenSize : 0)) {
    throw Error(Code::kCorrupt, "a greeting with a wrong token");
  }
}

void send_hello_reply(net::Stream& stream, image::schema::Machine::Reader own,
                      const FillReply& fill, net::Deadline deadline) {
  ::capnp::MallocMessageBuilder message;
  auto reply = message.initRoot<schema::HelloReply>();
  fill_reply(reply, own);
  if (fill) fill(reply);
  send_greeting(stream, message, deadline);
}

void send_hello_refusal(net::Stream& stream, image::schema::Machine::Reader own, const Error& error,
                        net::Deadline deadline) noexcept {
  try {
    send_hello_reply(
        stream, own, [&](auto reply) { encode_failure(error, reply.initRefusal()); }, deadline);
    stream.shutdown_write();
  } catch (const std::exception&) {
    // The client is gone; what it would have read is thrown here by the caller.
  }
}

bool begins_greeting(std::string_view text) {
  return text.starts_with(kPreamble.substr(0, std::min(text.size(), kPreambleName)));
}

std::vector<std::byte> make_token(std::size_t size) {
  std::vector<std::byte> token(size);
  // getrandom(2) gives up to 256 bytes whole, whatever signal comes.
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) {
    throw_errno("getting random bytes");
  }
  return token;
}

bool same_token(std::span<const std::byte> one, std::span<const std::byte> other) {
  if (one.size() != other.size() || one.empty()) return false;
  std::byte difference{0};
  for (std::size_t i = 0; i < one.size(); ++i) difference |= one[i] ^ other[i];
  return difference == std::byte{0};
}

void send_hello(net::Stream& stream, image::schema::Machine::Reader own, const FillHello& fill,
                net::Deadline deadline) {
  ::capnp::MallocMessageBuilder message;
  fill_hello(message.initRoot<schema::Hello>(), own, fill);
  send_greeting(stream, message, deadline);
}

ReceivedHelloReply say_hello(net::Stream& stream, const std::string& node,
                             image::schema::Machine::Reader own, const FillHello& fill,
                             net::Deadline deadline) {
  ::capnp::MallocMessageBuilder message;
  auto hello = message.initRoot<schema::Hello>();
  fill_hello(hello, own, fill);
  ReceivedHelloReply reply = naming(node, [&] {
    ReceivedHelloReply answer = exchange_greetings(stream, message, deadline).reply();
    check_version(answer->getVersion());
    return answer;
  });
  if (reply->hasRefusal()) throw decode_failure(reply->getRefusal(), node);
  naming(node, [&] {
    if (hello.getRole() != schema::Hello::Role::QUERY) check_architecture(reply->getMachine(), own);
  });
  return reply;
}

OpenedLink open_link(const std::string& node, const Connect& connect,
                     const ConnectBulk& connect_bulk, image::schema::Machine::Reader own,
                     const FillHello& fill, net::Deadline deadline, const WrapControl& wrap) {
  std::unique_ptr<net::Stream> control = reaching(connect);
  ReceivedHelloReply reply =
      reaching([&] { return say_hello(*control, node, own, fill, deadline); });
  std::unique_ptr<net::Stream> bulk;
  if (connect_bulk && offers(*reply, kFeatureTlsJoin)) {
    bulk = joining([&] { return connect_bulk(*reply); });
  } else if (offers(*reply, kFeatureJoin)) {
    bulk = joining(connect);
    say_hello(
        *bulk, node, own,
        [&](auto hello) {
          hello.setRole(schema::Hello::Role::JOIN);
          hello.setToken(reply->getToken());
        },
        deadline);
  }
  if (wrap) control = wrap(std::move(control), *reply);
  return {std::make_unique<Link>(node, std::move(control), std::move(bulk)), std::move(reply)};
}

}  // namespace telefork::protocol
