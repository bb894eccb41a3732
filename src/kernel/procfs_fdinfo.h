// What /proc/PID/fdinfo/FD adds of a descriptor that is no plain file: the lines that FdInfo keeps
// as `details`, by the kind of file (proc(5)).
//
// Pure. A line that the kind must have and that is not there, or that is not of its format, is an
// Error with kCorrupt, as everywhere in procfs.h. Lines of other keys are passed over: newer
// kernels add some.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "kernel/procfs_file.h"

namespace telefork::kernel {

struct EventfdInfo {
  std::uint64_t count = 0;
  // Empty: the kernel does not tell (before Linux 6.5).
  std::optional<bool> semaphore;
};
EventfdInfo parse_eventfd(const FdInfo& info);

// One that has expired and was not looked at since says that nothing remains, and does not count
// what its interval has brought (timerfd_show in fs/timerfd.c): timerfd_gettime(2) brings it up to
// date.
struct TimerfdInfo {
  int clock = 0;
  std::uint64_t expirations = 0;  // that were not read
  unsigned flags = 0;             // of timerfd_settime(2)
  std::int64_t remaining_ns = 0;
  std::int64_t interval_ns = 0;
};
TimerfdInfo parse_timerfd(const FdInfo& info);

std::uint64_t parse_signalfd(const FdInfo& info);  // bit n-1: signal n

// In the kernel's order, which is that of kcmp(2), KCMP_EPOLL_TFD.
struct EpollTarget {
  int fd = 0;  // by which it was added
  std::uint32_t events = 0;
  std::uint64_t data = 0;
};
std::vector<EpollTarget> parse_epoll(const FdInfo& info);

struct InotifyTarget {
  int number = 0;
  std::uint64_t inode = 0;
  std::uint32_t device = 0;  // the kernel's own number: major in the upper 12 bits
  std::uint32_t mask = 0;
  int handle_type = 0;
  std::vector<std::byte> handle;  // as open_by_handle_at(2) takes it; empty: it is not told
};
std::vector<InotifyTarget> parse_inotify(const FdInfo& info);

// Of a unix socket: how many descriptors are on their way to it (SCM_RIGHTS); 0 where the kernel
// does not tell (before Linux 5.5).
std::uint64_t parse_sent_descriptors(const FdInfo& info);

// As the reader's pid namespace knows it; -1: it has ended.
pid_t parse_pidfd(const FdInfo& info);

struct LockInfo {
  enum class Kind { kFlock, kPosix, kDescription, kLease, kOther };
  Kind kind = Kind::kOther;  // kOther: what is not known, or a lease that is being broken
  bool exclusive = false;    // of a lease: for writing
  std::uint64_t start = 0;
  std::uint64_t length = 0;  // 0: to the end of the file
};
std::vector<LockInfo> parse_locks(const FdInfo& info);

}  // namespace telefork::kernel
