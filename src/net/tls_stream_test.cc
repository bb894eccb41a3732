#include "net/tls_stream.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <numeric>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/fd_stream.h"
#include "net/relay.h"
#include "net/testing_folder.h"
#include "net/testing_memory.h"
#include "net/tls_context.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr auto kPatience = 30s;

Deadline patience() { return Deadline::in(kPatience); }

std::vector<std::byte> scrambled(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 + (i >> 8));
  return bytes;
}

void accept_any(const PublicKey&) {}

// What one end of a handshake came to.
struct End {
  std::unique_ptr<TlsStream> stream;
  std::optional<Error> error;
};

template <class F>
End try_end(F&& make) {
  try {
    return {make(), {}};
  } catch (const Error& error) {
    return {nullptr, error};
  }
}

struct Ends {
  End client;
  End server;
};

// Each end in a thread of its own. An end that fails closes its socket, as its process would.
template <class Client, class Server>
Ends shake_hands(Client&& client, Server&& server) {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  Ends ends;
  std::thread serving([&, fd = std::move(other)]() mutable {
    ends.server = try_end([&] { return server(std::move(fd)); });
  });
  ends.client = try_end([&, fd = std::move(one)]() mutable { return client(std::move(fd)); });
  serving.join();
  return ends;
}

Ends shake_hands_by_key(const Identity& client, const Identity& server,
                        const TlsStream::CheckPeer& check = accept_any) {
  return shake_hands(
      [&](UniqueFd fd) {
        return TlsStream::connect(std::move(fd), "node7", client, check, patience());
      },
      [&](UniqueFd fd) { return TlsStream::accept(std::move(fd), "peer", server, patience()); });
}

Ends shake_hands_by_secret(std::span<const std::byte> client, std::span<const std::byte> server) {
  return shake_hands(
      [&](UniqueFd fd) { return TlsStream::connect(std::move(fd), "node7", client, patience()); },
      [&](UniqueFd fd) { return TlsStream::accept(std::move(fd), "peer", server, patience()); });
}

Ends connected() {
  Ends ends = shake_hands_by_key(Identity::make(), Identity::make());
  EXPECT_TRUE(ends.client.stream && ends.server.stream);
  return ends;
}

void carry(Stream& from, Stream& to, const std::vector<std::byte>& bytes) {
  std::thread writing([&] { from.write_all(bytes, patience()); });
  std::vector<std::byte> received(bytes.size());
  to.read_exactly(received, patience());
  writing.join();
  EXPECT_TRUE(received == bytes);
}

TEST(TlsStream, TellsEachEndTheOthersKey) {
  Identity client = Identity::make();
  Identity server = Identity::make();
  std::optional<PublicKey> shown;
  Ends ends = shake_hands_by_key(client, server, [&](const PublicKey& key) { shown = key; });
  ASSERT_TRUE(ends.client.stream && ends.server.stream);
  EXPECT_EQ(shown, server.key());
  EXPECT_EQ(ends.client.stream->peer_key(), server.key());
  EXPECT_EQ(ends.server.stream->peer_key(), client.key());
}

TEST(TlsStream, CarriesBytesBothWays) {
  Ends ends = connected();
  for (std::size_t size : {1UL, 100UL, 16384UL, 16385UL, 3'000'000UL}) {
    carry(*ends.client.stream, *ends.server.stream, scrambled(size));
    carry(*ends.server.stream, *ends.client.stream, scrambled(size));
  }
}

