// eventfd, timerfd, signalfd, epoll, inotify, pidfd: with what they count, wait for and watch.
#include <csignal>
#include <cstring>
#include <ctime>
#include <map>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/procfs_fdinfo.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

class RoundTripOfEventFiles : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

std::uint64_t take(int fd) {
  std::uint64_t value = 0;
  VERIFY(::read(fd, &value, sizeof(value)) == sizeof(value));
  return value;
}

TEST_F(RoundTripOfEventFiles, KeepsCounts) {
  expect_survives([](Self& self) {
    const int counter = ::eventfd(7, EFD_NONBLOCK);
    const int semaphore = ::eventfd(2, EFD_SEMAPHORE | EFD_CLOEXEC);
    const int full = ::eventfd(0, EFD_NONBLOCK);
    VERIFY(::eventfd_write(full, UINT64_MAX - 1) == 0);
    const int shared = ::dup(counter);
    self.travel();
    VERIFY(::eventfd_write(shared, 1) == 0);
    VERIFY(take(counter) == 8);
    VERIFY(::fcntl(shared, F_GETFL) == (O_RDWR | O_NONBLOCK));
    VERIFY(take(semaphore) == 1 && take(semaphore) == 1);
    VERIFY(::fcntl(semaphore, F_GETFD) == FD_CLOEXEC);
    VERIFY(::eventfd_write(full, 1) < 0 && errno == EAGAIN);
    VERIFY(take(full) == UINT64_MAX - 1);
  });
}

itimerspec after(std::int64_t nanoseconds, std::int64_t interval = 0) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  return {{interval / kSecond, interval % kSecond}, {nanoseconds / kSecond, nanoseconds % kSecond}};
}

