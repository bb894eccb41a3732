// The first bytes of every connection: who is there, which protocol, which machine.
//
//     client (connected)                        server (telepad)
//     "TFLINK01" | u32 length | Hello      -->
//                                          <--  "TFLINK01" | u32 length | HelloReply
//
// Both sides read exactly these bytes and not one more: the descriptor can be handed on right
// after. HelloDecoder is the pure half, for a telepad that reads many connections in one poll loop
// (and for the fuzzer); the functions below wait.
//
// Guarantees: other bytes are kCorrupt, another protocol or architecture is kRefused naming both.
// The server tells the client before it throws, so that both sides say the same. Lengths are capped
// before memory is taken.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "image/checked_message.h"
#include "net/stream.h"
#include "protocol/link.h"
#include "protocol/messages.capnp.h"

namespace telefork::protocol {

inline constexpr std::uint32_t kProtocolVersion = 3;
inline constexpr std::string_view kPreamble = "TFLINK01";
inline constexpr std::size_t kMaxHello = 256 * 1024;
inline constexpr std::chrono::seconds kHandshakePatience(10);
inline constexpr std::size_t kTokenSize = 16;

// What HelloReply.features may hold.
inline constexpr std::string_view kFeatureJoin = "join";  // a bulk connection may join the session
// As well, but as a TLS connection to the keeper itself: it begins with kJoinPreamble and the
// joinId, which anybody on the way can read, and both ends have the joinSecret.
inline constexpr std::string_view kFeatureTlsJoin = "tls-join";
// A guest may stay behind without a home (Prepare.detached).
inline constexpr std::string_view kFeatureDetach = "detach";
// Memory may follow a process (Prepare.lazy), where Hosting.memory says nothing against it.
inline constexpr std::string_view kFeatureLazy = "lazy";
// It takes pages of a process in rounds, while that runs (Prepare.live).
inline constexpr std::string_view kFeatureLive = "live";
// The bulk and the page connection may be compressed (Prepare.compression).
inline constexpr std::string_view kFeatureCompress = "compress";
// It keeps what a run_on leaves (Prepare.keep).
inline constexpr std::string_view kFeatureKeep = "keep";
// Several processes that belong together can come to it.
inline constexpr std::string_view kFeatureTrees = "trees";
// Memory may follow each of them (Prepare.lazy).
inline constexpr std::string_view kFeatureLazyTrees = "lazy-trees";
// The session was asked for with Hello.resumes, and its control connection and its page connection
// are resumable streams (net/resumable_stream.h) from their first byte on.
inline constexpr std::string_view kFeatureResume = "resume";
// It can be asked whether it has the memory (Message.checkMemory).
inline constexpr std::string_view kFeatureMemory = "memory";
inline constexpr std::string_view kJoinPreamble = "TFBULK01";
inline constexpr std::size_t kJoinIdSize = 16;
inline constexpr std::size_t kJoinSecretSize = 32;

// T is schema::Hello or schema::HelloReply; see checked_message.h.
template <class T>
class Greeting {
 public:
  explicit Greeting(image::CheckedMessage message)
      : message_(std::move(message)), root_(message_.root<T>()) {}
  const typename T::Reader* operator->() const { return &root_; }
  const typename T::Reader& operator*() const { return root_; }

 private:
  image::CheckedMessage message_;
  typename T::Reader root_;
};
using ReceivedHello = Greeting<schema::Hello>;
using ReceivedHelloReply = Greeting<schema::HelloReply>;
bool offers(const schema::HelloReply::Reader& reply, std::string_view feature);

// Collects the bytes of one greeting; pure.
class HelloDecoder {
 public:
  // Exactly as many bytes as can be read without reading too far. Empty when it is complete.
  std::span<std::byte> begin_receive();
  // kCorrupt or kRefused as soon as the bytes cannot be a greeting of ours.
  void end_receive(std::size_t count);
  bool complete() const { return received_ == wanted() && length_; }
  ReceivedHello hello() const;
  ReceivedHelloReply reply() const;

 private:
  static constexpr std::size_t kHeaderSize = 12;
  std::size_t wanted() const { return kHeaderSize + length_.value_or(0); }
  std::span<const std::byte> body() const { return std::span(bytes_).subspan(kHeaderSize); }

  std::vector<std::byte> bytes_ = std::vector<std::byte>(kHeaderSize);
  std::size_t received_ = 0;
  std::optional<std::size_t> length_;
};

// ---- The server ----

ReceivedHello receive_hello(net::Stream& stream, net::Deadline deadline);

// Throws kRefused or kCorrupt when no session between these two can be.
void check_hello(const schema::Hello::Reader& hello, image::schema::Machine::Reader own);

using FillReply = std::function<void(schema::HelloReply::Builder)>;
// Version, machine and creator are filled in already. For a join and a query an empty fill will do.
void send_hello_reply(net::Stream& stream, image::schema::Machine::Reader own,
                      const FillReply& fill, net::Deadline deadline);
// Never throws: the client may be gone.
void send_hello_refusal(net::Stream& stream, image::schema::Machine::Reader own, const Error& error,
                        net::Deadline deadline) noexcept;

// Whether what was received so far may become a greeting, of this version or another.
bool begins_greeting(std::string_view text);

// From the kernel's random numbers; at most 256.
std::vector<std::byte> make_token(std::size_t size = kTokenSize);
// Without telling by its duration where they differ.
bool same_token(std::span<const std::byte> one, std::span<const std::byte> other);

// ---- The client ----

using FillHello = std::function<void(schema::Hello::Builder)>;
// Magic, version, machine and creator are filled in already. For a client that does not wait for
// the answer; it has a HelloDecoder.
void send_hello(net::Stream& stream, image::schema::Machine::Reader own, const FillHello& fill,
                net::Deadline deadline);
// Says hello and waits for the answer; throws the refusal of the other end, or ours, as
// "node7: ...".
ReceivedHelloReply say_hello(net::Stream& stream, const std::string& node,
                             image::schema::Machine::Reader own, const FillHello& fill,
                             net::Deadline deadline);

struct OpenedLink {
  std::unique_ptr<Link> link;
  ReceivedHelloReply reply;
};
using Connect = std::function<std::unique_ptr<net::Stream>()>;
// The bulk connection of a session that is joined by TLS.
using ConnectBulk = std::function<std::unique_ptr<net::Stream>(const schema::HelloReply::Reader&)>;
// The control connection, as the session has it.
using WrapControl = std::function<std::unique_ptr<net::Stream>(std::unique_ptr<net::Stream>,
                                                               const schema::HelloReply::Reader&)>;
// A new session with a node: calls `connect` for the control connection and, where the node offers
// it, once more for the bulk connection, which joins the session by its token; or `connect_bulk`
// for one that joins by itself. kUnreachable where the first hello is not answered.
//
//     auto opened = open_link(node, [&] { return net::connect_unix(path); }, {}, machine,
//                             [](auto hello) {}, net::Deadline::in(kHandshakePatience));
OpenedLink open_link(const std::string& node, const Connect& connect,
                     const ConnectBulk& connect_bulk, image::schema::Machine::Reader own,
                     const FillHello& fill, net::Deadline deadline, const WrapControl& wrap = {});

}  // namespace telefork::protocol
