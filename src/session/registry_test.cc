#include "session/registry.h"

#include <chrono>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file_io.h"
#include "net/testing_folder.h"
#include "session/home_call.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

class RegistryTest : public net::InTestFolder {
 protected:
  static SessionInfo away() {
    SessionInfo info;
    info.role = "away";
    info.pid = ::getpid();
    info.state = "away";
    return info;
  }
  static bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }
  std::string call_of_ours() const { return call_path(folder(), ::getpid()); }
};

TEST_F(RegistryTest, TellsSinceWhenWhatIsHeldStandsStill) {
  SessionInfo info = away();
  info.hold = Hold{{HeldMember{}}, true, "a key", false, time_since_boot() - 7s};
  const RegistryEntry entry(folder(), info);
  const std::vector<SessionInfo> listed = list_sessions({folder()});
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_EQ(listed[0].session, ::getpid());
  ASSERT_TRUE(listed[0].hold);
  EXPECT_EQ(listed[0].hold->frozen_at, info.hold->frozen_at);
  EXPECT_GE(time_lost(*listed[0].hold), 7s);
}

TEST_F(RegistryTest, TellsThatAConnectionIsLostUntilThereIsAnother) {
  RegistryEntry entry(folder(), away());
  EXPECT_FALSE(list_sessions({folder()}).at(0).connection_lost);
  entry.tell_connection(true);
  EXPECT_TRUE(list_sessions({folder()}).at(0).connection_lost);
  entry.tell_connection(false);
  EXPECT_FALSE(list_sessions({folder()}).at(0).connection_lost);
}

TEST_F(RegistryTest, LeavesTheSocketOfASessionThatLives) {
  const RegistryEntry entry(folder(), away());
  const HomeCall call(folder());
  EXPECT_EQ(list_sessions({folder()}).at(0).call, call_of_ours());
  EXPECT_EQ(list_sessions({folder()}).at(0).call, call_of_ours());
}

// Of whatever pid namespace it was.
TEST_F(RegistryTest, RemovesTheSocketOfASessionThatWasKilled) {
  const std::string left = path("7.4026531836.call");
  ASSERT_EQ(::mknod(left.c_str(), S_IFSOCK | 0600, 0), 0);
  forget_ended_sessions(folder());
  EXPECT_FALSE(is_there(left));
}

// It has the number of one that was killed, and its socket is there before its entry is seen.
TEST_F(RegistryTest, LeavesTheSocketOfASessionThatWritesItsEntry) {
  const HomeCall call(folder());
  std::string writing = call_of_ours();
  writing.replace(writing.rfind(".call"), 5, ".new");
  UniqueFd entry = open_file(writing, O_WRONLY | O_CREAT, 0600);
  ASSERT_EQ(::flock(entry.get(), LOCK_EX), 0);
  forget_ended_sessions(folder());
  EXPECT_TRUE(is_there(call_of_ours()));
}

}  // namespace
}  // namespace telefork::session
