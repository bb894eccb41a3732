#include "restore/event_files.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;

// linux/timerfd.h and linux/inotify.h cannot be included beside the C library's.
constexpr unsigned long kSetTicks = _IOW('T', 0, std::uint64_t);
constexpr unsigned long kSetNextWatch = _IOW('I', 0, std::int32_t);
constexpr unsigned kPidfdThread = O_EXCL;  // PIDFD_THREAD, Linux 6.9

int make_eventfd(FileDescription::Reader description) {
  const int flags = EFD_CLOEXEC | (description.getEventSemaphore() ? EFD_SEMAPHORE : 0);
  int fd = ::eventfd(0, flags);
  if (fd < 0) return fd;
  UniqueFd file(fd);
  if (description.getEventCount() == UINT64_MAX) throw Error(Code::kCorrupt, "no such count");
  if (::eventfd_write(file.get(), description.getEventCount()) != 0) {
    throw_errno("setting the count of an eventfd");
  }
  return file.release();
}

int make_signalfd(std::uint64_t mask) {
  sigset_t set;
  ::sigemptyset(&set);
  // The C library's own two signals are left out by its functions.
  std::memcpy(&set, &mask, sizeof(mask));
  return ::signalfd(-1, &set, SFD_CLOEXEC);
}

int make(FileDescription::Reader description, pid_t pid) {
  switch (description.getKind()) {
    case FileDescription::Kind::EVENTFD:
      return make_eventfd(description);
    case FileDescription::Kind::TIMERFD:
      return ::timerfd_create(description.getTimer().getClock(), TFD_CLOEXEC);
    case FileDescription::Kind::SIGNALFD:
      return make_signalfd(description.getSignalMask());
    case FileDescription::Kind::EPOLL:
      return ::epoll_create1(EPOLL_CLOEXEC);
    case FileDescription::Kind::INOTIFY:
      return ::inotify_init1(IN_CLOEXEC);
    default:
      return static_cast<int>(
          ::syscall(SYS_pidfd_open, pid, description.getFlags() & kPidfdThread));
  }
}

timespec to_timespec(std::int64_t nanoseconds) {
  return {nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
}

}  // namespace

bool is_event_file(FileDescription::Kind kind) {
  switch (kind) {
    case FileDescription::Kind::EVENTFD:
    case FileDescription::Kind::TIMERFD:
    case FileDescription::Kind::SIGNALFD:
    case FileDescription::Kind::EPOLL:
    case FileDescription::Kind::INOTIFY:
    case FileDescription::Kind::PIDFD:
      return true;
    default:
      return false;
  }
}

UniqueFd open_event_file(FileDescription::Reader description, pid_t pid) {
  UniqueFd file(make(description, pid));
  std::string name = description.getName();
  if (!file) throw_errno("making another " + name);
  const unsigned flags = description.getFlags() & (O_NONBLOCK | O_APPEND);
  if (flags != 0 && ::fcntl(file.get(), F_SETFL, flags) != 0) {
    throw_errno("setting the flags of " + name);
  }
  return file;
}

void add_timer_file(int fd, image::schema::TimerFile::Reader timer, std::int64_t now,
                    tracee::SyscallProgram& program) {
  std::string name = fmt::format("arming the timer of fd {}", fd);
  const unsigned flags = timer.getFlags();
  std::int64_t value = timer.getRemaining();
  if (value != 0 && (flags & TFD_TIMER_ABSTIME) != 0) {
    value = timer.getDeadline() != 0 ? timer.getDeadline() : now + value;
  }
  itimerspec time{to_timespec(timer.getInterval()), to_timespec(value)};
  // A timer that was disarmed, or has expired for good, keeps its flags and interval all the same.
  program.call(name, SYS_timerfd_settime, {fd, flags, program.object(time), 0});
  if (timer.getExpirations() == 0) return;
  program.call(fmt::format("restoring the expirations of fd {}", fd), SYS_ioctl,
               {fd, kSetTicks, program.object(timer.getExpirations())});
}

void add_watches(int fd, FileDescription::Reader description, int root,
                 tracee::SyscallProgram& program) {
  if (root >= 0) program.call("changing to the root directory", SYS_fchdir, {root});
  for (image::schema::InotifyWatch::Reader watch : description.getWatches()) {
    std::string path = watch.getFile().getPath();
    program.call(fmt::format("choosing the number of a watch of fd {}", fd), SYS_ioctl,
                 {fd, kSetNextWatch, watch.getNumber()});
    program.call_expecting(fmt::format("watching {} by fd {}", path, fd), watch.getNumber(),
                           SYS_inotify_add_watch,
                           {fd, program.text(root >= 0 ? "." + path : path), watch.getMask()});
  }
}

}  // namespace telefork::restore
