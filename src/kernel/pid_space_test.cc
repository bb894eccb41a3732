#include "kernel/pid_space.h"

#include <cerrno>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
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
