// What a thread has to itself: where it waits, its TLS, rseq, robust list, scheduling.
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <atomic>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <ctime>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <asm/prctl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/rseq.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

class RoundTripOfThreads : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

std::int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

constexpr std::int64_t kMillisecond = 1'000'000;
timespec milliseconds(long count) { return {count / 1000, count % 1000 * kMillisecond}; }

TEST_F(RoundTripOfThreads, WakesAThreadThatWaitsOnAConditionVariable) {
  expect_survives([](Self& self) {
    std::mutex mutex;
    std::condition_variable condition;
    bool told = false;
    bool heard = false;
    std::thread waiter([&] {
      std::unique_lock lock(mutex);
      condition.wait(lock, [&] { return told; });
      heard = true;
    });
    self.travel();
    {
      std::unique_lock lock(mutex);
      told = true;
    }
    condition.notify_one();
    waiter.join();
    VERIFY(heard);
  });
}

TEST_F(RoundTripOfThreads, KeepsALockedMutexLockedByItsOwner) {
  expect_survives([](Self& self) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_t mutex;
    pthread_mutex_init(&mutex, &attributes);
    VERIFY(pthread_mutex_lock(&mutex) == 0);
    std::atomic<bool> got = false;
    std::thread waiter([&] {
      VERIFY(pthread_mutex_lock(&mutex) == 0);
      got = true;
      VERIFY(pthread_mutex_unlock(&mutex) == 0);
    });
    self.travel();
    VERIFY(!got);
    VERIFY(pthread_mutex_lock(&mutex) == EDEADLK);
    VERIFY(pthread_mutex_unlock(&mutex) == 0);
    waiter.join();
    VERIFY(got);
  });
}

// Threads that wake by themselves: a comparison afterwards would not find them asleep.
TripOptions without_comparison() {
  TripOptions options;
  options.compare = false;
  return options;
}

TEST_F(RoundTripOfThreads, SleepsOutWhatIsLeftOfANap) {
  auto victim = [](Self& self) {
    std::vector<std::thread> sleepers;
    for (int i = 0; i < 3; ++i) {
      sleepers.emplace_back([i] {
        std::int64_t start = now_ns();
        timespec left = milliseconds(700);
        int error = 0;
        if (i == 0) error = ::nanosleep(&left, &left) == 0 ? 0 : errno;
        if (i == 1) error = ::clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left);
        if (i == 2) {
          timespec until = milliseconds(start / kMillisecond + 700);
          error = ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
        }
        errno = error;
        VERIFY(error == 0);
        VERIFY(now_ns() - start > 690 * kMillisecond);
      });
    }
    self.travel();
    for (std::thread& sleeper : sleepers) sleeper.join();
  };
  expect_survives(victim, without_comparison());
}

// The kernel would restart these from a restart block, which does not travel.
TEST_F(RoundTripOfThreads, DoesNotInterruptWaitsWithATimeout) {
  auto victim = [](Self& self) {
    sem_t semaphore;
    VERIFY(::sem_init(&semaphore, 0, 0) == 0);
    std::thread poller([] { VERIFY(::poll(nullptr, 0, 700) == 0); });
    std::thread selector([] {
      timeval time = {0, 700'000};
      VERIFY(::select(0, nullptr, nullptr, nullptr, &time) == 0);
    });
    std::thread waiter([&] {
      timespec until = milliseconds(now_ns(CLOCK_REALTIME) / kMillisecond + 20'000);
      VERIFY(::sem_timedwait(&semaphore, &until) == 0);
    });
    std::thread plain([] {
      timespec request = milliseconds(700);
      VERIFY(::nanosleep(&request, nullptr) == 0);
    });
    std::thread careful([] {
      timespec request = milliseconds(700), rest{};
      VERIFY(::nanosleep(&request, &rest) == 0);
      VERIFY(::clock_nanosleep(CLOCK_MONOTONIC, 0, &request, &rest) == 0);
    });
    self.travel();
    VERIFY(::sem_post(&semaphore) == 0);
    for (std::thread* thread : {&poller, &selector, &waiter, &plain, &careful}) thread->join();
  };
  expect_survives(victim, without_comparison());
}

TEST_F(RoundTripOfThreads, LetsThreadsWaitInReadAndPause) {
  expect_survives([](Self& self) {
    std::atomic<int> woken = 0;
    struct sigaction action {};
    action.sa_handler = [](int) {};
    VERIFY(::sigaction(SIGUSR1, &action, nullptr) == 0);
    std::thread pauser([&] {
      VERIFY(::pause() == -1 && errno == EINTR);
      ++woken;
    });
    pthread_t id = pauser.native_handle();
    self.travel();
    VERIFY(woken == 0);
    VERIFY(pthread_kill(id, SIGUSR1) == 0);
    pauser.join();
    VERIFY(woken == 1);
  });
}

TEST_F(RoundTripOfThreads, KeepsEachThreadsOwnVariables) {
  static thread_local int variable = 1;
  static thread_local char large[10000];
  expect_survives([](Self& self) {
    std::vector<std::thread> threads;
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, nullptr, 9);
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([i, &barrier] {
        variable = 100 + i;
        std::memset(large, i, sizeof(large));
        errno = 50 + i;
        pthread_t me = pthread_self();
        pid_t tid = ::gettid();
        pthread_barrier_wait(&barrier);
        VERIFY(errno == 50 + i);
        VERIFY(variable == 100 + i);
        VERIFY(large[0] == i && large[9999] == i);
        VERIFY(pthread_equal(me, pthread_self()));
        VERIFY(::gettid() == tid && ::syscall(SYS_gettid) == tid);
      });
    }
    variable = 7;
    self.travel();
    pthread_barrier_wait(&barrier);
    for (std::thread& thread : threads) thread.join();
    VERIFY(variable == 7);
  });
}

