#include "kernel/yama.h"

#include <string>

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <unistd.h>

#include "kernel/procfs_system.h"
#include "kernel/procfs_task.h"

namespace telefork::kernel {
namespace {

TEST(TraceBar, IsWhatTheKernelDocumentsOfEachScope) {
  EXPECT_EQ(trace_bar(0, false), TraceBar::kNone);
  EXPECT_EQ(trace_bar(1, false), TraceBar::kStrangers);
  EXPECT_EQ(trace_bar(2, false), TraceBar::kUsers);
  EXPECT_EQ(trace_bar(3, false), TraceBar::kEverybody);
}

TEST(TraceBar, IsNoneForRootUpToScopeTwo) {
  EXPECT_EQ(trace_bar(1, true), TraceBar::kNone);
  EXPECT_EQ(trace_bar(2, true), TraceBar::kNone);
  EXPECT_EQ(trace_bar(3, true), TraceBar::kEverybody);
}

TEST(TraceBar, SaysTheSettingAndWhatHelps) {
  EXPECT_STREQ(say_bar(TraceBar::kNone), "");
  for (int scope : {1, 2, 3}) {
    std::string said = say_bar(trace_bar(scope, false));
    EXPECT_NE(said.find("kernel.yama.ptrace_scope is " + std::to_string(scope)), std::string::npos);
    EXPECT_NE(said.find("; "), std::string::npos) << said;
  }
}

TEST(TraceBar, IsReadForThisProcess) {
  bool capable = (read_status(::getpid()).cap_effective >> CAP_SYS_PTRACE & 1) != 0;
  EXPECT_EQ(read_trace_bar(), trace_bar(read_ptrace_scope(), capable));
}

}  // namespace
}  // namespace telefork::kernel
