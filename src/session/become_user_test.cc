#include "session/become_user.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace telefork::session {
namespace {

TEST(EnvironmentOf, NamesThatUsersFilesAndKeepsWhatIsNobodys) {
  User user{1000, 1000, {}, "eve", "/home/eve"};
  std::string own[] = {"HOME=/root",
                       "PATH=/bin",
                       "XDG_CONFIG_HOME=/root/.config",
                       "USER=root",
                       "LANG=C.UTF-8",
                       "SSH_AUTH_SOCK=/tmp/agent",
                       "XDG_RUNTIME_DIR=/run/user/0",
                       "LOGNAME=root",
                       "TELEFORK_LEASE_STOP_MS=500",
                       "HOMEBREW=1"};
  std::vector<char*> pointers;
  for (std::string& one : own) pointers.push_back(one.data());
  pointers.push_back(nullptr);
  EXPECT_THAT(
      environment_of(user, pointers.data()),
      ::testing::UnorderedElementsAre("HOME=/home/eve", "USER=eve", "LOGNAME=eve", "PATH=/bin",
                                      "LANG=C.UTF-8", "TELEFORK_LEASE_STOP_MS=500", "HOMEBREW=1"));
}

TEST(EnvironmentOf, HasNoNameAndNoHomeForAUserWithoutAnAccount) {
  std::string home = "HOME=/root", language = "LANG=C.UTF-8";
  char* own[] = {home.data(), language.data(), nullptr};
  EXPECT_THAT(environment_of({54321, 54321, {}, "", ""}, own),
              ::testing::ElementsAre("LANG=C.UTF-8"));
}

}  // namespace
}  // namespace telefork::session
