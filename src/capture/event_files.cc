// eventfd, timerfd, signalfd, epoll, inotify: what the kernel tells of them.
#include <cstdint>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "capture/eventfd_probe.h"
#include "kernel/pidfd.h"

namespace telefork::capture {
namespace {

using Kind = image::schema::FileDescription::Kind;

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::int64_t read_clock(clockid_t clock) {
  timespec time{};
  if (::clock_gettime(clock, &time) != 0) throw_errno("reading a clock");
  return nanoseconds(time);
}

bool is_of_realtime(int clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM; }

UniqueFd take(const Description& description) {
  UniqueFd taken = kernel::take_fd(description.pid, description.fd);
  if (!taken) throw Error(Code::kGone, fmt::format("fd {} has just been closed", description.fd));
  return taken;
}

void fill_eventfd(const Description& description, image::schema::FileDescription::Builder record) {
  kernel::EventfdInfo info =
      kernel::parse_eventfd(kernel::read_fdinfo(description.pid, description.fd));
  record.setEventCount(info.count);
  record.setEventSemaphore(info.semaphore ? *info.semaphore
                                          : probe_semaphore(take(description), info.count));
}

image::schema::FileLock::Kind kind_of(const kernel::LockInfo& lock) {
  switch (lock.kind) {
    case kernel::LockInfo::Kind::kFlock:
      return image::schema::FileLock::Kind::FLOCK;
    case kernel::LockInfo::Kind::kPosix:
      return image::schema::FileLock::Kind::POSIX;
    case kernel::LockInfo::Kind::kLease:
      return image::schema::FileLock::Kind::LEASE;
    default:
      return image::schema::FileLock::Kind::DESCRIPTION;
  }
}

}  // namespace

void fill_locks(const std::vector<kernel::LockInfo>& locks,
                ::capnp::List<image::schema::FileLock>::Builder records) {
  for (unsigned i = 0; i < records.size(); ++i) {
    records[i].setKind(kind_of(locks[i]));
    records[i].setExclusive(locks[i].exclusive);
    records[i].setStart(locks[i].start);
    records[i].setLength(locks[i].length);
  }
}

namespace {

struct TimerReading {
  kernel::TimerfdInfo info;
  std::int64_t remaining = 0;
};

// Asking for the rest of its time brings its expirations up to date. Where one comes in between,
// all of it is read again; one whose interval is so short that this goes on for ever expires
// anyhow.
TimerReading read_timer(pid_t pid, int fd, const UniqueFd& timer) {
  constexpr int kMostReadings = 16;
  TimerReading reading;
  for (int i = 0; i < kMostReadings; ++i) {
    itimerspec before{};
    itimerspec after{};
    if (::timerfd_gettime(timer.get(), &before) != 0) throw_errno("asking a timerfd");
    reading.info = kernel::parse_timerfd(kernel::read_fdinfo(pid, fd));
    reading.remaining = nanoseconds(before.it_value);
    if (::timerfd_gettime(timer.get(), &after) != 0) throw_errno("asking a timerfd");
    if (nanoseconds(after.it_value) <= reading.remaining &&
        (nanoseconds(after.it_value) == 0) == (reading.remaining == 0)) {
      break;
    }
  }
  return reading;
}

}  // namespace

// What is left counts from when the image's clocks were read, as for the other timers.
void Capture::fill_timerfd(const Description& description,
                           image::schema::TimerFile::Builder record) {
  UniqueFd timer = take(description);
  TimerReading reading = read_timer(description.pid, description.fd, timer);
  record.setClock(reading.info.clock);
  record.setFlags(reading.info.flags);
  record.setExpirations(reading.info.expirations);
  record.setInterval(reading.info.interval_ns);
  if (reading.remaining == 0) return;
  record.setRemaining(
      reading.remaining + read_clock(CLOCK_MONOTONIC) +
      kernel::try_read_timens_offsets(survey_.thread).monotonic.total_nanoseconds() -
      kernel::try_read_timens_offsets(::getpid()).monotonic.total_nanoseconds() - monotonic_);
  if (is_of_realtime(reading.info.clock) && (reading.info.flags & TFD_TIMER_ABSTIME) != 0) {
    record.setDeadline(read_clock(CLOCK_REALTIME) + reading.remaining);
  }
}

void Capture::fill_object(const Description& description, DescriptionBuilder record) {
  switch (description.kind) {
    case Kind::PIPE:
      record.setPipe(static_cast<std::uint32_t>(description.object));
      break;
    case Kind::SOCKET:
      record.setSocket(static_cast<std::uint32_t>(description.object));
      break;
    case Kind::PTY_MASTER:
    case Kind::PTY_SLAVE:
      record.setPty(static_cast<std::uint32_t>(description.object));
      record.setOwnTerminal(description.own_terminal);
      break;
    case Kind::EVENTFD:
      fill_eventfd(description, record);
      break;
    case Kind::TIMERFD:
      fill_timerfd(description, record.initTimer());
      break;
    case Kind::SIGNALFD:
      record.setSignalMask(
          kernel::parse_signalfd(kernel::read_fdinfo(description.pid, description.fd)));
      break;
    case Kind::PROCFS:
      record.initFile().setPath(description.procfs);
      break;
    case Kind::PIDFD:
      if (description.pidfd_of != description.pid) {
        record.setPidfdOf(
            static_cast<std::uint32_t>(kernel::read_status(description.pidfd_of).ns_tgids.back()));
      }
      break;
    default:
      break;
  }
  auto items = record.initEpoll(static_cast<unsigned>(description.epoll.size()));
  for (unsigned i = 0; i < items.size(); ++i) {
    const EpollItem& item = description.epoll[i];
    items[i].setFd(static_cast<std::uint32_t>(item.target.fd));
    items[i].setDescription(static_cast<std::uint32_t>(item.description));
    items[i].setEvents(item.target.events);
    items[i].setData(item.target.data);
  }
  fill_locks(description.locks, record.initLocks(static_cast<unsigned>(description.locks.size())));
  auto watches = record.initWatches(static_cast<unsigned>(description.watches.size()));
  for (unsigned i = 0; i < watches.size(); ++i) {
    watches[i].setNumber(description.watches[i].number);
    watches[i].setMask(description.watches[i].mask);
    watches[i].initFile().setPath(description.watches[i].path);
    watches[i].getFile().setMode(description.watches[i].mode);
  }
}

}  // namespace telefork::capture
