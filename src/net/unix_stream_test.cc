#include "net/unix_stream.h"

#include <cstdlib>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/testing_error.h"
#include "net/fd_passing.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

class UnixStream : public ::testing::Test {
 protected:
  UnixStream() {
    char pattern[] = "/tmp/telefork-net-XXXXXX";
    directory_ = ::mkdtemp(pattern);
  }
  ~UnixStream() override { std::filesystem::remove_all(directory_); }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  static unsigned mode_of(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(::lstat(path.c_str(), &status), 0);
    return status.st_mode & 07777;
  }

  std::string directory_;
};

TEST_F(UnixStream, ConnectsAndKnowsItsPeer) {
  make_socket_directory(path("new/telepad.sock"), 0600);
  UnixListener listener = listen_unix(path("new/telepad.sock"), 0600);
  EXPECT_FALSE(listener.try_accept());
  auto client = connect_unix(path("new/telepad.sock"));
  UniqueFd server = listener.try_accept();
  ASSERT_TRUE(server);
  EXPECT_EQ(peer_credentials(server.get()).uid, ::geteuid());
  EXPECT_EQ(peer_credentials(server.get()).pid, ::getpid());
  EXPECT_EQ(client->name(), "unix:" + path("new/telepad.sock"));
}

TEST_F(UnixStream, MakesTheDirectoryAsTheSocketsModeWants) {
  make_socket_directory(path("closed/s"), 0600);
  make_socket_directory(path("open/s"), 0666);
  UnixListener closed = listen_unix(path("closed/s"), 0600);
  UnixListener open = listen_unix(path("open/s"), 0666);
  EXPECT_EQ(mode_of(path("closed")), 0700U);
  EXPECT_EQ(mode_of(path("closed/s")), 0600U);
  EXPECT_EQ(mode_of(path("open")), 0755U);
  EXPECT_EQ(mode_of(path("open/s")), 0666U);
}

TEST_F(UnixStream, MakesNoDirectoryToListenIn) {
  Error error = error_of([&] { listen_unix(path("none/s"), 0600); });
  EXPECT_EQ(error.error(), ENOENT);
  EXPECT_THAT(error.text(), HasSubstr(path("none")));
  EXPECT_FALSE(std::filesystem::exists(path("none")));
}

TEST_F(UnixStream, NamesThePathWhereNobodyListens) {
  Error error = error_of([&] { connect_unix(path("none")); });
  EXPECT_EQ(error.code(), Code::kUnreachable);
  EXPECT_EQ(error.error(), ENOENT);
  EXPECT_THAT(error.text(), HasSubstr(path("none")));
  EXPECT_EQ(error_of([&] { connect_unix(std::string(200, 'x')); }).code(), Code::kUsage);
}

// As a telepad leaves it that was killed.
void leave_stale_socket(const std::string& path) {
  pid_t child = ::fork();
  if (child == 0) {
    UnixListener listener = listen_unix(path, 0600);
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
}

TEST_F(UnixStream, TakesTheNameOfADeadTelepad) {
  leave_stale_socket(path("s"));
  EXPECT_EQ(error_of([&] { connect_unix(path("s")); }).error(), ECONNREFUSED);
  UnixListener listener = listen_unix(path("s"), 0600);
  EXPECT_NO_THROW(connect_unix(path("s")));
}

TEST_F(UnixStream, RefusesTheNameOfALiveTelepad) {
  UnixListener first = listen_unix(path("s"), 0600);
  Error error = error_of([&] { listen_unix(path("s"), 0600); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(), HasSubstr("another telepad"));
  EXPECT_NO_THROW(connect_unix(path("s")));
}

TEST_F(UnixStream, RefusesToReplaceAnythingThatIsNoSocket) {
  std::filesystem::create_directory(path("file"));
  EXPECT_EQ(error_of([&] { listen_unix(path("file"), 0600); }).code(), Code::kRefused);
}

TEST_F(UnixStream, RefusesADirectoryThatOthersCanWrite) {
  std::filesystem::create_directory(path("shared"));
  ASSERT_EQ(::chmod(path("shared").c_str(), 0777), 0);
  EXPECT_EQ(error_of([&] { listen_unix(path("shared/s"), 0600); }).code(), Code::kRefused);
}

TEST_F(UnixStream, RemovesItsNameAndOnlyItsOwn) {
  { UnixListener listener = listen_unix(path("s"), 0600); }
  EXPECT_FALSE(std::filesystem::exists(path("s")));
  std::optional<UnixListener> first = listen_unix(path("s"), 0600);
  std::filesystem::remove(path("s"));
  UnixListener second = listen_unix(path("s"), 0600);
  first.reset();
  EXPECT_TRUE(std::filesystem::exists(path("s")));
}

TEST_F(UnixStream, KeepsItsNameWhenAForkOfItEnds) {
  std::optional<UnixListener> listener = listen_unix(path("s"), 0600);
  pid_t child = ::fork();
  if (child == 0) {
    listener.reset();
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(std::filesystem::exists(path("s")));
}

TEST(FdPassing, HandsDescriptorsAcross) {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  auto [read_end, write_end] = make_pipe();
  std::byte sent[] = {std::byte{1}, std::byte{2}};
  int fds[] = {read_end.get(), write_end.get()};
  send_fds(one.get(), sent, fds);
  std::byte bytes[16];
  ReceivedFds received = receive_fds(other.get(), bytes, 2, Deadline::in(10s));
  EXPECT_EQ(received.bytes, 2U);
  ASSERT_EQ(received.fds.size(), 2U);
  ASSERT_EQ(::write(received.fds[1].get(), "x", 1), 1);
  char got = 0;
  ASSERT_EQ(::read(read_end.get(), &got, 1), 1);
  EXPECT_EQ(got, 'x');
}

TEST(FdPassing, KeepsNoneOfTooMany) {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  auto [read_end, write_end] = make_pipe();
  std::byte byte{};
  int fds[] = {write_end.get(), write_end.get(), write_end.get()};
  send_fds(one.get(), {&byte, 1}, fds);
  try {
    receive_fds(other.get(), {&byte, 1}, 1, Deadline::in(10s));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt);
  }
  write_end.reset();
  char got = 0;
  EXPECT_EQ(::read(read_end.get(), &got, 1), 0);  // no copy of the other end is left
}

TEST(FdPassing, TellsTheEndAndTheDeadline) {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  std::byte byte{};
  EXPECT_THROW(receive_fds(other.get(), {&byte, 1}, 1, Deadline::in(1ms)), Error);
  one.reset();
  EXPECT_EQ(receive_fds(other.get(), {&byte, 1}, 1, Deadline::in(10s)).bytes, 0U);
}

}  // namespace
}  // namespace telefork::net