TEST_F(RoundTripOfEventFiles, KeepsTimers) {
  expect_survives([](Self& self) {
    const int long_one = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    const int idle = ::timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK);
    const int expired = ::timerfd_create(CLOCK_REALTIME, 0);
    const int periodic = ::timerfd_create(CLOCK_MONOTONIC, 0);
    itimerspec value = after(3'600'000'000'000, 5'000'000'000);
    VERIFY(::timerfd_settime(long_one, 0, &value, nullptr) == 0);
    value = after(1);
    VERIFY(::timerfd_settime(expired, 0, &value, nullptr) == 0);
    pollfd poll = {expired, POLLIN, 0};
    VERIFY(::poll(&poll, 1, -1) == 1);
    value = after(1, 100'000);
    VERIFY(::timerfd_settime(periodic, 0, &value, nullptr) == 0);
    poll = {periodic, POLLIN, 0};
    VERIFY(::poll(&poll, 1, -1) == 1);
    self.travel();
    VERIFY(::timerfd_gettime(long_one, &value) == 0);
    VERIFY(value.it_value.tv_sec > 3500 && value.it_value.tv_sec <= 3600);
    VERIFY(value.it_interval.tv_sec == 5);
    VERIFY(::timerfd_gettime(idle, &value) == 0);
    VERIFY(value.it_value.tv_sec == 0 && value.it_value.tv_nsec == 0);
    std::uint64_t count = 0;
    VERIFY(::read(idle, &count, sizeof(count)) < 0 && errno == EAGAIN);
    VERIFY(take(expired) == 1);
    VERIFY(take(periodic) >= 1 && take(periodic) >= 1);
  });
}

TEST_F(RoundTripOfEventFiles, KeepsTheTimeOfTimersByTheClock) {
  expect_survives([](Self& self) {
    const int real = ::timerfd_create(CLOCK_REALTIME, 0);
    const int steady = ::timerfd_create(CLOCK_MONOTONIC, 0);
    timespec now{};
    VERIFY(::clock_gettime(CLOCK_REALTIME, &now) == 0);
    itimerspec value{{0, 0}, {now.tv_sec + 3600, 0}};
    constexpr int kFlags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
    VERIFY(::timerfd_settime(real, kFlags, &value, nullptr) == 0);
    VERIFY(::clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    value = {{0, 0}, {now.tv_sec + 3600, 0}};
    VERIFY(::timerfd_settime(steady, TFD_TIMER_ABSTIME, &value, nullptr) == 0);
    self.travel();
    VERIFY(kernel::parse_timerfd(kernel::read_fdinfo(::getpid(), real)).flags == kFlags);
    for (int timer : {real, steady}) {
      VERIFY(::timerfd_gettime(timer, &value) == 0);
      VERIFY(value.it_value.tv_sec > 3500 && value.it_value.tv_sec <= 3600);
    }
  });
}

TEST_F(RoundTripOfEventFiles, KeepsTheSignalsOfASignalfd) {
  expect_survives([](Self& self) {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGUSR1);
    ::sigaddset(&set, SIGRTMIN + 3);
    VERIFY(::sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
    const int file = ::signalfd(-1, &set, SFD_NONBLOCK);
    VERIFY(::raise(SIGUSR1) == 0);
    self.travel();
    signalfd_siginfo info{};
    VERIFY(::read(file, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1);
    VERIFY(::raise(SIGRTMIN + 3) == 0);
    VERIFY(::read(file, &info, sizeof(info)) == sizeof(info));
    VERIFY(info.ssi_signo == static_cast<unsigned>(SIGRTMIN + 3));
    VERIFY(::read(file, &info, sizeof(info)) < 0 && errno == EAGAIN);
  });
}

void watch(int epoll, int fd, std::uint32_t events, std::uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  VERIFY(::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

// What it tells now, by its data.
std::map<std::uint64_t, std::uint32_t> ask(int epoll) {
  epoll_event events[16];
  const int count = ::epoll_wait(epoll, events, 16, 0);
  VERIFY(count >= 0);
  std::map<std::uint64_t, std::uint32_t> told;
  for (int i = 0; i < count; ++i) {
    const std::uint64_t data = events[i].data.u64;  // of a packed struct
    told[data] = events[i].events;
  }
  return told;
}

TEST_F(RoundTripOfEventFiles, KeepsWhatAnEpollWatches) {
  expect_survives([](Self& self) {
    const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
    const int ready = ::eventfd(1, 0);
    const int quiet = ::eventfd(0, 0);
    int ends[2];
    VERIFY(::pipe(ends) == 0);
    watch(epoll, ready, EPOLLIN, 0x123456789abcdef0);
    watch(epoll, quiet, EPOLLIN | EPOLLEXCLUSIVE, 2);
    watch(epoll, ends[0], EPOLLIN | EPOLLET, 3);
    watch(epoll, ends[1], EPOLLOUT | EPOLLONESHOT, 4);
    const int outer = ::epoll_create1(0);
    watch(outer, epoll, EPOLLIN, 5);
    self.travel();
    VERIFY(ask(outer).count(5) == 1);
    auto told = ask(epoll);
    VERIFY(told.size() == 2);
    VERIFY(told.at(0x123456789abcdef0) == EPOLLIN && told.at(4) == EPOLLOUT);
    // The one had but one shot, the other is told as long as it is so.
    told = ask(epoll);
    VERIFY(told.size() == 1 && told.count(0x123456789abcdef0) == 1);
    VERIFY(take(ready) == 1);
    VERIFY(ask(epoll).empty());
    VERIFY(::eventfd_write(quiet, 1) == 0 && ::write(ends[1], "x", 1) == 1);
    told = ask(epoll);
    VERIFY(told.size() == 2 && told.at(2) == EPOLLIN && told.at(3) == EPOLLIN);
    told = ask(epoll);
    VERIFY(told.size() == 1 && told.count(2) == 1);
  });
}

TEST_F(RoundTripOfEventFiles, KeepsWhatHasToldItsOnlyEvent) {
  expect_survives([](Self& self) {
    const int epoll = ::epoll_create1(0);
    int ends[2];
    VERIFY(::pipe(ends) == 0 && ::write(ends[1], "x", 1) == 1);
    watch(epoll, ends[0], EPOLLIN | EPOLLONESHOT, 1);
    VERIFY(ask(epoll).size() == 1);
    self.travel();
    // Not even that nobody writes any more.
    VERIFY(::close(ends[1]) == 0 && ask(epoll).empty());
    epoll_event event{};
    event.events = EPOLLIN | EPOLLONESHOT;
    VERIFY(::epoll_ctl(epoll, EPOLL_CTL_MOD, ends[0], &event) == 0);
    VERIFY(ask(epoll).size() == 1);
  });
}

TEST_F(RoundTripOfEventFiles, WatchesWhatHasAnotherNumberByNow) {
  expect_survives([](Self& self) {
    const int epoll = ::epoll_create1(0);
    int ends[2];
    VERIFY(::pipe(ends) == 0);
    const int reader = ::dup(ends[0]);
    watch(epoll, ends[0], EPOLLIN, 1);
    VERIFY(::close(ends[0]) == 0);
    // By a number that is another file's now, and by the same for two of them.
    const int event = ::eventfd(0, 0);
    VERIFY(event == ends[0]);
    watch(epoll, event, EPOLLIN, 2);
    const int moved = ::dup(event);
    VERIFY(::dup2(2, event) == event && ::fcntl(event, F_SETFD, FD_CLOEXEC) == 0);
    self.travel();
    VERIFY(::write(ends[1], "x", 1) == 1 && ::eventfd_write(moved, 1) == 0);
    VERIFY(ask(epoll).size() == 2);
    VERIFY(::fcntl(event, F_GETFD) == FD_CLOEXEC && ::write(event, "", 0) == 0);
    char byte = 0;
    VERIFY(::read(reader, &byte, 1) == 1);
    VERIFY(ask(epoll).count(2) == 1 && ask(epoll).size() == 1);
  });
}

TEST_F(RoundTripOfEventFiles, KeepsInotifyWatches) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  ScratchFile file("content");
  expect_survives([path = file.path()](Self& self) {
    const int watcher = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    VERIFY(::inotify_add_watch(watcher, "/dev", IN_ATTRIB) == 1);
    VERIFY(::inotify_add_watch(watcher, path.c_str(), IN_MODIFY | IN_ONESHOT) == 2);
    VERIFY(::inotify_rm_watch(watcher, 1) == 0);
    inotify_event event{};
    VERIFY(::read(watcher, &event, sizeof(event)) == sizeof(event));  // IN_IGNORED
    self.travel();
    VERIFY(::truncate(path.c_str(), 3) == 0);
    VERIFY(::read(watcher, &event, sizeof(event)) == sizeof(event));
    VERIFY(event.wd == 2 && event.mask == IN_MODIFY);
    VERIFY(::read(watcher, &event, sizeof(event)) == sizeof(event));
    VERIFY(event.mask == IN_IGNORED);
  });
}

TEST_F(RoundTripOfEventFiles, StaysWhereEventsWereNotRead) {
  ScratchFile file("content");
  Traveller traveller([path = file.path()](Self& self) {
    const int watcher = ::inotify_init1(0);
    VERIFY(::inotify_add_watch(watcher, path.c_str(), IN_MODIFY) == 1);
    VERIFY(::truncate(path.c_str(), 3) == 0);
    self.travel();
    inotify_event event{};
    VERIFY(::read(watcher, &event, sizeof(event)) == sizeof(event) && event.mask == IN_MODIFY);
  });
  try {
    traveller.save({});
    ADD_FAILURE() << "it was saved";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find("it has events that were not read"), std::string::npos)
        << error.text();
  }
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

TEST_F(RoundTripOfEventFiles, KnowsItself) {
  expect_survives([](Self& self) {
    const int self_fd = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
    VERIFY(self_fd >= 0);
    VERIFY(::signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    self.travel();
    VERIFY(kernel::parse_pidfd(kernel::read_fdinfo(::getpid(), self_fd)) == ::getpid());
    VERIFY(::syscall(SYS_pidfd_send_signal, self_fd, SIGUSR1, nullptr, 0) == 0);
  });
}

TEST_F(RoundTripOfEventFiles, KeepsWhoGetsTheSignals) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe(ends) == 0);
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGRTMIN);
    VERIFY(::sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
    f_owner_ex owner{F_OWNER_TID, ::getpid()};
    VERIFY(::fcntl(ends[0], F_SETOWN_EX, &owner) == 0);
    VERIFY(::fcntl(ends[0], F_SETSIG, SIGRTMIN) == 0);
    VERIFY(::fcntl(ends[0], F_SETFL, O_ASYNC) == 0);
    self.travel();
    owner = {};
    VERIFY(::fcntl(ends[0], F_GETOWN_EX, &owner) == 0);
    VERIFY(owner.type == F_OWNER_TID && owner.pid == ::getpid());
    VERIFY(::fcntl(ends[0], F_GETSIG) == SIGRTMIN);
    VERIFY(::write(ends[1], "x", 1) == 1);
    siginfo_t info{};
    VERIFY(::sigwaitinfo(&set, &info) == SIGRTMIN && info.si_fd == ends[0]);
  });
}

TEST_F(RoundTripOfEventFiles, WarnsOfAnOwnerThatStays) {
  TripReport report = expect_survives(
      [](Self& self) {
        const int event = ::eventfd(0, 0);
        VERIFY(::fcntl(event, F_SETOWN, ::getppid()) == 0);
        self.travel();
      },
      [] {
        TripOptions options;
        options.compare_images = false;
        return options;
      }());
  ASSERT_EQ(report.warnings.size(), 1u);
  EXPECT_NE(report.warnings[0].find("nobody gets the signals of its fd 3"), std::string::npos);
}

// Another process has the very eventfd, and goes on counting with it.
TEST_F(RoundTripOfEventFiles, StaysWithWhoElseHasIt) {
  Traveller traveller([](Self& self) {
    VERIFY(::eventfd(0, 0) == 3);
    int ends[2];
    VERIFY(::pipe(ends) == 0);
    const pid_t child = ::fork();
    VERIFY(child >= 0);
    if (child == 0) {
      char byte = 0;
      [[maybe_unused]] const ssize_t n = ::close(ends[1]) + ::read(ends[0], &byte, 1);
      ::_exit(0);
    }
    VERIFY(::close(ends[0]) == 0);
    self.travel();
    VERIFY(::close(ends[1]) == 0);
  });
  try {
    traveller.save({});
    ADD_FAILURE() << "it was saved";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find("fd 3 -> anon_inode:[eventfd]: process "), std::string::npos)
        << error.text();
    EXPECT_NE(error.text().find(" has it too, and stays"), std::string::npos) << error.text();
  }
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

}  // namespace
}  // namespace telefork::migrate