TEST(TlsStream, CarriesHeadAndBodyAsOne) {
  Ends ends = connected();
  auto bytes = scrambled(700'000);
  for (std::size_t head : {0UL, 8UL, 16383UL, 16384UL, 300'000UL, 700'000UL}) {
    std::thread writing([&] {
      ends.client.stream->write_all(std::span(bytes).first(head), std::span(bytes).subspan(head),
                                    patience());
    });
    std::vector<std::byte> received(bytes.size());
    ends.server.stream->read_exactly(received, patience());
    writing.join();
    EXPECT_TRUE(received == bytes) << head;
  }
}

TEST(TlsStream, GoesOnUnderNewKeys) {
  Ends ends = connected();
  ends.client.stream->set_rekey_after(1000);
  ends.server.stream->set_rekey_after(70'000);
  carry(*ends.client.stream, *ends.server.stream, scrambled(1'000'000));
  carry(*ends.server.stream, *ends.client.stream, scrambled(1'000'000));
}

TEST(TlsStream, RefusesAKeyThatTheCheckRefusesAndTellsTheServer) {
  Ends ends = shake_hands_by_key(Identity::make(), Identity::make(), [](const PublicKey&) {
    throw Error(Code::kUnauthorised, "not that one");
  });
  ASSERT_TRUE(ends.client.error && ends.server.error);
  EXPECT_EQ(ends.client.error->text(), "not that one");
  EXPECT_EQ(ends.server.error->code(), Code::kUnauthorised);
}

// As openssl s_client and others would have it: a certificate whose dates are over, or not begun.
TEST(TlsStream, TakesACertificateOfAnyDateWhenItsKeyIsTheRightOne) {
  for (const char* dates : {"19900101000000Z 19910101000000Z", "99980101000000Z 99990101000000Z"}) {
    std::string both = dates;
    Identity server = Identity::make();
    X509* certificate = server.certificate();
    ASSERT_EQ(ASN1_TIME_set_string(X509_getm_notBefore(certificate), both.substr(0, 15).c_str()),
              1);
    ASSERT_EQ(ASN1_TIME_set_string(X509_getm_notAfter(certificate), both.substr(16).c_str()), 1);
    ASSERT_GT(X509_sign(certificate, server.private_key(), nullptr), 0);
    Ends ends = shake_hands_by_key(server, server);
    ASSERT_TRUE(ends.client.stream && ends.server.stream) << dates;
    EXPECT_EQ(ends.client.stream->peer_key(), server.key());
  }
}

TEST(TlsStream, OfTwoThatHaveTheSecretCarriesBytes) {
  auto secret = scrambled(32);
  Ends ends = shake_hands_by_secret(secret, secret);
  ASSERT_TRUE(ends.client.stream && ends.server.stream);
  carry(*ends.client.stream, *ends.server.stream, scrambled(100'000));
  carry(*ends.server.stream, *ends.client.stream, scrambled(100'000));
}

TEST(TlsStream, RefusesAWrongSecretAtBothEnds) {
  auto secret = scrambled(32);
  auto wrong = secret;
  wrong[31] ^= std::byte{1};
  Ends ends = shake_hands_by_secret(wrong, secret);
  ASSERT_TRUE(ends.client.error && ends.server.error);
  EXPECT_EQ(ends.client.error->code(), Code::kUnauthorised) << ends.client.error->text();
  EXPECT_EQ(ends.server.error->code(), Code::kUnauthorised) << ends.server.error->text();
}

TEST(TlsStream, RefusesAKeyWhereASecretIsAskedFor) {
  auto secret = scrambled(32);
  Identity identity = Identity::make();
  Ends ends = shake_hands(
      [&](UniqueFd fd) {
        return TlsStream::connect(std::move(fd), "node7", identity, accept_any, patience());
      },
      [&](UniqueFd fd) { return TlsStream::accept(std::move(fd), "peer", secret, patience()); });
  EXPECT_TRUE(ends.client.error && ends.server.error);
  ends = shake_hands(
      [&](UniqueFd fd) { return TlsStream::connect(std::move(fd), "node7", secret, patience()); },
      [&](UniqueFd fd) { return TlsStream::accept(std::move(fd), "peer", identity, patience()); });
  EXPECT_TRUE(ends.client.error && ends.server.error);
}

// Another program's TLS at the other end, of at most this version.
void shake_hands_of_version(UniqueFd fd, const Identity& identity, int version, bool as_client) {
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_method()),
                                                            SSL_CTX_free);
  SSL_CTX_set_max_proto_version(context.get(), version);
  SSL_CTX_use_certificate(context.get(), identity.certificate());
  SSL_CTX_use_PrivateKey(context.get(), identity.private_key());
  SslPtr ssl(SSL_new(context.get()), SSL_free);
  SSL_set_fd(ssl.get(), fd.get());
  as_client ? SSL_connect(ssl.get()) : SSL_accept(ssl.get());
}

TEST(TlsStream, RefusesOlderTlsAtBothEnds) {
  Identity identity = Identity::make();
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  std::thread old_client([&, fd = std::move(one)]() mutable {
    shake_hands_of_version(std::move(fd), identity, TLS1_2_VERSION, true);
  });
  Error error = error_of([&, fd = std::move(other)]() mutable {
    TlsStream::accept(std::move(fd), "p", identity, patience());
  });
  old_client.join();
  EXPECT_EQ(error.code(), Code::kUnreachable);
  EXPECT_THAT(error.text(), HasSubstr("protocol"));

  auto [three, four] = make_socket_pair(SOCK_STREAM);
  std::thread old_server([&, fd = std::move(three)]() mutable {
    shake_hands_of_version(std::move(fd), identity, TLS1_2_VERSION, false);
  });
  error = error_of([&, fd = std::move(four)]() mutable {
    TlsStream::connect(std::move(fd), "p", identity, accept_any, patience());
  });
  old_server.join();
  EXPECT_EQ(error.code(), Code::kUnreachable);
  EXPECT_THAT(error.text(), HasSubstr("protocol"));
}

TEST(TlsStream, CallsAPeerWithoutTlsUnreachable) {
  Identity identity = Identity::make();
  for (std::string_view text : {"HTTP/1.0 400 Bad Request\r\n\r\n", "TFLINK01", "\x16\x03\x01",
                                "\x16\x03\x03\xff\xff", "SSH-2.0-OpenSSH_9.2\r\n"}) {
    auto [one, other] = make_stream_pair();
    one->write_all(std::as_bytes(std::span(text)), patience());
    one->shutdown_write();
    UniqueFd fd = other->release();
    Error error = error_of(
        [&] { TlsStream::connect(std::move(fd), "node7", identity, accept_any, patience()); });
    EXPECT_EQ(error.code(), Code::kUnreachable) << error.text();
    EXPECT_THAT(error.text(), HasSubstr("node7"));
  }
}

TEST(TlsStream, TellsAServerThatHasNoKeyToShowFromOneThatIsNoTelepad) {
  Identity identity = Identity::make();
  Ends ends = shake_hands(
      [&](UniqueFd fd) {
        return TlsStream::connect(std::move(fd), "node7", identity, accept_any, patience());
      },
      [&](UniqueFd fd) {
        TlsStream::turn_away(std::move(fd), "peer", patience());
        return std::unique_ptr<TlsStream>();
      });
  EXPECT_FALSE(ends.server.error);
  ASSERT_TRUE(ends.client.error);
  EXPECT_EQ(ends.client.error->code(), Code::kUnauthorised);
  EXPECT_EQ(ends.client.error->text(),
            "node7: it cannot show its key; if it is a telepad, its log says why");
}

TEST(TlsStream, TurnsAwayWhomeverItIs) {
  for (std::string_view text :
       {"\x16\x03\x01", "\x16\x03\x03\xff\xff", "SSH-2.0-OpenSSH_9.2\r\n"}) {
    auto [one, other] = make_stream_pair();
    one->write_all(std::as_bytes(std::span(text)), patience());
    one->shutdown_write();
    UniqueFd fd = other->release();
    Error error = error_of([&] { TlsStream::turn_away(std::move(fd), "peer", patience()); });
    EXPECT_EQ(error.code(), Code::kLost) << error.text();
  }
}

TEST(TlsStream, DoesNotWaitForAHandshakeAfterTheDeadline) {
  Identity identity = Identity::make();
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  Error error = error_of([&, fd = std::move(one)]() mutable {
    TlsStream::connect(std::move(fd), "node7", identity, accept_any, Deadline::now());
  });
  EXPECT_EQ(error.code(), Code::kUnreachable);
}

TEST(TlsStream, TellsAnEndInGoodOrderFromOneThatWasCut) {
  Ends ends = connected();
  ends.client.stream->write_all(scrambled(3), patience());
  ends.client.stream->shutdown_write();
  std::vector<std::byte> bytes(10);
  EXPECT_EQ(ends.server.stream->read_some(bytes, patience()), 3U);
  EXPECT_EQ(ends.server.stream->read_some(bytes, patience()), 0U);
  // The other direction goes on.
  carry(*ends.server.stream, *ends.client.stream, scrambled(100));

  ends = connected();
  ends.client.stream->write_all(scrambled(3), patience());
  ends.client.stream.reset();
  EXPECT_EQ(ends.server.stream->read_some(bytes, patience()), 3U);
  Error error = error_of([&] { ends.server.stream->read_some(bytes, patience()); });
  EXPECT_EQ(error.code(), Code::kLost);
  EXPECT_THAT(error.text(), HasSubstr("the other end closed the connection"));
}

TEST(TlsStream, WritingToOneThatIsGoneIsLost) {
  Ends ends = connected();
  ends.server.stream.reset();
  EXPECT_EQ(
      error_of([&] { ends.client.stream->write_all(scrambled(10'000'000), patience()); }).code(),
      Code::kLost);
}

// Between the two ends, in the middle of the cipher text: passes on so many bytes of what the
// client says, a few at a time, and then closes.
class Wire {
 public:
  Wire(std::size_t cut_after, std::size_t piece) {
    std::tie(client_, client_there_) = make_socket_pair(SOCK_STREAM);
    std::tie(server_, server_there_) = make_socket_pair(SOCK_STREAM);
    thread_ = std::thread([this, cut_after, piece] { carry(cut_after, piece); });
  }
  ~Wire() { thread_.join(); }
  UniqueFd client() { return std::move(client_); }
  UniqueFd server() { return std::move(server_); }
  std::size_t passed() const { return passed_; }

 private:
  void carry(std::size_t cut_after, std::size_t piece) {
    FdStream client(std::move(client_there_), "client");
    FdStream server(std::move(server_there_), "server");
    std::vector<std::byte> bytes(piece);
    bool open[] = {true, true};
    try {
      while (open[0] || open[1]) {
        pollfd entries[] = {client.read_interest(), server.read_interest()};
        for (int i = 0; i < 2; ++i) {
          if (!open[i]) entries[i].fd = -1;
        }
        if (poll_until(entries, patience()) == 0) return;
        if (open[0] && entries[0].revents != 0) {
          std::size_t room = std::min(piece, cut_after - passed_);
          if (room == 0) return;
          std::size_t count = client.read_some(std::span(bytes).first(room), patience());
          passed_ += count;
          server.write_all(std::span(bytes).first(count), patience());
          if (count == 0) server.shutdown_write();
          open[0] = count > 0;
        }
        if (open[1] && entries[1].revents != 0) {
          std::size_t count = server.read_some(bytes, patience());
          client.write_all(std::span(bytes).first(count), patience());
          if (count == 0) client.shutdown_write();
          open[1] = count > 0;
        }
      }
    } catch (const Error&) {
      // An end has gone away.
    }
  }

  UniqueFd client_, client_there_, server_, server_there_;
  std::atomic<std::size_t> passed_ = 0;
  std::thread thread_;
};

// The client's handshake, 300 bytes and an end; how many bytes of cipher text that was. What the
// server has read; empty: it was told that something is missing.
std::optional<std::vector<std::byte>> read_over(const Identity& identity, std::size_t cut_after,
                                                std::size_t piece, std::size_t* total = nullptr) {
  auto bytes = scrambled(300);
  std::optional<std::vector<std::byte>> received;
  {
    Wire wire(cut_after, piece);
    std::thread client([&, fd = wire.client()]() mutable {
      try {
        auto stream = TlsStream::connect(std::move(fd), "node7", identity, accept_any, patience());
        stream->write_all(bytes, patience());
        stream->shutdown_write();
        std::byte byte;
        while (stream->read_some({&byte, 1}, patience()) > 0) {
        }
      } catch (const Error&) {
        // Where it is cut.
      }
    });
    try {
      auto stream = TlsStream::accept(wire.server(), "peer", identity, patience());
      received.emplace();
      std::vector<std::byte> some(64);
      while (std::size_t count = stream->read_some(some, patience())) {
        received->insert(received->end(), some.begin(), some.begin() + static_cast<long>(count));
      }
      stream->shutdown_write();
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == Code::kLost || error.code() == Code::kUnreachable)
          << error.text();
      received.reset();
    }
    client.join();
    if (total != nullptr) *total = wire.passed();
  }
  return received;
}

TEST(TlsStream, IsLostWhereverItIsCut) {
  Identity identity = Identity::make();
  std::size_t total = 0;
  EXPECT_EQ(read_over(identity, SIZE_MAX, 4096, &total), scrambled(300));
  // Every byte of the last records, and some of the handshake, which is all alike.
  for (std::size_t cut = 0; cut < total; cut += cut + 60 < total && cut > 20 ? 41 : 1) {
    EXPECT_EQ(read_over(identity, cut, 4096), std::nullopt) << cut << " of " << total;
  }
}

TEST(TlsStream, WorksByteByByte) {
  EXPECT_EQ(read_over(Identity::make(), SIZE_MAX, 1), scrambled(300));
  EXPECT_EQ(read_over(Identity::make(), SIZE_MAX, 7), scrambled(300));
}

TEST(TlsStream, KnowsWhatPollDoesNot) {
  Ends ends = connected();
  TlsStream& client = *ends.client.stream;
  TlsStream& server = *ends.server.stream;
  EXPECT_FALSE(server.has_buffered());
  client.write_all(scrambled(10), patience());
  client.write_all(scrambled(10), patience());
  std::byte byte;
  EXPECT_EQ(server.read_some({&byte, 1}, patience()), 1U);
  EXPECT_TRUE(server.has_buffered());
  std::vector<std::byte> rest(19);
  server.read_exactly(rest, patience());
  EXPECT_FALSE(server.has_buffered());
  EXPECT_EQ(server.try_read({&byte, 1}), std::nullopt);
}

TEST(TlsStream, DoesNotSayWrittenBeforeItIsOut) {
  Ends ends = connected();
  TlsStream& client = *ends.client.stream;
  auto bytes = scrambled(1'000'000);
  std::size_t written = 0;
  while (auto count = client.try_write(std::span(bytes).subspan(written))) written += *count;
  // The kernel has all that was said to be written, and perhaps a part of what was not.
  std::vector<std::byte> received(written);
  ends.server.stream->read_exactly(received, patience());
  EXPECT_TRUE(std::equal(received.begin(), received.end(), bytes.begin()));
  std::thread rest([&] { client.write_all(std::span(bytes).subspan(written), patience()); });
  received.resize(bytes.size() - written);
  ends.server.stream->read_exactly(received, patience());
  rest.join();
  EXPECT_TRUE(
      std::equal(received.begin(), received.end(), bytes.begin() + static_cast<long>(written)));
}

TEST(TlsStream, CallsADamagedRecordCorrupt) {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  UniqueFd wire = one.duplicate();
  Identity identity = Identity::make();
  std::unique_ptr<TlsStream> server;
  std::thread serving([&, fd = std::move(other)]() mutable {
    server = TlsStream::accept(std::move(fd), "peer", identity, patience());
  });
  auto client = TlsStream::connect(std::move(one), "node7", identity, accept_any, patience());
  serving.join();
  const char record[] = "\x17\x03\x03\x00\x20 thirty-two bytes that nobody made";
  ASSERT_EQ(::send(wire.get(), record, 37, 0), 37);
  std::byte byte;
  EXPECT_EQ(error_of([&] { server->read_some({&byte, 1}, patience()); }).code(), Code::kCorrupt);
  EXPECT_EQ(error_of([&] { server->try_read({&byte, 1}); }).code(), Code::kCorrupt);
}

using TlsStreamOfAFile = InTestFolder;

TEST_F(TlsStreamOfAFile, HasForgottenThePrivateKeyAfterTheHandshake) {
  Identity::make().save(path("new"));
  Ends ends = shake_hands_by_key(Identity::make(), Identity::load(path("new")));
  ASSERT_TRUE(ends.server.stream);
  PrivateBytes key(path("new"));
  // Of all memory only `key` still has it.
  EXPECT_EQ(count_in_memory(key.seed()), 1U);
  EXPECT_EQ(count_in_memory(key.encoded()), 1U);
}

TEST(Relay, CarriesBothWaysUntilBothHaveEnded) {
  auto [one, one_there] = make_stream_pair();
  auto [other, other_there] = make_stream_pair();
  std::thread relaying([&a = *one_there, &b = *other_there] { relay(a, b, kPatience); });
  carry(*one, *other, scrambled(1'000'000));
  carry(*other, *one, scrambled(1'000'000));
  one->shutdown_write();
  std::byte byte;
  EXPECT_EQ(other->read_some({&byte, 1}, patience()), 0U);
  carry(*other, *one, scrambled(1'000));
  other->shutdown_write();
  EXPECT_EQ(one->read_some({&byte, 1}, patience()), 0U);
  relaying.join();
}

TEST(Relay, CarriesTheLastWordsOfOneThatIsGone) {
  auto [one, one_there] = make_stream_pair();
  auto [other, other_there] = make_stream_pair();
  one->write_all(scrambled(5000), patience());  // nobody will read it
  other->write_all(scrambled(200), patience());
  other.reset();
  std::thread relaying([&a = *one_there, &b = *other_there] { relay(a, b, kPatience); });
  std::vector<std::byte> words(200);
  one->read_exactly(words, patience());
  EXPECT_EQ(words, scrambled(200));
  relaying.join();
  // It was not told of a good end.
  std::byte byte;
  EXPECT_EQ(one->try_read({&byte, 1}), std::nullopt);
}

TEST(Relay, DoesNotWaitForEverForTheOtherEnd) {
  auto [one, one_there] = make_stream_pair();
  auto [other, other_there] = make_stream_pair();
  other.reset();
  relay(*one_there, *other_there, 0s);
}

}  // namespace
}  // namespace telefork::net
