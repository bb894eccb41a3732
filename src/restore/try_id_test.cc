#include "restore/try_id.h"

#include <cerrno>

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

}  // namespace
}  // namespace telefork::restore
