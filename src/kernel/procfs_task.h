// Who a process is and in what state: /proc/PID/stat, /proc/PID/status, its threads and children.
//
//     ProcessId id = identify(pid);            // now (pid, start time) is fixed
//     Status status = read_status(id.pid);
//     ...
//     if (!is_alive(id)) ...                   // ended, or the pid is another process's by now
//
// See procfs.h for the errors. Threads and children are complete lists only while the process
// is stopped.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"

namespace telefork::kernel {

// /proc/PID/stat; the addresses are 0 for whoever may not ptrace the process.
struct Stat {
  pid_t pid = 0;
  std::string comm;  // any bytes, parentheses and newlines included
  char state = '?';  // R S D T (stopped) t (traced) Z (zombie) X (dead) I (idle kernel thread)
  pid_t ppid = 0;
  pid_t pgrp = 0;
  pid_t session = 0;
  int tty_nr = 0;           // device number of the controlling terminal, 0 for none
  pid_t tpgid = 0;          // foreground group of that terminal, -1 for none
  std::uint64_t flags = 0;  // PF_* of include/linux/sched.h
  std::uint64_t user_ticks = 0;
  std::uint64_t system_ticks = 0;
  int nice = 0;
  int num_threads = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot
  RemotePtr start_code;
  RemotePtr end_code;
  RemotePtr start_stack;
  int exit_signal = 0;  // 0 or 17 as clone(2) was told; -1 for a thread
  unsigned rt_priority = 0;
  unsigned policy = 0;
  RemotePtr start_data;
  RemotePtr end_data;
  RemotePtr start_brk;
  RemotePtr arg_start;
  RemotePtr arg_end;
  RemotePtr env_start;
  RemotePtr env_end;
  int exit_code = 0;  // as wait(2) gives it; of a zombie
};

// /proc/PID/status. Signal sets have bit N-1 for signal N.
struct Status {
  std::string name;
  bool has_umask = false;  // a zombie has none
  unsigned umask = 0;
  char state = '?';
  pid_t tgid = 0;
  pid_t pid = 0;
  pid_t ppid = 0;
  pid_t tracer_pid = 0;
  std::array<uid_t, 4> uids{};  // real, effective, saved, filesystem
  std::array<gid_t, 4> gids{};
  std::vector<gid_t> groups;
  int threads = 0;
  // From the reader's pid namespace inwards; the last is what the process calls itself.
  std::vector<pid_t> ns_tgids;
  std::vector<pid_t> ns_pids;
  std::vector<pid_t> ns_pgids;
  std::vector<pid_t> ns_sids;
  std::uint64_t queued_signals = 0;  // SigQ: of its user
  std::uint64_t most_signals = 0;    // SigQ: its own limit of them
  std::uint64_t thread_pending = 0;  // SigPnd
  std::uint64_t shared_pending = 0;  // ShdPnd
  std::uint64_t blocked = 0;         // SigBlk
  std::uint64_t ignored = 0;         // SigIgn
  std::uint64_t caught = 0;          // SigCgt
  std::uint64_t cap_inheritable = 0;
  std::uint64_t cap_permitted = 0;
  std::uint64_t cap_effective = 0;
  std::uint64_t cap_bounding = 0;
  std::uint64_t cap_ambient = 0;
  bool no_new_privs = false;
  int seccomp = 0;  // 0 off, 1 strict, 2 filter
  int seccomp_filters = 0;
  std::uint64_t resident_kb = 0;   // VmRSS
  std::uint64_t anonymous_kb = 0;  // RssAnon, part of that
  std::uint64_t swap_kb = 0;       // VmSwap
  std::uint64_t locked_kb = 0;     // VmLck
};

Stat parse_stat(std::string_view text, std::string_view what = "stat");
Status parse_status(std::string_view text, std::string_view what = "status");
Stat read_stat(pid_t pid);
Status read_status(pid_t pid);

// Of a process or a thread; kGone when there is none of that number.
ProcessId identify(pid_t pid);
// False for a zombie, for a pid that was given to another process, and where nothing is left. A
// leader that called pthread_exit() is a zombie with living threads: that is alive.
bool is_alive(ProcessId id);

// Whether this process may have a traced one's seccomp filters wait (PTRACE_O_SUSPEND_SECCOMP):
// CAP_SYS_ADMIN in the first user namespace, and no filter of its own.
bool may_suspend_seccomp();

// The inode of the calling process's pid namespace (namespaces(7)); 0 where there is no /proc.
std::uint64_t own_pid_namespace();
// Whether /proc is that of the calling process's pid namespace, and so knows processes by the
// numbers that the kernel tells here; true where there is none.
bool has_own_proc();

// In ascending order; the first need not be the leader.
std::vector<pid_t> list_threads(pid_t pid);
bool is_thread_of(pid_t pid, pid_t tid);
// Of all its threads, in ascending order; zombies included. A child cloned with CLONE_PARENT is
// not among them.
std::vector<pid_t> list_children(pid_t pid);
// Every process of this pid namespace that may be seen.
std::vector<pid_t> list_processes();

}  // namespace telefork::kernel
