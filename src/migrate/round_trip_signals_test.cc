// What signals do, those that wait, and timers that send them.
#include <pthread.h>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

class RoundTripOfSignals : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

struct KernelSigaction {
  std::uint64_t handler, flags, restorer, mask;
  bool operator==(const KernelSigaction&) const = default;
};

KernelSigaction action_of(int signal) {
  KernelSigaction action{};
  VERIFY(::syscall(SYS_rt_sigaction, signal, nullptr, &action, 8) == 0);
  return action;
}

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  return set;
}

volatile sig_atomic_t g_handled = 0;
volatile std::int64_t g_value = 0;
void* volatile g_stack_pointer = nullptr;

void on_signal(int, siginfo_t* info, void*) {
  g_handled = g_handled + 1;
  g_value = info->si_value.sival_int;
  g_stack_pointer = __builtin_frame_address(0);
}

void handle(int signal, int flags) {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = flags | SA_SIGINFO;
  action.sa_mask = set_of({SIGTERM, SIGRTMIN + 3});
  VERIFY(::sigaction(signal, &action, nullptr) == 0);
}

TEST_F(RoundTripOfSignals, KeepsActionsWithFlagsMaskAndRestorer) {
  expect_survives([](Self& self) {
    handle(SIGUSR1, SA_RESTART);
    handle(SIGUSR2, SA_NODEFER | SA_ONSTACK);
    handle(SIGRTMIN + 5, SA_RESETHAND);
    ::signal(SIGHUP, SIG_IGN);
    struct sigaction no_zombies {};
    no_zombies.sa_handler = SIG_DFL;
    no_zombies.sa_flags = SA_NOCLDWAIT | SA_NOCLDSTOP;
    VERIFY(::sigaction(SIGCHLD, &no_zombies, nullptr) == 0);
    std::vector<KernelSigaction> before;
    for (int signal = 1; signal <= 64; ++signal) before.push_back(action_of(signal));
    self.travel();
    for (int signal = 1; signal <= 64; ++signal) {
      VERIFY(action_of(signal) == before[static_cast<std::size_t>(signal) - 1]);
    }
    VERIFY(::sigqueue(::getpid(), SIGUSR1, {.sival_int = 42}) == 0);
    VERIFY(g_handled == 1 && g_value == 42);
    VERIFY(::raise(SIGRTMIN + 5) == 0);
    VERIFY(g_handled == 2);
    VERIFY(action_of(SIGRTMIN + 5).handler == 0);
    VERIFY(::raise(SIGHUP) == 0);
  });
}

TEST_F(RoundTripOfSignals, KeepsEachThreadsMask) {
  expect_survives([](Self& self) {
    sigset_t mine = set_of({SIGUSR1, SIGRTMAX});
    sigset_t others = set_of({SIGUSR2, SIGINT});
    auto is_blocked = [](int signal) {
      sigset_t now;
      pthread_sigmask(SIG_BLOCK, nullptr, &now);
      return sigismember(&now, signal) == 1;
    };
    std::atomic<bool> go = false;
    std::thread other([&] {
      pthread_sigmask(SIG_SETMASK, &others, nullptr);
      go.wait(false);
      VERIFY(is_blocked(SIGUSR2) && is_blocked(SIGINT));
      VERIFY(!is_blocked(SIGUSR1) && !is_blocked(SIGRTMAX));
    });
    pthread_sigmask(SIG_SETMASK, &mine, nullptr);
    self.travel();
    VERIFY(is_blocked(SIGUSR1) && is_blocked(SIGRTMAX));
    VERIFY(!is_blocked(SIGUSR2) && !is_blocked(SIGINT));
    go = true;
    go.notify_all();
    other.join();
  });
}

constexpr int kNoValue = -1;

// What kill(2) and tgkill(2) call it differs between kernels.
void expect_pending(int signal, int value = kNoValue) {
  sigset_t set = set_of({signal});
  siginfo_t info{};
  timespec now = {0, 0};
  VERIFY(::sigtimedwait(&set, &info, &now) == signal);
  VERIFY(value == kNoValue ? info.si_code == SI_USER || info.si_code == SI_TKILL
                           : info.si_code == SI_QUEUE);
  VERIFY(info.si_pid == ::getpid());
  VERIFY(info.si_uid == ::getuid());
  if (value != kNoValue) VERIFY(info.si_value.sival_int == value);
}

