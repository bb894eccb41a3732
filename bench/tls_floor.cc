// The floor over TLS: what moving the memory to another machine costs when nothing is done but to
// read, encrypt and decrypt it.
//
//     tls_floor --from NETWORK --to NETWORK --address ADDRESS --size 1G [--pages small|huge]
//               [--trials N]
//
//     source            sender, in the network --from             receiver, in the network --to
//     touched memory -- process_vm_readv, 1 MB --> buffer
//                       SSL_write -- TCP to ADDRESS ------------> SSL_read into huge-page staging
//                                                                 one mremap into place
//
// NETWORK is a file such as /proc/PID/ns/net. What OpenSSL agrees upon comes from the code that
// telefork's bulk connections have it from, and so the version, the cipher and the keys are
// theirs; between OpenSSL and the socket is the best that was found (docs/benchmarks.md). The time
// is that of carry_floor: the connection and its handshake are not in it.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "carry.h"
#include "measure.h"
#include "net/tls_context.h"

namespace telefork::bench {
namespace {

// As much is encrypted for one send.
constexpr long kWriteBuffer = 256 * 1024;
constexpr const char* kCongestionControl = "cubic";
constexpr int kSettleMicroseconds = 1000;

struct Path {
  std::string from;
  std::string to;
  in_addr address;
};

void enter(const std::string& network) {
  const UniqueFd fd = open_file(network, O_RDONLY);
  if (setns(fd.get(), CLONE_NEWNET) != 0) fail_errno("entering " + network);
}

UniqueFd make_socket() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) fail_errno("socket");
  // A kernel without it keeps its default, and the record says which that is.
  setsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, kCongestionControl,
             std::strlen(kCongestionControl));
  return fd;
}

std::string congestion_control(const UniqueFd& socket) {
  char name[16] = {};
  socklen_t size = sizeof name - 1;
  if (getsockopt(socket.get(), IPPROTO_TCP, TCP_CONGESTION, name, &size) != 0) {
    fail_errno("TCP_CONGESTION");
  }
  return name;
}

template <class Value>
void put(const UniqueFd& pipe, const Value& value) {
  if (write(pipe.get(), &value, sizeof value) != sizeof value) fail_errno("telling the sender");
}

template <class Value>
Value get(const UniqueFd& pipe) {
  Value value;
  if (read(pipe.get(), &value, sizeof value) != sizeof value) fail("the receiver has ended");
  return value;
}

void check_ssl(bool done, const char* doing) {
  if (!done) fail(std::string(doing) + ": " + net::take_ssl_errors());
}

net::SslPtr shake_hands(net::TlsRole role, const UniqueFd& socket) {
  static constexpr std::array<std::byte, 32> kSecret{};
  net::TlsHandshake handshake{{}, {}, {}, kSecret};
  net::SslPtr ssl = net::make_ssl_with_secret(role, handshake);
  check_ssl(SSL_set_fd(ssl.get(), socket.get()) == 1, "SSL_set_fd");
  check_ssl(SSL_do_handshake(ssl.get()) == 1, "the handshake");
  SSL_set_app_data(ssl.get(), nullptr);
  return ssl;
}

// From now on what is written gathers until the buffer is full.
BIO* add_write_buffer(SSL* ssl) {
  BIO* socket = SSL_get_wbio(ssl);
  BIO* buffer = BIO_new(BIO_f_buffer());
  check_ssl(buffer != nullptr && BIO_set_write_buffer_size(buffer, kWriteBuffer) == 1, "a buffer");
  BIO_up_ref(socket);
  SSL_set0_wbio(ssl, BIO_push(buffer, socket));
  return buffer;
}

sockaddr_in listen_on(const UniqueFd& socket, in_addr address) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr = address;
  socklen_t size = sizeof where;
  auto* name = reinterpret_cast<sockaddr*>(&where);
  if (bind(socket.get(), name, size) != 0 || listen(socket.get(), 1) != 0 ||
      getsockname(socket.get(), name, &size) != 0) {
    fail_errno("listening");
  }
  return where;
}

// Tells where it listens, receives the memory, and tells when it was in place.
void receive(const Path& path, std::size_t size, const UniqueFd& answers) {
  enter(path.to);
  const UniqueFd listener = make_socket();
  put(answers, listen_on(listener, path.address));
  const UniqueFd socket(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) fail_errno("accept");
  const net::SslPtr ssl = shake_hands(net::TlsRole::kServer, socket);
  Staging staging(size);
  for (std::size_t at = 0; at < size;) {
    std::size_t count = 0;
    check_ssl(SSL_read_ex(ssl.get(), staging.data() + at, size - at, &count) == 1, "SSL_read");
    at += count;
  }
  staging.put_in_place();
  put(answers, now());
}

void send_memory(const Source& source, std::size_t size, SSL* ssl) {
  static std::byte* const piece = make_buffer();
  BIO* buffer = add_write_buffer(ssl);
  for (std::size_t at = 0; at < size; at += kPiece) {
    const std::size_t count = std::min(kPiece, size - at);
    read_piece(source.pid(), source.memory() + at, piece, count);
    std::size_t written = 0;
    check_ssl(SSL_write_ex(ssl, piece, count, &written) == 1, "SSL_write");
  }
  check_ssl(BIO_flush(buffer) == 1, "sending");
}

struct Trial {
  double time;
  std::string cipher;
  std::string congestion;
};

Trial carry_once(const Path& path, const Source& source, std::size_t size) {
  auto [answers, to_us] = make_pipe();
  const pid_t receiver = fork_bound_child();
  if (receiver == 0) {
    receive(path, size, to_us);
    _exit(0);
  }
  to_us.reset();
  const auto where = get<sockaddr_in>(answers);
  const UniqueFd socket = make_socket();
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0) {
    fail_errno("connect");
  }
  const net::SslPtr ssl = shake_hands(net::TlsRole::kClient, socket);
  usleep(kSettleMicroseconds);
  const double start = now();
  send_memory(source, size, ssl.get());
  const double time = get<double>(answers) - start;
  reap(receiver);
  return {time, SSL_get_cipher_name(ssl.get()), congestion_control(socket)};
}

void run(const Arguments& arguments) {
  Path path{arguments.text("from"), arguments.text("to"), {}};
  if (inet_pton(AF_INET, arguments.text("address").c_str(), &path.address) != 1) {
    fail("--address needs an IPv4 address");
  }
  const std::size_t size = arguments.size("size");
  const Source source(size, arguments.pages());
  enter(path.from);
  Trial trial = carry_once(path, source, size);
  std::vector<double> samples;
  for (long i = 0; i < arguments.number("trials", 5); ++i) {
    trial = carry_once(path, source, size);
    samples.push_back(trial.time);
  }
  Record record("floor_tls");
  record.number("size", static_cast<double>(size));
  record.text("pages", arguments.text("pages", "small"));
  record.text("cipher", trial.cipher);
  record.text("congestion_control", trial.congestion);
  record.samples("carry_ms", samples);
  record.print();
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  // An end that is gone is an error to tell.
  signal(SIGPIPE, SIG_IGN);
  try {
    telefork::bench::run({argc, argv, {"from", "to", "address", "size", "pages", "trials"}});
  } catch (const telefork::Error& error) {
    telefork::bench::fail(error.text());
  }
  return 0;
}
