// What the Yama security module forbids: Documentation/admin-guide/LSM/Yama.rst.
//
//     TraceBar bar = read_trace_bar();           // once; then passed in as a value
//     if (bar >= TraceBar::kUsers) ... say_bar(bar)
//
// It forbids what the kernel calls an attach: ptrace(2), /proc/PID/mem, process_vm_readv(2),
// pidfd_getfd(2). To look at a process (its state, maps, links) is none, so a survey finds all in
// order where nothing can be done with the process.
//
// A session that libtelefork has asked for is named by the program (PR_SET_PTRACER), and what a
// keeper traces descends from it: to both kStrangers is no bar.
#pragma once

namespace telefork::kernel {

enum class TraceBar {
  kNone,       // one's own processes may be traced
  kStrangers,  // scope 1: only descendants, and those that have named their tracer
  kUsers,      // scope 2: none without CAP_SYS_PTRACE
  kEverybody,  // scope 3: none
};

TraceBar trace_bar(int ptrace_scope, bool sys_ptrace_cap);
// Of this process.
TraceBar read_trace_bar();

// Why, and what helps: "Yama lets only root trace (...); ask as root, ...". Empty of kNone.
const char* say_bar(TraceBar bar);

}  // namespace telefork::kernel
