// A stream through TLS 1.3, over a socket that is connected already.
//
//     auto stream = TlsStream::connect(std::move(fd), "node7", identity,
//                                      [&](const PublicKey& key) { throw where it is not his },
//                                      deadline);
//     auto stream = TlsStream::accept(std::move(fd), "10.0.0.7", identity, deadline);
//     stream->peer_key()                                       // proven: who that is, others
//     decide TlsStream::connect(fd, name, secret, deadline)           // both ends have the secret
//
//     try_write: plain bytes --> records --> unsent --> socket
//     try_read:  plain bytes <-- OpenSSL <-- whole records <-- received <-- socket
//
// What try_write() says is written has left this process: an attempt whose records did not go out
// whole says that there was no room, and the same bytes have to come again (stream.h). OpenSSL is
// given whole records only, so that has_buffered() is exact and a part of a record never keeps a
// poll loop busy.
//
// A connection that ends without TLS's own end is kLost: bytes may be missing. The handshake throws
// what the check of the peer's key threw; kUnauthorised where the other end refuses ours, has
// none to show or does not know the secret; else kUnreachable, for what answers there is no
// telepad, or none that works.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "net/identity.h"
#include "net/public_key.h"
#include "net/stream.h"

namespace telefork::net {

class TlsStream final : public Stream {
 public:
  using CheckPeer = std::function<void(const PublicKey&)>;

  static std::unique_ptr<TlsStream> connect(UniqueFd socket, std::string name, const Identity& own,
                                            const CheckPeer& check, Deadline deadline);
  static std::unique_ptr<TlsStream> accept(UniqueFd socket, std::string name, const Identity& own,
                                           Deadline deadline);
  static std::unique_ptr<TlsStream> connect(UniqueFd socket, std::string name,
                                            std::span<const std::byte> secret, Deadline deadline);
  static std::unique_ptr<TlsStream> accept(UniqueFd socket, std::string name,
                                           std::span<const std::byte> secret, Deadline deadline);
  // Of a server that has no key to show: tells whoever wants to shake hands so, and closes.
  static void turn_away(UniqueFd socket, std::string name, Deadline deadline);
  ~TlsStream() override;

  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes bytes) override;
  std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) override;
  pollfd read_interest() const override { return {socket_.get(), POLLIN, 0}; }
  pollfd write_interest() const override { return {socket_.get(), POLLOUT, 0}; }
  bool has_buffered() const override;
  void shutdown_write() override;
  const std::string& name() const override { return name_; }

  // Of a handshake by keys.
  const PublicKey& peer_key() const;
  // After so many bytes in one direction the next ones go under new keys; RFC 8446, 5.5 has the
  // reason. Unless set: 64 GiB.
  void set_rekey_after(std::uint64_t bytes) { rekey_after_ = bytes; }

 private:
  class Engine;  // OpenSSL, and the two buffers between it and the socket
  TlsStream(UniqueFd socket, std::string name);
  void shake_hands(Deadline deadline);
  void wait_in_handshake(Deadline deadline) const;
  [[noreturn]] void throw_from_handshake();
  bool awaits_key() const;
  bool receive();
  Error explain_end() const;
  bool flush();
  void encrypt(ConstBytes bytes);

  UniqueFd socket_;
  std::string name_;
  std::unique_ptr<Engine> engine_;
  std::optional<PublicKey> peer_;
  std::optional<Error> broken_;  // nothing can be decrypted any more
  std::size_t accepted_ = 0;     // plain bytes of `unsent`, not yet told to be written
  std::uint64_t since_rekey_ = 0;
  std::uint64_t rekey_after_;
};

}  // namespace telefork::net
