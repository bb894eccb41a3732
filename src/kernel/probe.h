// What this kernel, as this user, in this container, can do for telefork.
//
//     Features features = probe_features();     // once, at start; then passed in as a value
//     PageMap map(pid, pagemap_abi(features));
//
//     features.pagemap_scan = false;            // a test of the fall-back
//
// Nothing is concluded from version numbers: each facility is really tried, in this process where
// that is harmless, else in a short-lived child that nobody's wait() sees. So the answer counts
// for this user and these capabilities, and what a seccomp filter forbids is absent.
//
// probe_features() takes 15 ms (a dozen children; more on a busy machine), may be called with
// threads running, and leaves nothing behind. It throws only when no process can be made. Its
// children have no exit signal: only a waitpid(-1) with __WALL, in another thread, would take them
// away.
//
// ptrace(2) itself is called in src/tracee only; `ptrace` here is the permission for it, tried by
// opening a child's memory, which the kernel decides by the same check (ptrace_may_access).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernel/pagemap.h"
#include "kernel/pid_space.h"

namespace telefork::kernel {

struct Features {
  // Of processes.
  bool ptrace = false;
  bool process_vm = false;
  bool pidfd_getfd = false;
  bool rseq_configuration = false;
  bool set_tid = false;
  bool mm_map = false;
  bool map_exe_fd = false;
  bool timer_restore_ids = false;
  // Of memory.
  bool pagemap_scan = false;
  bool pagemap_guards = false;
  bool map_files = false;
  bool populate_write = false;
  bool huge_pages = false;
  bool madv_collapse = false;
  bool guard_pages = false;
  bool uffd = false;
  bool uffd_kernel_faults = false;
  bool uffd_wp_async = false;
  bool uffd_wp_unpopulated = false;
  bool uffd_move = false;
  // Of namespaces.
  bool user_namespace = false;
  bool pid_namespace = false;
  bool time_namespace = false;
  bool network_namespace = false;
  // Of the network.
  bool tcp_repair = false;
  // Capabilities in effect.
  bool checkpoint_restore_cap = false;  // or CAP_SYS_ADMIN, which includes it
  bool sys_ptrace_cap = false;
  bool sys_admin_cap = false;
  bool sys_resource_cap = false;
  bool net_admin_cap = false;
  // See yama.h.
  int ptrace_scope = 0;
  // See pid_space.h.
  UserNamespaceBar user_namespace_bar = UserNamespaceBar::kNone;

  bool operator==(const Features&) const = default;
};

Features probe_features();

struct FeatureReport {
  std::string_view name;  // as the member of Features
  bool present = false;
  std::string_view what_is_lost;  // without it: one sentence for people
};

// Every bool of Features, in their order; then what Yama forbids, as "ptrace_of_any_process".
std::vector<FeatureReport> describe(const Features& features);

// By the name in FeatureReport; false for a name that is none.
bool try_set_feature(Features& features, std::string_view name, bool present);

PageMapAbi pagemap_abi(const Features& features);

}  // namespace telefork::kernel
