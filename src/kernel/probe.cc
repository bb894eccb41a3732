#include "kernel/probe.h"

#include <array>

#include "kernel/abi.h"
#include "kernel/pid_space.h"
#include "kernel/probe_tries.h"
#include "kernel/procfs_system.h"
#include "kernel/yama.h"

namespace telefork::kernel {
namespace {

struct Entry {
  std::string_view name;
  bool Features::*member;
  std::string_view what_is_lost;
};

constexpr auto kFeatures = std::to_array<Entry>({
    {"ptrace", &Features::ptrace,
     "No process can be stopped and looked into: nothing can be moved from or to this machine."},
    {"process_vm", &Features::process_vm,
     "Memory is read and written through /proc/PID/mem, one range a call, which is slower."},
    {"pidfd_getfd", &Features::pidfd_getfd,
     "Descriptors of a process cannot be taken over: processes can neither leave nor arrive."},
    {"rseq_configuration", &Features::rseq_configuration,
     "A thread's restartable sequences cannot be found and are not registered again after a move."},
    {"set_tid", &Features::set_tid,
     "A process or thread cannot get back a number of one's choice outside a pid namespace of its "
     "own."},
    {"mm_map", &Features::mm_map,
     "The bounds of heap, arguments and environment cannot be restored: brk() and ps see others."},
    {"map_exe_fd", &Features::map_exe_fd,
     "/proc/PID/exe of an arrived process shows telefork's program instead of its own."},
    {"timer_restore_ids", &Features::timer_restore_ids,
     "POSIX timers get their numbers back only by making and deleting all the lower ones."},
    {"pagemap_scan", &Features::pagemap_scan,
     "Pages to send are found by reading 8 bytes for each page of address space, which is slow for "
     "sparse memory."},
    {"pagemap_guards", &Features::pagemap_guards,
     "Guard pages look like swapped ones and are found out only by failing to read them."},
    {"map_files", &Features::map_files,
     "Shared memory is read in full, holes included, because its data cannot be looked up."},
    {"populate_write", &Features::populate_write,
     "Memory that arrives is made present fault by fault, at a third of the speed."},
    {"huge_pages", &Features::huge_pages,
     "Memory arrives in 4 KB pages: restoring is up to ten times slower."},
    {"madv_collapse", &Features::madv_collapse,
     "Memory that arrived in small pages cannot be turned into huge pages at once."},
    {"guard_pages", &Features::guard_pages,
     "A process with lightweight guard pages (MADV_GUARD_INSTALL) cannot arrive here."},
    {"uffd", &Features::uffd,
     "Memory cannot follow a process that already runs: no lazy mode, and no live mode."},
    {"uffd_kernel_faults", &Features::uffd_kernel_faults,
     "In lazy mode a system call that touches memory not yet there fails with EFAULT."},
    {"uffd_wp_async", &Features::uffd_wp_async,
     "Changed pages cannot be tracked while a process runs: no live mode."},
    {"uffd_wp_unpopulated", &Features::uffd_wp_unpopulated,
     "Memory that is touched for the first time during a live move is found by another scan."},
    {"uffd_move", &Features::uffd_move,
     "Huge pages are collapsed where they arrive, which waits for busy CPUs; in lazy mode pages "
     "are "
     "copied into place."},
    {"user_namespace", &Features::user_namespace,
     "Without root, arriving processes cannot get their old process numbers: no run_on and no "
     "load."},
    {"pid_namespace", &Features::pid_namespace,
     "A process whose numbers are taken here cannot arrive with them: it is refused."},
    {"time_namespace", &Features::time_namespace,
     "CLOCK_MONOTONIC of a process that arrives from another machine jumps by the difference of "
     "the "
     "two: a time namespace takes CAP_SYS_ADMIN and CAP_SYS_TIME."},
    {"network_namespace", &Features::network_namespace,
     "An arriving process cannot get a network of its own with its old addresses."},
    {"tcp_repair", &Features::tcp_repair, "TCP connections cannot be moved."},
    {"checkpoint_restore_cap", &Features::checkpoint_restore_cap,
     "Without CAP_CHECKPOINT_RESTORE process numbers and the exe link are restored in a user "
     "namespace only."},
    {"sys_ptrace_cap", &Features::sys_ptrace_cap,
     "Without CAP_SYS_PTRACE only one's own processes can be moved."},
    {"sys_admin_cap", &Features::sys_admin_cap,
     "Without CAP_SYS_ADMIN namespaces can be made inside a user namespace only."},
    {"sys_resource_cap", &Features::sys_resource_cap,
     "Without CAP_SYS_RESOURCE hard limits cannot be raised and oom_score_adj cannot be lowered."},
    {"net_admin_cap", &Features::net_admin_cap,
     "Without CAP_NET_ADMIN no addresses, tunnels or TCP repair in this network namespace."},
});

constexpr std::string_view kAnyProcess = "ptrace_of_any_process";

std::string_view what_is_lost_by(TraceBar bar) {
  switch (bar) {
    case TraceBar::kNone:
      return "";
    case TraceBar::kStrangers:
      return "Yama (kernel.yama.ptrace_scope is 1) lets `telefork save` and `check PID` reach only "
             "what has called prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY): ask as root, or have root "
             "set it to 0. fork, run_on and run do not mind.";
    case TraceBar::kUsers:
      return "Yama (kernel.yama.ptrace_scope is 2) lets only root trace: no process of a plain "
             "user can be moved from or to this machine. Ask as root, or have root set it to 1.";
    case TraceBar::kEverybody:
      return "Yama (kernel.yama.ptrace_scope is 3) lets nobody trace until the machine starts "
             "anew: nothing can be moved from or to it. Have it start with another setting.";
  }
  return "";
}

// Of a missing user_namespace: what no setting forbids the kernel or a container does.
std::string_view what_is_lost_by(UserNamespaceBar bar) {
  switch (bar) {
    case UserNamespaceBar::kNone:
      break;
    case UserNamespaceBar::kLimit:
      return "Without root, arriving processes cannot get their old process numbers: no run_on and "
             "no load. Have root set user.max_user_namespaces, which is 0, to 10000.";
    case UserNamespaceBar::kDebian:
      return "Without root, arriving processes cannot get their old process numbers: no run_on and "
             "no load. Have root set kernel.unprivileged_userns_clone, which is 0, to 1.";
    case UserNamespaceBar::kAppArmor:
      return "Without root, arriving processes cannot get their old process numbers: no run_on and "
             "no load. Have root set kernel.apparmor_restrict_unprivileged_userns, which is 1, to "
             "0.";
  }
  return "";
}

void probe_processes(Features& features) {
  features.ptrace = may_open_memory_of_child();
  features.process_vm = has_process_vm();
  features.pidfd_getfd = has_pidfd_getfd();
  features.rseq_configuration = has_rseq();
  features.set_tid = may_choose_ids();
  features.mm_map = has_mm_map();
  features.map_exe_fd = may_set_exe();
  features.timer_restore_ids = has_timer_restore_ids();
}

void probe_memory(Features& features) {
  features.pagemap_scan = has_pagemap_scan(kPageIsFile);
  features.pagemap_guards = features.pagemap_scan && has_pagemap_scan(kPageIsGuard);
  features.map_files = may_open_map_files();
  features.populate_write = has_madvise(kMadvPopulateWrite);
  features.huge_pages = read_huge_page_policy() != HugePagePolicy::kNever;
  features.madv_collapse = features.huge_pages && has_madvise_collapse();
  features.guard_pages = has_madvise(kMadvGuardInstall);
}

void probe_userfaultfd(Features& features) {
  UffdSupport uffd = try_userfaultfd();
  features.uffd = uffd.present;
  features.uffd_kernel_faults = uffd.kernel_faults;
  features.uffd_wp_async = (uffd.features & kUffdFeatureWpAsync) != 0;
  features.uffd_wp_unpopulated = (uffd.features & kUffdFeatureWpUnpopulated) != 0;
  features.uffd_move = (uffd.features & kUffdFeatureMove) != 0;
}

void probe_namespaces(Features& features) {
  features.user_namespace = has_user_namespace();
  features.user_namespace_bar = read_user_namespace_bar();
  features.pid_namespace = try_pid_namespace() == 0;
  features.time_namespace = has_time_namespace();
  features.network_namespace = has_network_namespace();
  features.tcp_repair = has_tcp_repair();
}

void probe_capabilities(Features& features) {
  features.sys_admin_cap = has_capability(kCapSysAdmin);
  features.checkpoint_restore_cap = features.sys_admin_cap || has_capability(kCapCheckpointRestore);
  features.sys_ptrace_cap = has_capability(kCapSysPtrace);
  features.sys_resource_cap = has_capability(kCapSysResource);
  features.net_admin_cap = has_capability(kCapNetAdmin);
  features.ptrace_scope = read_ptrace_scope();
}

}  // namespace

Features probe_features() {
  Features features;
  probe_processes(features);
  probe_memory(features);
  probe_userfaultfd(features);
  probe_namespaces(features);
  probe_capabilities(features);
  return features;
}

std::vector<FeatureReport> describe(const Features& features) {
  std::vector<FeatureReport> reports;
  for (const Entry& entry : kFeatures) {
    reports.push_back({entry.name, features.*entry.member, entry.what_is_lost});
    bool by_setting = entry.member == &Features::user_namespace &&
                      features.user_namespace_bar != UserNamespaceBar::kNone;
    if (by_setting) reports.back().what_is_lost = what_is_lost_by(features.user_namespace_bar);
  }
  TraceBar bar = trace_bar(features.ptrace_scope, features.sys_ptrace_cap);
  reports.push_back({kAnyProcess, bar == TraceBar::kNone, what_is_lost_by(bar)});
  return reports;
}

bool try_set_feature(Features& features, std::string_view name, bool present) {
  for (const Entry& entry : kFeatures) {
    if (entry.name != name) continue;
    features.*entry.member = present;
    return true;
  }
  return false;
}

PageMapAbi pagemap_abi(const Features& features) {
  if (!features.pagemap_scan) return PageMapAbi::kEntries;
  return features.pagemap_guards ? PageMapAbi::kScanGuards : PageMapAbi::kScan;
}

}  // namespace telefork::kernel
