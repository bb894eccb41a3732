#include "kernel/unix_diag.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace telefork::kernel {
namespace {

std::uint32_t inode_of(const UniqueFd& socket) {
  struct stat stat {};
  EXPECT_EQ(::fstat(socket.get(), &stat), 0);
  return static_cast<std::uint32_t>(stat.st_ino);
}

TEST(UnixDiag, TellsThePeer) {
  auto [a, b] = make_socket_pair(SOCK_STREAM);
  auto state = try_ask_unix_socket(inode_of(a));
  if (!state) GTEST_SKIP() << "needs: unix_diag";
  EXPECT_TRUE(state->has_peer);
  EXPECT_EQ(state->peer, inode_of(b));
  EXPECT_EQ(state->shutdown, 0u);
  b.reset();
  state = try_ask_unix_socket(inode_of(a));
  ASSERT_TRUE(state);
  EXPECT_TRUE(state->has_peer);
  EXPECT_EQ(state->peer, 0u);
}

TEST(UnixDiag, TellsWhatIsShutDown) {
  auto [a, b] = make_socket_pair(SOCK_DGRAM);
  if (!try_ask_unix_socket(inode_of(a))) GTEST_SKIP() << "needs: unix_diag";
  ASSERT_EQ(::shutdown(a.get(), SHUT_WR), 0);
  ASSERT_EQ(::shutdown(b.get(), SHUT_RDWR), 0);
  EXPECT_EQ(try_ask_unix_socket(inode_of(a))->shutdown, 2u);
  EXPECT_EQ(try_ask_unix_socket(inode_of(b))->shutdown, 3u);
}

TEST(UnixDiag, TellsWhoListensAndWhoWaits) {
  sockaddr_un address{AF_UNIX, ""};
  std::snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "telefork-test-%d", ::getpid());
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), name, sizeof(address)), 0);
  auto state = try_ask_unix_socket(inode_of(listener));
  if (!state) GTEST_SKIP() << "needs: unix_diag";
  EXPECT_FALSE(state->listening);
  ASSERT_EQ(::listen(listener.get(), 7), 0);
  UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(client.get(), name, sizeof(address)), 0);
  state = try_ask_unix_socket(inode_of(listener));
  ASSERT_TRUE(state);
  EXPECT_TRUE(state->listening);
  EXPECT_EQ(state->backlog, 7u);
  EXPECT_EQ(state->waiting, std::vector{inode_of(client)});
  EXPECT_EQ(state->file, 0u);
}

TEST(UnixDiag, TellsWhereTheNameIs) {
  std::string folder = "/tmp/telefork-test.XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  sockaddr_un address{AF_UNIX, ""};
  std::snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", folder.c_str());
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  struct stat stat {};
  EXPECT_EQ(::lstat(address.sun_path, &stat), 0);
  const auto state = try_ask_unix_socket(inode_of(socket));
  ::unlink(address.sun_path);
  ::rmdir(folder.c_str());
  if (!state) GTEST_SKIP() << "needs: unix_diag";
  EXPECT_EQ(state->file, static_cast<std::uint32_t>(stat.st_ino));
}

TEST(UnixDiag, KnowsWhereThereIsNone) {
  UniqueFd alone(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto state = try_ask_unix_socket(inode_of(alone));
  if (!state) GTEST_SKIP() << "needs: unix_diag";
  EXPECT_FALSE(state->has_peer);
  EXPECT_EQ(try_ask_unix_socket(1), std::nullopt);
}

}  // namespace
}  // namespace telefork::kernel
