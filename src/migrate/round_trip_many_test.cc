// What there may be thousands of: more than the stub has room for at first.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "migrate/homecoming_trip.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

// `wanted`, or half of what the hard limit allows: the tests' own process has as many. It raises
// its limit, which those that it starts inherit.
int as_many_as(int wanted, int resource) {
  auto kind = static_cast<__rlimit_resource>(resource);
  rlimit limit{};
  EXPECT_EQ(::getrlimit(kind, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  EXPECT_EQ(::setrlimit(kind, &limit), 0);
  return static_cast<int>(std::min<rlim_t>(static_cast<rlim_t>(wanted), limit.rlim_max / 2 - 64));
}

std::vector<int> open_files(int count) {
  std::vector<int> fds;
  for (int i = 0; i < count; ++i) {
    fds.push_back(::open("/etc/passwd", O_RDONLY));
    VERIFY(fds.back() >= 0 && ::lseek(fds.back(), i, SEEK_SET) == i);
  }
  return fds;
}

void verify_files(const std::vector<int>& fds) {
  int position = 0;
  for (int fd : fds) VERIFY(::lseek(fd, 0, SEEK_CUR) == position++);
}

void queue_signals(int count) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGRTMIN);
  VERIFY(::sigprocmask(SIG_BLOCK, &blocked, nullptr) == 0);
  for (int i = 0; i < count; ++i) VERIFY(::sigqueue(::getpid(), SIGRTMIN, {.sival_int = i}) == 0);
}

void verify_signals(int count) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  const timespec now{};
  for (int i = 0; i < count; ++i) {
    siginfo_t info{};
    VERIFY(::sigtimedwait(&set, &info, &now) == SIGRTMIN && info.si_value.sival_int == i);
  }
  VERIFY(::sigtimedwait(&set, nullptr, &now) == -1);
}

// Every other one is armed.
std::vector<int> make_timers(int count) {
  std::vector<int> timers;
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR1;
  itimerspec hour{{0, 0}, {3600, 0}};
  for (int i = 0; i < count; ++i) {
    int id = -1;
    VERIFY(::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) == 0);
    timers.push_back(id);
    if (i % 2 == 0) VERIFY(::syscall(SYS_timer_settime, id, 0, &hour, nullptr) == 0);
  }
  return timers;
}

void verify_timers(const std::vector<int>& timers) {
  for (std::size_t i = 0; i < timers.size(); ++i) {
    itimerspec left{};
    VERIFY(::syscall(SYS_timer_gettime, timers[i], &left) == 0);
    VERIFY((left.it_value.tv_sec > 3000) == (i % 2 == 0));
  }
}

class RoundTripOfMany : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
  const int files_ = as_many_as(7000, RLIMIT_NOFILE);
  const int signals_ = as_many_as(3000, RLIMIT_SIGPENDING);
  const int timers_ = as_many_as(2500, RLIMIT_SIGPENDING);
};

TEST_F(RoundTripOfMany, KeepsThousandsOfDescriptors) {
  expect_survives([count = files_](Self& self) {
    std::vector<int> fds = open_files(count);
    VERIFY(::dup2(fds.front(), fds.back()) == fds.back());
    self.travel();
    VERIFY(::lseek(fds.back(), 0, SEEK_CUR) == 0);
    fds.pop_back();
    verify_files(fds);
  });
}

// As a plain user's keeper has it.
// Of a process of its own (live_apart()): a hard limit can be lowered, and not be raised again.
void live_with_descriptors(rlim_t count) {
  const rlimit limit{count, count};
  EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  EXPECT_EQ(::syscall(SYS_capget, &header, sets), 0);
  sets[CAP_SYS_RESOURCE / 32].effective &= ~(1U << (CAP_SYS_RESOURCE % 32));
  EXPECT_EQ(::syscall(SYS_capset, &header, sets), 0);
}

// What it does to the process that it runs in is not for other tests.
template <class F>
void live_apart(F&& body) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    try {
      body();
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(RoundTripOfMany, KeepsAllDescriptorsThatTheLimitOfItsNewHomeAllows) {
  constexpr int kLimit = 64;
  TripOptions options;
  options.on_the_way = [] { live_with_descriptors(kLimit); };
  options.compare = false;  // the hard limit is another one
  live_apart([&] {
    expect_survives(
        [](Self& self) {
          std::vector<int> fds = open_files(kLimit - 8);
          VERIFY(fds.back() < kLimit);
          self.travel();
          verify_files(fds);
        },
        options);
  });
}

void expect_beyond_limit() {
  Traveller traveller([](Self& self) {
    VERIFY(::dup2(STDIN_FILENO, 100) == 100);
    self.travel();
  });
  TripOptions options;
  traveller.save(options);
  live_with_descriptors(64);
  try {
    traveller.load(options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResources);
    EXPECT_EQ(error.text(),
              "restoring descriptors: there is no descriptor 100 here (limit nofile is 64): Too "
              "many open files");
  }
}

TEST_F(RoundTripOfMany, NamesTheLimitThatADescriptorIsBeyond) { live_apart(expect_beyond_limit); }

TEST_F(RoundTripOfMany, KeepsThousandsOfPendingSignals) {
  expect_survives([count = signals_](Self& self) {
    queue_signals(count);
    self.travel();
    verify_signals(count);
  });
}

TEST_F(RoundTripOfMany, KeepsThousandsOfTimers) {
  TripOptions options;
  options.compare_images = false;  // /proc lists the newest first
  expect_survives(
      [count = timers_](Self& self) {
        std::vector<int> timers = make_timers(count);
        self.travel();
        verify_timers(timers);
      },
      options);
}

using HomecomingOfMany = RoundTripOfMany;

TEST_F(HomecomingOfMany, BringsThousandsOfEachHome) {
  expect_comes_home([this](Away& away) {
    std::vector<int> timers = make_timers(timers_);
    VERIFY(away.leave());
    std::vector<int> fds = open_files(files_ / 4);
    queue_signals(signals_);
    away.come_home();
    verify_timers(timers);
    verify_files(fds);
    verify_signals(signals_);
  });
}

TEST_F(HomecomingOfMany, StaysAsItWasWhereSomethingIsInTheWay) {
  constexpr std::uint64_t kSpare = 64 << 20;
  expect_stays_away(
      [this](Away& away) {
        std::vector<int> timers = make_timers(timers_);
        queue_signals(signals_);
        if (!away.leave()) {
          verify_timers(timers);
          verify_signals(signals_);
          return;
        }
        open_files(files_ / 4);
        VERIFY(::mmap(nullptr, 2 * kSpare, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
               MAP_FAILED);
        away.come_home();
        VERIFY(false);
      },
      "mapping memory at",
      [](Journey& journey) {
        std::uint64_t used = 0;
        for (const kernel::Vma& vma : kernel::read_maps(journey.pid())) used += vma.size();
        rlimit limit{used + kSpare, RLIM_INFINITY};
        ASSERT_EQ(::prlimit(journey.pid(), RLIMIT_AS, &limit, nullptr), 0);
      });
}

}  // namespace
}  // namespace telefork::migrate
