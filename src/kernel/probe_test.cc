#include "kernel/probe.h"

#include <csignal>
#include <set>

#include <gtest/gtest.h>
#include <unistd.h>

#include "kernel/procfs.h"

namespace telefork::kernel {
namespace {

TEST(ProbeFeatures, GivesTheSameTwiceAndLeavesNothingBehind) {
  auto fds = list_fds(::getpid());
  auto children = list_children(::getpid());
  auto vmas = read_maps(::getpid()).size();
  Features features = probe_features();
  EXPECT_EQ(features, probe_features());
  EXPECT_EQ(list_fds(::getpid()), fds);
  EXPECT_EQ(list_children(::getpid()), children);
  EXPECT_LE(read_maps(::getpid()).size(), vmas + 1);  // the heap may have begun
}

TEST(ProbeFeatures, WakesNoSigchldHandler) {
  static volatile sig_atomic_t woken;
  woken = 0;
  auto before = ::signal(SIGCHLD, [](int) { woken = 1; });
  probe_features();
  ::signal(SIGCHLD, before);
  EXPECT_EQ(woken, 0);
}

TEST(ProbeFeatures, FindsWhatEverySupportedKernelHas) {
  Features features = probe_features();
  EXPECT_TRUE(features.ptrace);
  EXPECT_TRUE(features.process_vm);
  EXPECT_TRUE(features.pidfd_getfd);
  EXPECT_TRUE(features.populate_write);
}

TEST(ProbeFeatures, AgreesWithItselfAboutCapabilities) {
  Features features = probe_features();
  if (features.checkpoint_restore_cap) {
    EXPECT_TRUE(features.set_tid);
    EXPECT_TRUE(features.map_exe_fd);
  }
  if (features.pagemap_guards) {
    EXPECT_TRUE(features.pagemap_scan);
  }
}

TEST(Describe, HasASentenceForEachFeatureAndNamesItOnce) {
  std::set<std::string_view> names;
  for (const FeatureReport& report : describe(Features{})) {
    EXPECT_TRUE(names.insert(report.name).second) << report.name;
    EXPECT_EQ(report.present, report.name == "ptrace_of_any_process") << report.name;
    EXPECT_EQ(report.what_is_lost.ends_with('.'), !report.present) << report.name;
  }
}

TEST(Describe, TellsWhatYamaForbids) {
  for (int scope : {1, 2, 3}) {
    Features features;
    features.ptrace_scope = scope;
    FeatureReport report = describe(features).back();
    EXPECT_FALSE(report.present);
    EXPECT_NE(report.what_is_lost.find("ptrace_scope is " + std::to_string(scope)),
              std::string_view::npos);
    EXPECT_TRUE(report.what_is_lost.ends_with('.'));
    features.sys_ptrace_cap = true;
    EXPECT_EQ(describe(features).back().present, scope < 3);
  }
}

TEST(TrySetFeature, ForcesOneOffByName) {
  Features features;
  for (const FeatureReport& report : describe(Features{}))
    EXPECT_EQ(try_set_feature(features, report.name, true), report.name != "ptrace_of_any_process");
  for (const FeatureReport& report : describe(features)) EXPECT_TRUE(report.present);
  EXPECT_TRUE(try_set_feature(features, "pagemap_scan", false));
  EXPECT_FALSE(features.pagemap_scan);
  EXPECT_FALSE(try_set_feature(features, "no_such_thing", false));
}

TEST(PagemapAbi, FollowsTheFeatures) {
  Features features;
  EXPECT_EQ(pagemap_abi(features), PageMapAbi::kEntries);
  features.pagemap_scan = true;
  EXPECT_EQ(pagemap_abi(features), PageMapAbi::kScan);
  features.pagemap_guards = true;
  EXPECT_EQ(pagemap_abi(features), PageMapAbi::kScanGuards);
}

}  // namespace
}  // namespace telefork::kernel