TEST_F(RoundTripOfThreads, CanStartAndJoinThreadsAfterwards) {
  expect_survives([](Self& self) {
    std::atomic<bool> go = false;
    std::thread early([&] { go.wait(false); });
    self.travel();
    go = true;
    go.notify_all();
    early.join();
    std::atomic<int> sum = 0;
    std::vector<std::thread> late;
    for (int i = 0; i < 20; ++i) late.emplace_back([&] { ++sum; });
    for (std::thread& thread : late) thread.join();
    VERIFY(sum == 20);
  });
}

TEST_F(RoundTripOfThreads, CarriesManyThreads) {
  expect_survives([](Self& self) {
    constexpr int kThreads = 100;
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, nullptr, kThreads + 1);
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] { pthread_barrier_wait(&barrier); });
    }
    self.travel();
    pthread_barrier_wait(&barrier);
    for (std::thread& thread : threads) thread.join();
  });
}

TEST_F(RoundTripOfThreads, HandsARobustMutexOnWhenItsOwnerEnds) {
  expect_survives([](Self& self) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_t mutex;
    pthread_mutex_init(&mutex, &attributes);
    std::atomic<bool> end = false;
    std::thread owner([&] {
      VERIFY(pthread_mutex_lock(&mutex) == 0);
      end.wait(false);
      // Only the kernel can tell of it, by the robust list.
      ::syscall(SYS_exit, 0);
    });
    self.travel();
    end = true;
    end.notify_all();
    VERIFY(pthread_mutex_lock(&mutex) == EOWNERDEAD);
    VERIFY(pthread_mutex_consistent(&mutex) == 0);
    VERIFY(pthread_mutex_unlock(&mutex) == 0);
    owner.join();
  });
}

// glibc's area lies in the thread control block; the kernel writes the CPU into it.
struct rseq* rseq_area() {
  return reinterpret_cast<struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                        __rseq_offset);
}

TEST_F(RoundTripOfThreads, KeepsRseqRegistered) {
  expect_survives([](Self& self) {
    auto check = [] {
      // Of the area that is registered already: EBUSY. Of none: it would succeed.
      VERIFY(::syscall(SYS_rseq, rseq_area(), 32, 0, RSEQ_SIG) == -1 && errno == EBUSY);
      for (int cpu = 0; cpu < 2; ++cpu) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (::sched_setaffinity(0, sizeof(one), &one) != 0) continue;
        VERIFY(*const_cast<volatile __u32*>(&rseq_area()->cpu_id) == static_cast<unsigned>(cpu));
      }
    };
    std::atomic<bool> go = false;
    std::thread other([&] {
      go.wait(false);
      check();
    });
    self.travel();
    check();
    go = true;
    go.notify_all();
    other.join();
  });
}

