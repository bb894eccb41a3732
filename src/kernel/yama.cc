#include "kernel/yama.h"

#include <linux/capability.h>
#include <unistd.h>

#include "kernel/procfs_system.h"
#include "kernel/procfs_task.h"

namespace telefork::kernel {

TraceBar trace_bar(int ptrace_scope, bool sys_ptrace_cap) {
  if (ptrace_scope >= 3) return TraceBar::kEverybody;
  if (ptrace_scope <= 0 || sys_ptrace_cap) return TraceBar::kNone;
  return ptrace_scope == 1 ? TraceBar::kStrangers : TraceBar::kUsers;
}

TraceBar read_trace_bar() {
  int scope = read_ptrace_scope();
  if (scope == 0) return TraceBar::kNone;
  std::uint64_t capabilities = read_status(::getpid()).cap_effective;
  return trace_bar(scope, (capabilities >> CAP_SYS_PTRACE & 1) != 0);
}

const char* say_bar(TraceBar bar) {
  switch (bar) {
    case TraceBar::kNone:
      return "";
    case TraceBar::kStrangers:
      return "Yama lets only its ancestors trace it (kernel.yama.ptrace_scope is 1); ask as root, "
             "have it call prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY), or have root set that to 0";
    case TraceBar::kUsers:
      return "Yama lets only root trace (kernel.yama.ptrace_scope is 2); ask as root, or have root "
             "set that to 1";
    case TraceBar::kEverybody:
      return "Yama lets nobody trace until the machine starts anew (kernel.yama.ptrace_scope is "
             "3); have it start with another setting";
  }
  return "";
}

}  // namespace telefork::kernel
