#include "kernel/socket_options.h"

#include <cerrno>

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace telefork::kernel {
namespace {

UniqueFd make(int family, int type) { return UniqueFd(::socket(family, type | SOCK_CLOEXEC, 0)); }

// All that one has, another one takes; then both have the same.
void expect_copied(const UniqueFd& from, const UniqueFd& to) {
  for (const SocketOption& option : read_socket_options(from)) {
    EXPECT_TRUE(try_set_socket_option(to, option)) << option.level << " " << option.name;
  }
  auto a = read_socket_options(from);
  auto b = read_socket_options(to);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].value, b[i].value) << a[i].level << " " << a[i].name;
  }
}

void set(const UniqueFd& socket, int level, int name, int value) {
  ASSERT_EQ(::setsockopt(socket.get(), level, name, &value, sizeof(value)), 0);
}

TEST(SocketOptions, OfANewSocketAreThoseOfAnother) {
  for (int family : {AF_UNIX, AF_INET, AF_INET6}) {
    for (int type : {int{SOCK_STREAM}, int{SOCK_DGRAM}}) {
      expect_copied(make(family, type), make(family, type));
    }
  }
}

TEST(SocketOptions, AreCopied) {
  UniqueFd socket = make(AF_INET6, SOCK_STREAM);
  set(socket, SOL_SOCKET, SO_REUSEADDR, 1);
  set(socket, SOL_SOCKET, SO_SNDBUF, 20'000);
  set(socket, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, 77);
  const timeval wait{3, 500'000};
  ASSERT_EQ(::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
  UniqueFd other = make(AF_INET6, SOCK_STREAM);
  expect_copied(socket, other);
  int value = 0;
  socklen_t size = sizeof(value);
  ASSERT_EQ(::getsockopt(other.get(), IPPROTO_TCP, TCP_KEEPIDLE, &value, &size), 0);
  EXPECT_EQ(value, 77);
}

TEST(SocketOptions, OfNoListAreNotSet) {
  UniqueFd socket = make(AF_INET, SOCK_STREAM);
  EXPECT_FALSE(try_set_socket_option(socket, {SOL_SOCKET, SO_ATTACH_FILTER, {}}));
  EXPECT_EQ(errno, EINVAL);
}

}  // namespace
}  // namespace telefork::kernel