TEST_F(RoundTripOfThreads, KeepsSchedulingNamesAndNiceValues) {
  expect_survives([](Self& self) {
    std::atomic<bool> go = false;
    auto set_up = [](const char* name, int nice, unsigned long slack, int cpu) {
      VERIFY(pthread_setname_np(pthread_self(), name) == 0);
      VERIFY(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), nice) == 0);
      VERIFY(::prctl(PR_SET_TIMERSLACK, slack) == 0);
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      VERIFY(::sched_setaffinity(0, sizeof(one), &one) == 0);
    };
    auto check = [](const char* name, int nice, int slack, int cpu) {
      char now[16];
      VERIFY(pthread_getname_np(pthread_self(), now, sizeof(now)) == 0);
      VERIFY(std::strcmp(now, name) == 0);
      VERIFY(::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())) == nice);
      VERIFY(::prctl(PR_GET_TIMERSLACK) == slack);
      cpu_set_t cpus;
      VERIFY(::sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
      VERIFY(CPU_COUNT(&cpus) == 1 && CPU_ISSET(cpu, &cpus));
    };
    std::thread batch([&] {
      set_up("a (tricky) name", 7, 123'456, 0);
      sched_param none{};
      VERIFY(::sched_setscheduler(0, SCHED_BATCH, &none) == 0);
      go.wait(false);
      check("a (tricky) name", 7, 123'456, 0);
      VERIFY(::sched_getscheduler(0) == SCHED_BATCH);
    });
    set_up("main's name", 3, 99'000, 0);
    self.travel();
    check("main's name", 3, 99'000, 0);
    go = true;
    go.notify_all();
    batch.join();
  });
}

TEST_F(RoundTripOfThreads, KeepsTheParentDeathSignal) {
  expect_survives([](Self& self) {
    VERIFY(::prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0);
    self.travel();
    int signal = 0;
    VERIFY(::prctl(PR_GET_PDEATHSIG, &signal) == 0 && signal == SIGUSR2);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  });
}

// Whoever knows the pid ahead of the image, as a keeper does, maps the memory before it knows the
// threads. `meanwhile` is told their ids.
void travel_under_known_pid(const Victim& victim,
                            const std::function<void(const std::vector<pid_t>&)>& meanwhile) {
  Traveller traveller(victim);
  std::vector<pid_t> tids;
  TripOptions options;
  options.settings = [pid = traveller.pid()](restore::RestoreSettings& settings) {
    settings.blank.want_pid = pid;
  };
  options.edit = [&](image::RecordType type, ::capnp::MallocMessageBuilder& message) {
    if (type != image::RecordType::kThreads) return;
    tids.push_back(static_cast<pid_t>(message.getRoot<image::schema::Thread>().getTid()));
  };
  options.on_the_way = [&] { meanwhile(tids); };
  traveller.save(options);
  traveller.load(options);
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

void travel_with_threads(Self& self, int count) {
  std::atomic<int> done = 0;
  std::atomic<bool> go = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      const pid_t tid = ::gettid();
      go.wait(false);
      VERIFY(::gettid() == tid);
      ++done;
    });
  }
  self.travel();
  go = true;
  go.notify_all();
  for (std::thread& thread : threads) thread.join();
  VERIFY(done == count);
}

TEST_F(RoundTripOfThreads, KeepsThoseThatComeWhenTheirMemoryIsThere) {
  travel_under_known_pid([](Self& self) { travel_with_threads(self, 20); },
                         [](const std::vector<pid_t>&) {});
}

// The stub would make itself known by that very one.
TEST_F(RoundTripOfThreads, KeepsTheStubsSignalThatOnlyAThreadHasPending) {
  travel_under_known_pid(
      [](Self& self) {
        std::atomic<bool> ready = false;
        std::atomic<bool> go = false;
        std::thread other([&] {
          sigset_t set;
          ::sigemptyset(&set);
          ::sigaddset(&set, SIGURG);
          ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
          VERIFY(::pthread_kill(::pthread_self(), SIGURG) == 0);
          ready = true;
          go.wait(false);
          const timespec at_once{};
          VERIFY(::sigtimedwait(&set, nullptr, &at_once) == SIGURG);
        });
        while (!ready) ::sched_yield();
        self.travel();
        go = true;
        go.notify_all();
        other.join();
      },
      [](const std::vector<pid_t>&) {});
}

// That is known when the memory is there, under the process's own id.
TEST_F(RoundTripOfThreads, IsRefusedWhereOnlyAThreadsIdIsTaken) {
  pid_t holder = 0;
  try {
    travel_under_known_pid(
        [](Self& self) { travel_with_threads(self, 1); },
        [&](const std::vector<pid_t>& tids) {
          clone_args arguments{};
          arguments.exit_signal = SIGCHLD;
          arguments.set_tid = reinterpret_cast<std::uint64_t>(&tids.at(1));
          arguments.set_tid_size = 1;
          holder = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof(arguments)));
          if (holder == 0) {
            for (;;) ::pause();
          }
          EXPECT_EQ(holder, tids.at(1));
        });
    ADD_FAILURE() << "it was not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    EXPECT_NE(error.text().find(fmt::format("thread id {} is taken here", holder)),
              std::string::npos)
        << error.text();
  }
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
}

}  // namespace
}  // namespace telefork::migrate