void expect_none_pending(int signal) {
  sigset_t set = set_of({signal});
  timespec now = {0, 0};
  VERIFY(::sigtimedwait(&set, nullptr, &now) == -1 && errno == EAGAIN);
}

TEST_F(RoundTripOfSignals, KeepsPendingSignalsWithTheirInformation) {
  expect_survives([](Self& self) {
    sigset_t set = set_of({SIGUSR1, SIGUSR2, SIGRTMIN, SIGRTMIN + 1, SIGTERM});
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::atomic<bool> go = false;
    std::atomic<bool> ready = false;
    std::thread other([&] {
      VERIFY(pthread_kill(pthread_self(), SIGUSR2) == 0);
      VERIFY(pthread_sigqueue(pthread_self(), SIGRTMIN, {.sival_int = 5}) == 0);
      ready = true;
      go.wait(false);
      expect_pending(SIGUSR2);
      expect_pending(SIGRTMIN, 5);
    });
    while (!ready) ::sched_yield();
    VERIFY(::kill(::getpid(), SIGTERM) == 0);
    for (int i = 0; i < 3; ++i) {
      VERIFY(::sigqueue(::getpid(), SIGRTMIN + 1, {.sival_int = i}) == 0);
    }
    VERIFY(pthread_kill(pthread_self(), SIGUSR1) == 0);
    self.travel();
    for (int i = 0; i < 3; ++i) expect_pending(SIGRTMIN + 1, i);
    expect_none_pending(SIGRTMIN + 1);
    expect_pending(SIGUSR1);
    expect_pending(SIGTERM);
    expect_none_pending(SIGUSR2);
    go = true;
    go.notify_all();
    other.join();
  });
}

TEST_F(RoundTripOfSignals, DeliversAPendingSignalWhenItIsUnblocked) {
  expect_survives([](Self& self) {
    handle(SIGUSR1, SA_RESTART);
    sigset_t set = set_of({SIGUSR1});
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    VERIFY(::sigqueue(::getpid(), SIGUSR1, {.sival_int = 77}) == 0);
    self.travel();
    VERIFY(g_handled == 0);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    VERIFY(g_handled == 1 && g_value == 77);
  });
}

// A signal whose default is to be ignored is kept while it is blocked.
TEST_F(RoundTripOfSignals, KeepsAPendingSignalThatNobodyCatches) {
  expect_survives([](Self& self) {
    sigset_t set = set_of({SIGCHLD, SIGWINCH, SIGURG, SIGCONT});
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    VERIFY(::raise(SIGWINCH) == 0);
    VERIFY(::kill(::getpid(), SIGURG) == 0);
    self.travel();
    expect_pending(SIGWINCH);
    expect_pending(SIGURG);
    expect_none_pending(SIGCHLD);
  });
}

struct AlternateStack {
  char* memory;
  static constexpr std::size_t kSize = 64 * 1024;
  explicit AlternateStack(int flags = 0) : memory(new char[kSize]) {
    stack_t stack{};
    stack.ss_sp = memory;
    stack.ss_flags = flags;
    stack.ss_size = kSize;
    VERIFY(::sigaltstack(&stack, nullptr) == 0);
  }
  bool is_set() const {
    stack_t now{};
    VERIFY(::sigaltstack(nullptr, &now) == 0);
    return now.ss_sp == memory && now.ss_size == kSize && (now.ss_flags & SS_DISABLE) == 0;
  }
  bool holds(void* address) const {
    auto* at = static_cast<char*>(address);
    return at >= memory && at < memory + kSize;
  }
};

TEST_F(RoundTripOfSignals, KeepsTheAlternateStackOfEachThread) {
  expect_survives([](Self& self) {
    handle(SIGUSR1, SA_ONSTACK);
    std::atomic<bool> go = false;
    std::thread other([&] {
      AlternateStack stack;
      go.wait(false);
      VERIFY(stack.is_set());
      VERIFY(pthread_kill(pthread_self(), SIGUSR1) == 0);
      VERIFY(stack.holds(g_stack_pointer));
    });
    AlternateStack stack;
    self.travel();
    VERIFY(stack.is_set());
    VERIFY(pthread_kill(pthread_self(), SIGUSR1) == 0);
    VERIFY(stack.holds(g_stack_pointer));
    go = true;
    go.notify_all();
    other.join();
  });
}

