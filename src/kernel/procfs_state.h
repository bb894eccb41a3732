// What else a process carries that only /proc tells: its auxiliary vector, arguments, timers, the
// settings that restore has to give back. See procfs.h for the errors.
//
// Resource limits, affinity and scheduling are not here: prlimit(2), sched_getaffinity(2) and
// sched_getattr(2) take a pid.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"

namespace telefork::kernel {

// Type and value, AT_NULL included as the last where the kernel gives it.
using AuxVector = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
AuxVector parse_auxv(std::string_view bytes);
AuxVector read_auxv(pid_t pid);

// The bytes between arg_start and arg_end, env_start and env_end: strings ended by NUL, unless the
// program has written over them. A zombie's are empty.
std::string read_cmdline(pid_t pid);
std::string read_environ_block(pid_t pid);
// Without the final newline.
std::string read_comm(pid_t pid, pid_t tid);
// The kernel function that a thread sleeps in; "0" where it runs or one may not know.
std::string read_wchan(pid_t tid);

// A timer made by timer_create(2).
struct PosixTimer {
  enum class Notify { kSignal, kNone, kThread };
  int id = 0;
  int signal = 0;
  std::uint64_t value = 0;  // sigev_value
  Notify notify = Notify::kSignal;
  bool to_thread = false;  // SIGEV_THREAD_ID: `target` is a tid, else a pid
  pid_t target = 0;        // as the reader's pid namespace has it
  int clock_id = 0;
};
std::vector<PosixTimer> parse_timers(std::string_view text, std::string_view what = "timers");
// Where the kernel was built without CONFIG_CHECKPOINT_RESTORE, the Error has ENOENT.
std::vector<PosixTimer> read_timers(pid_t pid);

// Where a thread is: /proc/PID/syscall.
struct SyscallState {
  enum class Where {
    kRunning,    // on a CPU, or ready to run: nothing else is known
    kInUser,     // stopped or blocked outside a syscall (a page fault, a signal stop)
    kInSyscall,  // blocked in `number`
  };
  Where where = Where::kRunning;
  long number = -1;
  std::uint64_t arguments[6] = {};
  RemotePtr stack_pointer;
  RemotePtr instruction_pointer;
};
SyscallState parse_syscall(std::string_view text, std::string_view what = "syscall");
SyscallState read_syscall(pid_t tid);

// Of the time namespace that children of the process are born into.
struct TimeOffset {
  std::int64_t seconds = 0;
  std::int64_t nanoseconds = 0;  // never negative
  auto operator<=>(const TimeOffset&) const = default;

  // Both within what the kernel takes: some 146 years (KTIME_SEC_MAX / 2).
  static TimeOffset of_nanoseconds(std::int64_t total);
  std::int64_t total_nanoseconds() const { return seconds * 1'000'000'000 + nanoseconds; }
};
struct TimeNamespaceOffsets {
  TimeOffset monotonic;
  TimeOffset boottime;
  auto operator<=>(const TimeNamespaceOffsets&) const = default;
};
TimeNamespaceOffsets parse_timens_offsets(std::string_view text,
                                          std::string_view what = "timens_offsets");
// Without CONFIG_TIME_NS the Error has ENOENT.
TimeNamespaceOffsets read_timens_offsets(pid_t pid);
// None there: everybody has the clocks of the machine.
TimeNamespaceOffsets try_read_timens_offsets(pid_t pid);
// As the kernel takes them.
std::string format_timens_offsets(const TimeNamespaceOffsets& offsets);
// After unshare(CLONE_NEWTIME) and before the first process is in it; EACCES later.
void write_timens_offsets(pid_t pid, const TimeNamespaceOffsets& offsets);

// Of a process that has just made a user namespace: there `uid` and `gid` are themselves, and
// nobody else is there at all. This is what a user may do without privileges (user_namespaces(7)).
void map_single_user(pid_t pid, uid_t uid, gid_t gid);

int read_oom_score_adj(pid_t pid);
// Lowering it below what it was needs CAP_SYS_RESOURCE: EACCES.
void write_oom_score_adj(pid_t pid, int value);
unsigned read_coredump_filter(pid_t pid);
void write_coredump_filter(pid_t pid, unsigned value);
// Of another process only with CAP_SYS_NICE (EPERM); a stub can ask by prctl(PR_GET_TIMERSLACK).
std::uint64_t read_timerslack_ns(pid_t tid);
unsigned read_personality(pid_t pid);

// uid_map, gid_map and setgroups of a process in a user namespace of its own.
void write_uid_map(pid_t pid, std::string_view lines);
void write_gid_map(pid_t pid, std::string_view lines);
void deny_setgroups(pid_t pid);

}  // namespace telefork::kernel
