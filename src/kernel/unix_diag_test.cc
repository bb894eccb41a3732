#include "kernel/unix_diag.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

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

TEST(UnixDiag, KnowsWhereThereIsNone) {
  UniqueFd alone(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto state = try_ask_unix_socket(inode_of(alone));
  if (!state) GTEST_SKIP() << "needs: unix_diag";
  EXPECT_FALSE(state->has_peer);
  EXPECT_EQ(try_ask_unix_socket(1), std::nullopt);
}

}  // namespace
}  // namespace telefork::kernel
