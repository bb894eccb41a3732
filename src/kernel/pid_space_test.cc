#include "kernel/pid_space.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/procfs.h"

namespace telefork::kernel {
namespace {

using testing::HasSubstr;

TEST(UserNamespaceBar, IsTheSettingThatForbidsThem) {
  EXPECT_EQ(user_namespace_bar(100, true, false), UserNamespaceBar::kNone);
  EXPECT_EQ(user_namespace_bar(0, true, false), UserNamespaceBar::kLimit);
  EXPECT_EQ(user_namespace_bar(100, false, false), UserNamespaceBar::kDebian);
  EXPECT_EQ(user_namespace_bar(100, true, true), UserNamespaceBar::kAppArmor);
}

TEST(ExplainNoPidNamespace, NamesTheSettingAndWhatHelps) {
  auto explain = explain_no_pid_namespace;
  EXPECT_THAT(explain(ENOSPC, UserNamespaceBar::kLimit),
              HasSubstr("user.max_user_namespaces is 0); have root set that to 10000"));
  EXPECT_THAT(explain(EPERM, UserNamespaceBar::kDebian),
              HasSubstr("kernel.unprivileged_userns_clone is 0); have root set that to 1"));
  EXPECT_THAT(explain(EPERM, UserNamespaceBar::kAppArmor),
              HasSubstr("restrict_unprivileged_userns is 1); have root set that to 0"));
  EXPECT_THAT(explain(ENOSPC, UserNamespaceBar::kNone), HasSubstr("have root raise"));
  EXPECT_THAT(explain(EPERM, UserNamespaceBar::kNone),
              HasSubstr("(Operation not permitted), as in many containers; have it allowed"));
}

// In a child, for there is no way back.
TEST(MaySetNextId, IsSoOfRootAndNotOfWhomItBecomes) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  EXPECT_TRUE(may_set_next_id());
  EXPECT_TRUE(may_choose_ids(::getpid()));
  const pid_t child = ::fork();
  if (child == 0) {
    const bool other = ::setresuid(65534, 65534, 65534) == 0;
    ::_exit(other && !may_set_next_id() && !may_choose_ids(::getpid()) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// The id of a child that ends at once, as this process sees it.
pid_t id_of_child() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

// Where nobody else begins a process.
TEST(NextId, IsOfTheNextProcessAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWPID) != 0) ::_exit(1);
    const pid_t first = ::fork();
    if (first == 0) {
      if (id_of_child() != 2) ::_exit(2);
      {
        const NextId next(20'000);
        if (id_of_child() != 20'000) ::_exit(3);
      }
      ::_exit(id_of_child() == 3 ? 0 : 4);
    }
    int status = 0;
    ::waitpid(first, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 5);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// In a child, for there is no way back.
TEST(TryPidNamespace, SaysThatItIsInAChroot) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  const std::string folder = std::filesystem::temp_directory_path() / "telefork-chroot.XXXXXX";
  std::vector<char> name(folder.c_str(), folder.c_str() + folder.size() + 1);
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const bool inside = ::unshare(CLONE_NEWNS) == 0 &&
                        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                        ::mount("/", name.data(), nullptr, MS_BIND | MS_REC, nullptr) == 0 &&
                        ::chroot(name.data()) == 0 && ::chdir("/") == 0;
    ::_exit(inside ? try_pid_namespace() : 255);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), EXDEV);
  EXPECT_EQ(::rmdir(name.data()), 0);
  EXPECT_THAT(explain_no_pid_namespace(EXDEV, UserNamespaceBar::kNone), HasSubstr("in a chroot"));
}

pid_t choose(pid_t last, pid_t limit, unsigned salt, pid_t first_taken = 0, pid_t last_taken = 0) {
  return choose_stretch(last, limit, salt,
                        [=](pid_t id) { return first_taken <= id && id <= last_taken; });
}

TEST(ChooseStretch, LiesFarFromWhatIsGivenOutNext) {
  constexpr pid_t kLimit = 32'768;
  for (pid_t last : {0, 300, 8'000, 16'500, 30'000, 32'767}) {
    for (unsigned salt : {0u, 1u, 77u, 4'000'000'000u}) {
      const pid_t start = choose(last, kLimit, salt);
      EXPECT_GE(start, 300);
      EXPECT_LE(start + kIdStretch, kLimit);
      // Either way round.
      const pid_t ahead = (start - std::max(last, 300) + kLimit) % kLimit;
      EXPECT_GT(ahead, kLimit / 5) << last << " " << salt;
      EXPECT_LT(ahead, kLimit - kLimit / 5) << last << " " << salt;
    }
  }
}

TEST(ChooseStretch, IsAnotherForAnotherProcess) {
  EXPECT_NE(choose(500, 32'768, 1), choose(500, 32'768, 2));
}

TEST(ChooseStretch, IsFree) {
  const pid_t wished = choose(500, 32'768, 7);
  const pid_t other = choose(500, 32'768, 7, wished + kIdStretch - 1, wished + kIdStretch);
  EXPECT_GT(other, wished + kIdStretch);
  EXPECT_LT(other, wished + 4 * kIdStretch);
}

TEST(ChooseStretch, IsWhatItWouldBeWhereNoneIsFree) {
  EXPECT_EQ(choose(500, 32'768, 7, 1, 32'768), choose(500, 32'768, 7));
}

TEST(ChooseStretch, IsNoneWhereThereAreFewIds) {
  EXPECT_EQ(choose(301, 310, 7), 0);
  EXPECT_EQ(choose(301, 300 + kIdStretch, 7), 300);
}

TEST(ChooseIdsFor, LieBelowTheLimit) {
  const std::vector<pid_t> starts = choose_ids_for(::getpid());
  ASSERT_FALSE(starts.empty());
  for (pid_t start : starts) {
    EXPECT_GE(start, 300);
    EXPECT_LE(static_cast<std::uint64_t>(start + kIdStretch), read_pid_max());
    EXPECT_TRUE(has_stretch(static_cast<std::uint32_t>(start)));
  }
}

TEST(HasStretch, IsSoAsFarAsTheIdsGo) {
  const auto end = static_cast<std::uint32_t>(read_pid_max());
  EXPECT_TRUE(has_stretch(end - kIdStretch));
  EXPECT_FALSE(has_stretch(end - kIdStretch + 1));
  EXPECT_FALSE(has_stretch(~0U));
  EXPECT_FALSE(has_stretch(1));
  EXPECT_FALSE(has_stretch(0));
}

TEST(TryPidNamespace, LeavesNothingBehind) {
  auto mounts = read_mountinfo(::getpid()).size();
  auto children = list_children(::getpid());
  int error = try_pid_namespace();
  EXPECT_EQ(try_pid_namespace(), error);
  EXPECT_EQ(read_mountinfo(::getpid()).size(), mounts);
  EXPECT_EQ(list_children(::getpid()), children);
}

}  // namespace
}  // namespace telefork::kernel
