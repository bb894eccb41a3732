#include "net/tls_stream.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "net/fd_stream.h"
#include "net/tls_context.h"

namespace telefork::net {
namespace {

constexpr std::size_t kMaxPlain = 16 * 1024;  // of one record
constexpr std::size_t kRecordHeader = 5;
constexpr std::size_t kMaxRecord = kRecordHeader + kMaxPlain + 256;
// As many plain bytes are encrypted for one send(2).
constexpr std::size_t kWriteChunk = 256 * 1024;
// Either has room beside the beginning of a record.
constexpr std::size_t kSmallBuffer = 2 * kMaxRecord;
constexpr std::size_t kLargeBuffer = 16 * kSmallBuffer;
constexpr std::uint64_t kRekeyAfter = 64ULL << 30;

// How many of the bytes are whole records. What is none at all counts too: OpenSSL is to see it.
std::size_t count_whole_records(std::span<const std::byte> bytes) {
  std::size_t whole = 0;
  while (bytes.size() - whole >= kRecordHeader) {
    const std::byte* header = bytes.data() + whole;
    auto type = std::to_integer<unsigned>(header[0]);
    std::size_t length =
        std::to_integer<std::size_t>(header[3]) << 8 | std::to_integer<std::size_t>(header[4]);
    bool is_record = type >= 20 && type <= 24 && header[1] == std::byte{3} &&
                     kRecordHeader + length <= kMaxRecord;
    if (!is_record) return bytes.size();
    if (bytes.size() - whole < kRecordHeader + length) break;
    whole += kRecordHeader + length;
  }
  return whole;
}

}  // namespace

class TlsStream::Engine {
 public:
  explicit Engine(SslPtr ssl) : ssl_(std::move(ssl)) {
    BIO* bio = ::BIO_new(method());
    if (bio == nullptr) throw Error(Code::kResources, "setting up TLS", ENOMEM);
    ::BIO_set_data(bio, this);
    ::BIO_set_init(bio, 1);
    ::SSL_set_bio(ssl_.get(), bio, bio);
  }

  SSL* ssl() const { return ssl_.get(); }

  // What would otherwise be made when it is needed first: half a millisecond.
  void expect_much() {
    received_.resize(kLargeBuffer);
    TELEFORK_ASSERT(unsent_.empty());
    unsent_.resize(kWriteChunk + kSmallBuffer);
    unsent_.clear();
  }

  // Received bytes: [begin_, whole_) are whole records, [whole_, end_) the beginning of the next.
  std::span<std::byte> begin_receive() {
    if (begin_ > 0) {
      std::memmove(received_.data(), received_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      whole_ -= begin_;
      begin_ = 0;
    }
    // Large only where much comes.
    if (received_.empty()) {
      received_.resize(kSmallBuffer);
    } else if (filled_ && received_.size() < kLargeBuffer) {
      received_.resize(received_.size() * 4);
    }
    return std::span(received_).subspan(end_);
  }
  void end_receive(std::size_t count) {
    end_ += count;
    whole_ += count_whole_records(std::span(received_).subspan(whole_, end_ - whole_));
    filled_ = end_ == received_.size();
  }
  void end_input() { input_ended_ = true; }
  bool has_whole_record() const { return begin_ < whole_; }

  std::vector<std::byte>& unsent() { return unsent_; }
  std::size_t unsent_begin = 0;

 private:
  static const BIO_METHOD* method() {
    static const BIO_METHOD* const kMethod = [] {
      BIO_METHOD* made = ::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "telefork");
      ::BIO_meth_set_read(made, on_read);
      ::BIO_meth_set_write(made, on_write);
      ::BIO_meth_set_ctrl(made, on_control);
      return made;
    }();
    return kMethod;
  }

