#include "net/tcp_stream.h"

#include <cerrno>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include "net/fd_stream.h"
#include "net/testing_folder.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

NodeAddress address_of(const TcpListener& listener) {
  return parse_node(listener.address().text());
}

UniqueFd accept_one(TcpListener& listener) {
  pollfd entry{listener.fd(), POLLIN, 0};
  EXPECT_EQ(poll_until({&entry, 1}, Deadline::in(10s)), 1);
  return listener.try_accept().socket;
}

int option(int socket, int level, int name) {
  int value = -1;
  socklen_t size = sizeof(value);
  EXPECT_EQ(::getsockopt(socket, level, name, &value, &size), 0);
  return value;
}

TEST(Tcp, CarriesBytesOverBothFamilies) {
  for (const char* where : {"127.0.0.1:0", "[::1]:0"}) {
    TcpListener listener = listen_tcp(where);
    NodeAddress node = address_of(listener);
    TcpConnection client =
        connect_tcp(resolve(node), node.text(), TcpUse::kControl, Deadline::in(10s));
    EXPECT_EQ(client.peer.text(), listener.address().text());
    FdStream one(std::move(client.socket), "client");
    FdStream other(accept_one(listener), "server");
    std::byte byte{7};
    one.write_all({&byte, 1}, Deadline::in(10s));
    byte = std::byte{0};
    other.read_exactly({&byte, 1}, Deadline::in(10s));
    EXPECT_EQ(byte, std::byte{7});
  }
}

TEST(Tcp, ListensOnEveryAddressWithOneSocket) {
  for (const char* where : {"*:0", ":0", "[::]:0"}) {
    TcpListener listener = listen_tcp(where);
    for (const char* host : {"127.0.0.1", "::1"}) {
      NodeAddress node{.kind = NodeAddress::Kind::kTcp, .host = host};
      node.port = address_of(listener).port;
      EXPECT_NO_THROW(connect_tcp(resolve(node), "n", TcpUse::kBulk, Deadline::in(10s))) << where;
    }
  }
}

TEST(Tcp, SendsAtOnceAndNoticesADeadMachine) {
  TcpListener listener = listen_tcp("127.0.0.1:0");
  NodeAddress node = address_of(listener);
  auto control = connect_tcp(resolve(node), "n", TcpUse::kControl, Deadline::in(10s));
  EXPECT_EQ(option(control.socket.get(), IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(option(control.socket.get(), SOL_SOCKET, SO_KEEPALIVE), 1);
  auto bulk = connect_tcp(resolve(node), "n", TcpUse::kBulk, Deadline::in(10s));
  EXPECT_EQ(option(bulk.socket.get(), IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(option(bulk.socket.get(), SOL_SOCKET, SO_KEEPALIVE), 0);
}

std::string congestion_control(int socket) {
  char name[16] = {};
  socklen_t size = sizeof(name);
  EXPECT_EQ(::getsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name, &size), 0);
  return name;
}

TEST(Tcp, HasCubicAtBothEndsWhereMuchIsSentAndTheWayIsShort) {
  std::ifstream available("/proc/sys/net/ipv4/tcp_available_congestion_control");
  std::string names;
  std::getline(available, names);
  if (names.find("cubic") == std::string::npos) GTEST_SKIP() << "needs: cubic";
  TcpListener listener = listen_tcp("127.0.0.1:0");
  NodeAddress node = address_of(listener);
  auto bulk = connect_tcp(resolve(node), "n", TcpUse::kBulk, Deadline::in(10s));
  EXPECT_EQ(congestion_control(bulk.socket.get()), "cubic");
  UniqueFd accepted = accept_one(listener);
  set_up_tcp(accepted.get(), TcpUse::kControl);
  EXPECT_EQ(congestion_control(accepted.get()), "cubic");
  UniqueFd fresh(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto control = connect_tcp(resolve(node), "n", TcpUse::kControl, Deadline::in(10s));
  EXPECT_EQ(congestion_control(control.socket.get()), congestion_control(fresh.get()));
}

TEST(Tcp, SendsNoMoreThanItIsLimitedTo) {
  TcpListener listener = listen_tcp("127.0.0.1:0");
  auto connection =
      connect_tcp(resolve(address_of(listener)), "n", TcpUse::kBulk, Deadline::in(10s));
  auto rate = [&] {
    std::uint64_t found = 0;
    socklen_t size = sizeof(found);
    EXPECT_EQ(::getsockopt(connection.socket.get(), SOL_SOCKET, SO_MAX_PACING_RATE, &found, &size),
              0);
    return found;
  };
  const std::uint64_t before = rate();
  limit_rate(connection.socket.get(), 0);
  EXPECT_EQ(rate(), before);
  limit_rate(connection.socket.get(), 10'000'000'000);
  EXPECT_EQ(rate(), 10'000'000'000);
}

TEST(Tcp, NamesTheNodeThatDoesNotAnswer) {
  NodeAddress node;
  {
    TcpListener listener = listen_tcp("127.0.0.1:0");
    node = address_of(listener);
  }
  Error error =
      error_of([&] { connect_tcp(resolve(node), "node7", TcpUse::kControl, Deadline::in(10s)); });
  EXPECT_EQ(error.code(), Code::kUnreachable);
  EXPECT_EQ(error.error(), ECONNREFUSED);
  EXPECT_THAT(error.text(), HasSubstr("node7 (" + node.text() + ")"));
  error = error_of([&] { resolve(parse_node("no-such-host.invalid")); });
  EXPECT_EQ(error.code(), Code::kUnreachable);
  EXPECT_THAT(error.text(), HasSubstr("no-such-host.invalid: "));
}

TEST(Tcp, TriesEveryAddressOfAName) {
  SocketAddress nobody;
  { nobody = listen_tcp("127.0.0.1:0").address(); }
  TcpListener listener = listen_tcp("[::1]:0");
  TcpConnection connection =
      connect_tcp({nobody, listener.address()}, "n", TcpUse::kControl, Deadline::in(10s));
  EXPECT_EQ(connection.peer.text(), listener.address().text());
}

TEST(Tcp, HasNobodyToAcceptWithoutWaiting) {
  TcpListener listener = listen_tcp("127.0.0.1:0");
  EXPECT_FALSE(listener.try_accept().socket);
}

TEST(Tcp, NamesAnAddressWhereItCannotListen) {
  for (const char* where : {"127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "::1:7", "[::1",
                            "[::1]7", "no.such.address:1", "127.0.0.1:"}) {
    Error error = error_of([&] { listen_tcp(where); });
    EXPECT_EQ(error.code(), Code::kUsage) << where;
    EXPECT_THAT(error.text(), HasSubstr(where));
    EXPECT_EQ(error_of([&] { check_listen_address(where); }).text(), error.text());
  }
  for (const char* where : {"*", ":0", "127.0.0.1", "[::]:7335"}) check_listen_address(where);
  TcpListener listener = listen_tcp("127.0.0.1:0");
  Error error = error_of([&] { listen_tcp(listener.address().text()); });
  EXPECT_EQ(error.error(), EADDRINUSE);
  EXPECT_THAT(error.text(), HasSubstr(listener.address().text()));
}

}  // namespace
}  // namespace telefork::net
