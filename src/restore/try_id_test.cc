#include "restore/try_id.h"

#include <cerrno>
#include <csignal>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace telefork::restore {
namespace {

TEST(AnId, OfAProcessOrOfItsGroupIsTaken) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root, to choose an id";
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);
    if (::fork() != 0) ::_exit(0);
    char byte;
    ::close(ends[1]);
    ::_exit(::read(ends[0], &byte, 1) == 0 ? 0 : 1);
  }
  EXPECT_EQ(try_id(pid), EEXIST) << "of a process";
  ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
  EXPECT_EQ(try_id(pid), EEXIST) << "of its group";
  ::close(ends[1]);
  ::close(ends[0]);
}

TEST(AnId, ThatNobodyHasIsFreeAndStaysSo) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root, to choose an id";
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
  EXPECT_EQ(try_id(pid), 0);
  EXPECT_EQ(try_id(pid), 0);
  EXPECT_EQ(::waitpid(-1, nullptr, __WALL), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(Ids, AreTriedAllAtOnceEachForItself) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root, to choose an id";
  std::vector<pid_t> children;
  for (int i = 0; i < 150; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) ::pause();
    }
    children.push_back(child);
  }
  std::vector<int> expected;
  for (std::size_t i = 0; i < children.size(); ++i) {
    const bool stays = i == 3 || i == 100;
    expected.push_back(stays ? EEXIST : 0);
    if (stays) continue;
    ::kill(children[i], SIGKILL);
    ASSERT_EQ(::waitpid(children[i], nullptr, 0), children[i]);
  }
  EXPECT_EQ(try_ids(children), expected);
  EXPECT_EQ(try_ids(children), expected);
  EXPECT_EQ(try_ids({}), std::vector<int>());
  for (const std::size_t i : {3U, 100U}) {
    ::kill(children[i], SIGKILL);
    ASSERT_EQ(::waitpid(children[i], nullptr, 0), children[i]);
  }
  EXPECT_EQ(::waitpid(-1, nullptr, __WALL), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace telefork::restore