  static int on_read(BIO* bio, char* bytes, int size) {
    auto* self = static_cast<Engine*>(::BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    std::size_t count = std::min(static_cast<std::size_t>(size), self->whole_ - self->begin_);
    if (count == 0) {
      if (self->input_ended_) return 0;
      BIO_set_retry_read(bio);
      return -1;
    }
    std::memcpy(bytes, self->received_.data() + self->begin_, count);
    self->begin_ += count;
    return static_cast<int>(count);
  }

  static int on_write(BIO* bio, const char* bytes, int size) {
    auto* self = static_cast<Engine*>(::BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    const auto* begin = reinterpret_cast<const std::byte*>(bytes);
    self->unsent_.insert(self->unsent_.end(), begin, begin + size);
    return size;
  }

  static long on_control(BIO* bio, int command, long, void*) {
    const auto* self = static_cast<const Engine*>(::BIO_get_data(bio));
    if (command == BIO_CTRL_EOF) return self->input_ended_ && !self->has_whole_record() ? 1 : 0;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
  }

  std::vector<std::byte> received_;
  std::size_t begin_ = 0;
  std::size_t whole_ = 0;
  std::size_t end_ = 0;
  bool filled_ = false;
  bool input_ended_ = false;
  std::vector<std::byte> unsent_;
  SslPtr ssl_;  // goes first: it may still write
};

TlsStream::TlsStream(UniqueFd socket, std::string name)
    : socket_(std::move(socket)), name_(std::move(name)), rekey_after_(kRekeyAfter) {}

TlsStream::~TlsStream() = default;

// ---- The handshake ----

std::unique_ptr<TlsStream> TlsStream::connect(UniqueFd socket, std::string name,
                                              const Identity& own, const CheckPeer& check,
                                              Deadline deadline) {
  std::unique_ptr<TlsStream> stream(new TlsStream(std::move(socket), std::move(name)));
  TlsHandshake handshake{check, {}, {}, {}};
  stream->engine_ = std::make_unique<Engine>(make_ssl(TlsRole::kClient, own, handshake));
  stream->shake_hands(deadline);
  return stream;
}

std::unique_ptr<TlsStream> TlsStream::accept(UniqueFd socket, std::string name, const Identity& own,
                                             Deadline deadline) {
  std::unique_ptr<TlsStream> stream(new TlsStream(std::move(socket), std::move(name)));
  TlsHandshake handshake{};
  stream->engine_ = std::make_unique<Engine>(make_ssl(TlsRole::kServer, own, handshake));
  stream->shake_hands(deadline);
  return stream;
}

std::unique_ptr<TlsStream> TlsStream::connect(UniqueFd socket, std::string name,
                                              std::span<const std::byte> secret,
                                              Deadline deadline) {
  std::unique_ptr<TlsStream> stream(new TlsStream(std::move(socket), std::move(name)));
  TlsHandshake handshake{{}, {}, {}, secret};
  stream->engine_ = std::make_unique<Engine>(make_ssl_with_secret(TlsRole::kClient, handshake));
  stream->shake_hands(deadline);
  stream->engine_->expect_much();
  return stream;
}

std::unique_ptr<TlsStream> TlsStream::accept(UniqueFd socket, std::string name,
                                             std::span<const std::byte> secret, Deadline deadline) {
  std::unique_ptr<TlsStream> stream(new TlsStream(std::move(socket), std::move(name)));
  TlsHandshake handshake{{}, {}, {}, secret};
  stream->engine_ = std::make_unique<Engine>(make_ssl_with_secret(TlsRole::kServer, handshake));
  stream->shake_hands(deadline);
  stream->engine_->expect_much();
  return stream;
}

// Its first record is read, so that the alert is not lost with bytes that nobody has taken.
void TlsStream::turn_away(UniqueFd socket, std::string name, Deadline deadline) {
  // RFC 8446, 5.1 and 6: a record of 2 bytes, fatal(2), internal_error(80).
  constexpr std::array<unsigned char, 7> kAlert = {21, 3, 3, 0, 2, 2, 80};
  FdStream stream(std::move(socket), std::move(name));
  std::array<std::byte, kMaxRecord> record;
  stream.read_exactly(std::span(record).first(kRecordHeader), deadline);
  std::size_t length =
      std::to_integer<std::size_t>(record[3]) << 8 | std::to_integer<std::size_t>(record[4]);
  stream.read_exactly(std::span(record).first(std::min(length, kMaxRecord)), deadline);
  stream.write_all(std::as_bytes(std::span(kAlert)), deadline);
}

const PublicKey& TlsStream::peer_key() const {
  TELEFORK_ASSERT(peer_.has_value());
  return *peer_;
}

void TlsStream::shake_hands(Deadline deadline) {
  SSL* ssl = engine_->ssl();
  const auto* handshake = static_cast<const TlsHandshake*>(SSL_get_app_data(ssl));
  try {
    for (;;) {
      ::ERR_clear_error();
      int result = ::SSL_do_handshake(ssl);
      int error = ::SSL_get_error(ssl, result);
      bool sent = flush();
      if (result == 1 && sent) break;
      // What is wrong goes to the other end as an alert, which flush() has sent.
      if (result != 1 && error != SSL_ERROR_WANT_READ) throw_from_handshake();
      if (sent && receive()) continue;
      wait_in_handshake(deadline);
    }
  } catch (Error& error) {
    if (handshake->refusal) std::rethrow_exception(handshake->refusal);
    if (error.code() != Code::kLost) throw;
    throw Error(Code::kUnreachable,
                fmt::format("{} (in the TLS handshake){}", error.text(),
                            awaits_key() ? "; if it is a telepad its log says why, else name where "
                                           "a telepad listens"
                                         : ""));
  }
  peer_ = handshake->peer;
  bool by_secret = ::SSL_session_reused(ssl) == 1;
  // One or the other, or nobody has proven anything.
  if (by_secret != !handshake->secret.empty() || by_secret == peer_.has_value()) {
    throw Error(Code::kUnauthorised, name_ + ": the other end has not said who it is");
  }
  // The private key is not needed any more.
  ::SSL_certs_clear(ssl);
  SSL_set_app_data(ssl, nullptr);
}

void TlsStream::wait_in_handshake(Deadline deadline) const {
  bool unsent = engine_->unsent_begin < engine_->unsent().size();
  pollfd entry = unsent ? write_interest() : read_interest();
  if (poll_until({&entry, 1}, deadline) == 0) {
    throw Error(Code::kUnreachable,
                name_ +
                    ": it accepts connections and does not answer, as a telepad that is stopped "
                    "(kill -CONT lets it go on): waiting for the TLS handshake",
                ETIMEDOUT);
  }
}

namespace {

// Alerts and failures that say that keys or secrets are not the right ones.
bool is_about_keys(unsigned long error) {
  switch (ERR_GET_REASON(error)) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    case SSL_R_BINDER_DOES_NOT_VERIFY:
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
    case SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
      return true;
    default:
      return false;
  }
}

}  // namespace

void TlsStream::throw_from_handshake() {
  unsigned long error = ::ERR_peek_error();
  if (error == 0 || ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    ::ERR_clear_error();
    throw_closed();
  }
  if (ERR_GET_REASON(error) == SSL_R_TLSV1_ALERT_INTERNAL_ERROR) {
    ::ERR_clear_error();
    throw Error(Code::kUnauthorised,
                name_ + ": it cannot show its key; if it is a telepad, its log says why");
  }
  if (awaits_key()) {
    throw Error(Code::kUnreachable,
                fmt::format("{}: it answers, but is no telepad: the TLS handshake failed: {}; name "
                            "where a telepad listens (telepad --listen)",
                            name_, take_ssl_errors()));
  }
  throw Error(is_about_keys(error) ? Code::kUnauthorised : Code::kUnreachable,
              fmt::format("{}: the TLS handshake failed: {}", name_, take_ssl_errors()));
}

// Every telepad shows one, and it is of the one kind that is asked for. Nobody has refused ours
// before.
bool TlsStream::awaits_key() const {
  const SSL* ssl = engine_->ssl();
  const auto* handshake = static_cast<const TlsHandshake*>(SSL_get_app_data(ssl));
  return ::SSL_is_server(ssl) == 0 && handshake->secret.empty() && !handshake->peer;
}

// ---- Reading ----

// Whether anything came, the end included.
bool TlsStream::receive() {
  std::span<std::byte> room = engine_->begin_receive();
  ssize_t count = ::recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
  if (count > 0) {
    engine_->end_receive(static_cast<std::size_t>(count));
    return true;
  }
  if (count == 0) {
    engine_->end_input();
    return true;
  }
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return false;
  throw_errno(name_ + ": reading");
}

Error TlsStream::explain_end() const {
  unsigned long reason = ::ERR_peek_error();
  if (reason == 0 || ERR_GET_REASON(reason) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    return Error(Code::kLost, name_ + ": the other end closed the connection");
  }
  const bool about_keys = is_about_keys(reason);
  std::string why = take_ssl_errors();
  // Every telepad takes a client's key, whoever's it is, and answers on the stream.
  if (about_keys && ::SSL_is_server(engine_->ssl()) == 0) {
    return Error(Code::kCorrupt, fmt::format("{}: it answers, but is no telepad: it refuses this "
                                             "end's key (TLS: {}); name where a telepad listens",
                                             name_, why));
  }
  return Error(about_keys ? Code::kUnauthorised : Code::kCorrupt,
               fmt::format("{}: TLS: {}", name_, why));
}

std::optional<std::size_t> TlsStream::try_read(Bytes bytes) {
  if (bytes.empty()) return 0;
  std::size_t done = 0;
  while (done < bytes.size()) {
    if (broken_) {
      if (done > 0) return done;
      throw Error(*broken_);
    }
    ::ERR_clear_error();
    std::size_t count = 0;
    Bytes room = bytes.subspan(done);
    int result = ::SSL_read_ex(engine_->ssl(), room.data(), room.size(), &count);
    if (result == 1) {
      done += count;
      continue;
    }
    int error = ::SSL_get_error(engine_->ssl(), result);
    if (error == SSL_ERROR_ZERO_RETURN) return done;
    if (error != SSL_ERROR_WANT_READ) {
      broken_ = explain_end();
      continue;
    }
    // Only what is there already may be added to bytes that were decrypted.
    if (!receive()) return done > 0 ? std::optional(done) : std::nullopt;
  }
  return done;
}

bool TlsStream::has_buffered() const {
  return ::SSL_pending(engine_->ssl()) > 0 || engine_->has_whole_record();
}

// ---- Writing ----

// Whether everything that was encrypted is out.
bool TlsStream::flush() {
  std::vector<std::byte>& unsent = engine_->unsent();
  std::size_t& begin = engine_->unsent_begin;
  while (begin < unsent.size()) {
    ssize_t count = ::send(socket_.get(), unsent.data() + begin, unsent.size() - begin,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (count < 0 && errno == EPIPE) throw_closed();
    if (count < 0) throw_errno(name_ + ": writing");
    begin += static_cast<std::size_t>(count);
  }
  unsent.clear();
  begin = 0;
  return true;
}

void TlsStream::encrypt(ConstBytes bytes) {
  SSL* ssl = engine_->ssl();
  ::ERR_clear_error();
  if (since_rekey_ >= rekey_after_) {
    ::SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
    since_rekey_ = 0;
  }
  std::size_t written = 0;
  if (::SSL_write_ex(ssl, bytes.data(), bytes.size(), &written) != 1 || written != bytes.size()) {
    throw Error(Code::kLost, fmt::format("{}: TLS: {}", name_, take_ssl_errors()));
  }
  since_rekey_ += written;
}

std::optional<std::size_t> TlsStream::try_write(ConstBytes head, ConstBytes body) {
  if (head.empty() && body.empty()) return 0;
  if (!flush()) return std::nullopt;
  if (accepted_ == 0) {
    if (!head.empty() && head.size() < kMaxPlain && !body.empty()) {
      // One record, where a header and what belongs to it fit in.
      std::array<std::byte, kMaxPlain> record;
      std::size_t of_body = std::min(body.size(), record.size() - head.size());
      std::memcpy(record.data(), head.data(), head.size());
      std::memcpy(record.data() + head.size(), body.data(), of_body);
      encrypt(std::span(record).first(head.size() + of_body));
      accepted_ = head.size() + of_body;
      head = {};
      body = body.subspan(of_body);
    }
    for (ConstBytes* bytes : {&head, &body}) {
      ConstBytes chunk =
          bytes->first(std::min(bytes->size(), kWriteChunk - std::min(kWriteChunk, accepted_)));
      if (!chunk.empty()) encrypt(chunk);
      accepted_ += chunk.size();
    }
    if (!flush()) return std::nullopt;
  }
  return std::exchange(accepted_, 0);
}

void TlsStream::shutdown_write() {
  try {
    ::ERR_clear_error();
    ::SSL_shutdown(engine_->ssl());
    ::ERR_clear_error();
    // Where there is no room the other end finds the connection cut.
    flush();
  } catch (const Error&) {
    // It is gone already.
  }
  ::shutdown(socket_.get(), SHUT_WR);
}

}  // namespace telefork::net