Self* g_self = nullptr;
void travel_in_handler(int, siginfo_t* info, void*) {
  g_self->travel();
  on_signal(0, info, nullptr);
}

void travel_on_alternate_stack(Self& self, int stack_flags) {
  AlternateStack stack(stack_flags);
  struct sigaction action {};
  action.sa_sigaction = travel_in_handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  action.sa_mask = set_of({SIGHUP});
  VERIFY(::sigaction(SIGUSR1, &action, nullptr) == 0);
  g_self = &self;
  VERIFY(::sigqueue(::getpid(), SIGUSR1, {.sival_int = 3}) == 0);
  VERIFY(g_handled == 1 && g_value == 3);
  VERIFY(stack.holds(g_stack_pointer));
  VERIFY(stack.is_set());
  sigset_t now;
  pthread_sigmask(SIG_BLOCK, nullptr, &now);
  VERIFY(sigismember(&now, SIGUSR1) == 0 && sigismember(&now, SIGHUP) == 0);
}

TEST_F(RoundTripOfSignals, ReturnsFromAHandlerThatItTravelledIn) {
  expect_survives([](Self& self) { travel_on_alternate_stack(self, 0); });
}

TEST_F(RoundTripOfSignals, ReturnsFromAHandlerOnAStackThatDisarmsItself) {
  constexpr int kAutoDisarm = static_cast<int>(1u << 31);  // SS_AUTODISARM
  expect_survives([](Self& self) { travel_on_alternate_stack(self, kAutoDisarm); });
}

TripOptions with_running_timers() {
  TripOptions options;
  options.compare_images = false;
  return options;
}

std::int64_t milliseconds_of(const timespec& time) {
  return time.tv_sec * 1000 + time.tv_nsec / 1'000'000;
}

TEST_F(RoundTripOfSignals, KeepsIntervalTimers) {
  auto victim = [](Self& self) {
    itimerval real = {{500, 250'000}, {1000, 0}};
    itimerval prof = {{0, 0}, {77, 0}};
    VERIFY(::setitimer(ITIMER_REAL, &real, nullptr) == 0);
    VERIFY(::setitimer(ITIMER_PROF, &prof, nullptr) == 0);
    self.travel();
    itimerval now{};
    VERIFY(::getitimer(ITIMER_REAL, &now) == 0);
    VERIFY(now.it_value.tv_sec > 900 && now.it_value.tv_sec <= 1000);
    VERIFY(now.it_interval.tv_sec == 500 && now.it_interval.tv_usec == 250'000);
    VERIFY(::getitimer(ITIMER_PROF, &now) == 0);
    VERIFY(now.it_value.tv_sec >= 70 && now.it_value.tv_sec <= 77);
    VERIFY(now.it_interval.tv_sec == 0 && now.it_interval.tv_usec == 0);
    VERIFY(::getitimer(ITIMER_VIRTUAL, &now) == 0);
    VERIFY(now.it_value.tv_sec == 0 && now.it_value.tv_usec == 0);
  };
  expect_survives(victim, with_running_timers());
}

TEST_F(RoundTripOfSignals, FiresATimerThatWasArmedBefore) {
  auto victim = [](Self& self) {
    sigset_t set = set_of({SIGALRM});
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    itimerval timer = {{0, 0}, {0, 400'000}};
    VERIFY(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    self.travel();
    timespec patience = {20, 0};
    VERIFY(::sigtimedwait(&set, nullptr, &patience) == SIGALRM);
  };
  TripOptions options;
  options.compare = false;
  expect_survives(victim, options);
}

int make_timer(clockid_t clock, int notify, int signal, int value, pid_t tid = 0) {
  sigevent event{};
  event.sigev_notify = notify;
  event.sigev_signo = signal;
  event.sigev_value.sival_int = value;
  event._sigev_un._tid = tid;
  int id = -1;
  VERIFY(::syscall(SYS_timer_create, clock, &event, &id) == 0);
  return id;
}

void arm(int id, itimerspec value, int flags = 0) {
  VERIFY(::syscall(SYS_timer_settime, id, flags, &value, nullptr) == 0);
}

void travel_with_posix_timers(bool by_id) {
  auto victim = [](Self& self) {
    sigset_t set = set_of({SIGRTMIN + 2, SIGRTMIN + 4});
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    int gone = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0);
    int once = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 2, 11);
    int mine = make_timer(CLOCK_REALTIME, SIGEV_THREAD_ID, SIGRTMIN + 4, 22, ::gettid());
    int long_one = make_timer(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0);
    int idle = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR2, 0);
    VERIFY(::syscall(SYS_timer_delete, gone) == 0);
    VERIFY(once > gone && mine > once);
    arm(once, {{0, 0}, {0, 500'000'000}});
    arm(mine, {{3000, 0}, {0, 600'000'000}});
    arm(long_one, {{7, 5}, {2000, 0}});
    self.travel();
    timespec patience = {20, 0};
    siginfo_t info{};
    sigset_t first = set_of({SIGRTMIN + 2});
    VERIFY(::sigtimedwait(&first, &info, &patience) == SIGRTMIN + 2);
    VERIFY(info.si_code == SI_TIMER && info.si_timerid == once && info.si_value.sival_int == 11);
    sigset_t second = set_of({SIGRTMIN + 4});
    VERIFY(::sigtimedwait(&second, &info, &patience) == SIGRTMIN + 4);
    VERIFY(info.si_timerid == mine && info.si_value.sival_int == 22);
    itimerspec left{};
    VERIFY(::syscall(SYS_timer_gettime, mine, &left) == 0);
    VERIFY(left.it_interval.tv_sec == 3000);
    VERIFY(::syscall(SYS_timer_gettime, long_one, &left) == 0);
    VERIFY(milliseconds_of(left.it_value) > 1'900'000 && left.it_interval.tv_sec == 7 &&
           left.it_interval.tv_nsec == 5);
    VERIFY(::syscall(SYS_timer_gettime, idle, &left) == 0);
    VERIFY(left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
    VERIFY(::syscall(SYS_timer_gettime, gone, &left) == -1 && errno == EINVAL);
    int next = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0);
    VERIFY(next != once && next != mine && next != idle);
  };
  TripOptions options;
  options.compare = false;
  options.settings = [by_id](restore::RestoreSettings& settings) { settings.timers_by_id = by_id; };
  expect_survives(victim, options);
}

TEST_F(RoundTripOfSignals, KeepsPosixTimersUnderTheirIds) { travel_with_posix_timers(true); }

TEST_F(RoundTripOfSignals, KeepsPosixTimersOnAKernelThatOnlyCounts) {
  travel_with_posix_timers(false);
}

// Of the C library's own kind, with a thread that it starts for each expiry.
TEST_F(RoundTripOfSignals, KeepsTimersThatStartThreads) {
  static std::atomic<int> fired;
  auto victim = [](Self& self) {
    fired = 0;
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_value.sival_int = 9;
    event.sigev_notify_function = [](sigval value) {
      fired += value.sival_int;
      fired.notify_all();
    };
    timer_t timer{};
    VERIFY(::timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    itimerspec value = {{0, 0}, {0, 500'000'000}};
    VERIFY(::timer_settime(timer, 0, &value, nullptr) == 0);
    self.travel();
    fired.wait(0);
    VERIFY(fired == 9);
    VERIFY(::timer_delete(timer) == 0);
  };
  TripOptions options;
  options.compare = false;
  expect_survives(victim, options);
}

TEST_F(RoundTripOfSignals, FiresATimerWhoseAbsoluteTimeHasPassedMeanwhile) {
  auto victim = [](Self& self) {
    sigset_t set = set_of({SIGRTMIN});
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    int id = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 4);
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    arm(id, {{0, 0}, {now.tv_sec + 1, now.tv_nsec}}, TIMER_ABSTIME);
    self.travel();
    timespec patience = {20, 0};
    VERIFY(::sigtimedwait(&set, nullptr, &patience) == SIGRTMIN);
  };
  TripOptions options;
  options.compare = false;
  options.on_the_way = [] { ::usleep(1'100'000); };
  expect_survives(victim, options);
}

}  // namespace
}  // namespace telefork::migrate
