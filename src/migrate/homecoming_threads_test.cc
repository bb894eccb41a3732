// There and back: threads that f began, or that ended there.
#include <sched.h>
#include <atomic>
#include <csignal>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/memory_stream.h"
#include "image/reader.h"
#include "kernel/abi.h"
#include "kernel/pid_space.h"
#include "kernel/procfs.h"
#include "migrate/homecoming_trip.h"

namespace telefork::migrate {
namespace {

thread_local int t_number = 1;

TEST(HomecomingThreads, BringsManyHomeThatWereBegunThere) {
  expect_comes_home([](Away& away) {
    VERIFY(away.leave());
    std::atomic<bool> go{false};
    std::atomic<int> sum{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 20; ++i) {
      threads.emplace_back([&, i] {
        t_number = i;
        while (!go) std::this_thread::yield();
        VERIFY(t_number == i);
        pthread_t self = ::pthread_self();
        int policy = 0;
        sched_param parameters{};
        // By the id in its control block.
        VERIFY(::pthread_getschedparam(self, &policy, &parameters) == 0);
        VERIFY(::sched_getcpu() >= 0);
        sum += i;
      });
    }
    away.come_home();
    go = true;
    for (std::thread& thread : threads) thread.join();
    VERIFY(sum == 190);
  });
}

// What they hold has their ids within.
TEST(HomecomingThreads, KeepsTheIdsOfThoseThatWereBegunThereWhereItMayChoose) {
  if (!kernel::may_choose_ids()) GTEST_SKIP() << "needs: root";
  expect_comes_home([](Away& away) {
    VERIFY(away.leave());
    std::recursive_mutex lock;
    std::atomic<pid_t> there{0};
    std::atomic<bool> go{false};
    for (int i = 0; i < 10; ++i) std::thread([] {}).join();
    std::thread begun([&] {
      lock.lock();
      there = ::gettid();
      while (!go) std::this_thread::yield();
      VERIFY(::gettid() == there);
      VERIFY(lock.try_lock());
      lock.unlock();
      lock.unlock();
    });
    while (there == 0) std::this_thread::yield();
    away.come_home();
    VERIFY(!lock.try_lock());
    go = true;
    begun.join();
    VERIFY(lock.try_lock());
  });
}

// On a stack of its own, so that its control block is not where that of one that has ended was.
class Begun {
 public:
  void begin() {
    pthread_attr_t attributes;
    VERIFY(::pthread_attr_init(&attributes) == 0);
    VERIFY(::pthread_attr_setstack(&attributes, stack_, sizeof(stack_)) == 0);
    VERIFY(::pthread_create(&thread_, &attributes, &Begun::run, this) == 0);
    while (id_ == 0) std::this_thread::yield();
  }
  pid_t id() const { return id_; }
  void end() {
    go_ = true;
    VERIFY(::pthread_join(thread_, nullptr) == 0);
  }

 private:
  static void* run(void* self) {
    auto& own = *static_cast<Begun*>(self);
    own.id_ = ::gettid();
    while (!own.go_) std::this_thread::yield();
    VERIFY(::gettid() == own.id_ && ::sched_getcpu() >= 0);
    return nullptr;
  }

  alignas(64) char stack_[256 * 1024] = {};
  pthread_t thread_{};
  std::atomic<pid_t> id_{0};
  std::atomic<bool> go_{false};
};

TEST(HomecomingThreads, BringsOneThatHasTheIdOfAnotherThatEndedThere) {
  if (!kernel::may_choose_ids()) GTEST_SKIP() << "needs: root";
  expect_comes_home([](Away& away) {
    auto old = std::make_unique<Begun>();
    std::unique_ptr<Begun> fresh;
    old->begin();
    VERIFY(away.leave());
    old->end();
    // Until nobody else begins a process in the very instant.
    while (!fresh || fresh->id() != old->id()) {
      if (fresh) fresh->end();
      fresh = std::make_unique<Begun>();
      const kernel::NextId next(old->id());
      fresh->begin();
    }
    away.come_home();
    fresh->end();
  });
}

pid_t thread_begun_there(Journey& journey) {
  image::MemorySource source(journey.image());
  image::Reader reader(source);
  for (;;) {
    image::Record record = reader.next();
    if (record.type() == image::RecordType::kEnd) return 0;
    if (reader.payload_left() != 0) reader.skip_payload();
    if (record.type() != image::RecordType::kThreads) continue;
    auto tid = static_cast<pid_t>(record.get<image::schema::Thread>().getTid());
    if (tid != journey.pid()) return tid;
  }
}

// A process of that id, which waits.
pid_t take_id(pid_t id) {
  kernel::CloneArgs arguments{
      .exit_signal = SIGCHLD, .set_tid = reinterpret_cast<std::uint64_t>(&id), .set_tid_size = 1};
  auto pid = static_cast<pid_t>(::syscall(kernel::kNrClone3, &arguments, sizeof(arguments)));
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) ::pause();
}

// Takes the id of a thread that was begun there.
void come_home_with_another_id(Journey& journey, Way way) {
  journey.leave();
  journey.capture_guest();
  const pid_t id = thread_begun_there(journey);
  ASSERT_EQ(take_id(id), id);
  journey.come_home(way);
  // It has the victim's streams too, whose end is waited for.
  ::kill(id, SIGKILL);
  EXPECT_EQ(::waitpid(id, nullptr, 0), id);
  std::string said;
  EXPECT_EQ(journey.finish(&said), 0) << said;
}

TEST(HomecomingThreads, HaveAnotherIdWhereTheirOwnIsTaken) {
  if (!kernel::may_choose_ids()) GTEST_SKIP() << "needs: root";
  Journey journey([](Away& away) {
    VERIFY(away.leave());
    std::atomic<pid_t> there{0};
    std::atomic<bool> go{false};
    std::thread begun([&] {
      there = ::gettid();
      while (!go) std::this_thread::yield();
      VERIFY(::gettid() != there);
      int policy = 0;
      sched_param parameters{};
      VERIFY(::pthread_getschedparam(::pthread_self(), &policy, &parameters) == 0);
    });
    while (there == 0) std::this_thread::yield();
    away.come_home();
    go = true;
    begun.join();
  });
  come_home_with_another_id(journey, Way::kFile);
}

// One that it gives back, and one that it holds to its end.
TEST(HomecomingThreads, HoldTheirRobustLocksUnderAnotherId) {
  if (!kernel::may_choose_ids()) GTEST_SKIP() << "needs: root";
  for (Way way : kWays) {
    Journey journey([](Away& away) {
      VERIFY(away.leave());
      pthread_mutexattr_t robust;
      VERIFY(::pthread_mutexattr_init(&robust) == 0);
      VERIFY(::pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST) == 0);
      pthread_mutex_t given_back;
      VERIFY(::pthread_mutex_init(&given_back, &robust) == 0);
      VERIFY(::pthread_mutexattr_setprotocol(&robust, PTHREAD_PRIO_INHERIT) == 0);
      pthread_mutex_t kept;
      VERIFY(::pthread_mutex_init(&kept, &robust) == 0);
      std::atomic<pid_t> there{0};
      std::atomic<bool> go{false};
      std::thread begun([&] {
        VERIFY(::pthread_mutex_lock(&given_back) == 0);
        VERIFY(::pthread_mutex_lock(&kept) == 0);
        there = ::gettid();
        while (!go) std::this_thread::yield();
        VERIFY(::gettid() != there);
        VERIFY(::pthread_mutex_unlock(&given_back) == 0);
      });
      while (there == 0) std::this_thread::yield();
      away.come_home();
      VERIFY(::pthread_mutex_trylock(&given_back) == EBUSY);
      go = true;
      begun.join();
      VERIFY(::pthread_mutex_lock(&given_back) == 0);
      VERIFY(::pthread_mutex_lock(&kept) == EOWNERDEAD);
    });
    come_home_with_another_id(journey, way);
  }
}

TEST(HomecomingThreads, EndsThoseThatHaveEndedThere) {
  expect_comes_home([](Away& away) {
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 5; ++i) {
      threads.emplace_back([&] {
        while (!go) ::usleep(1000);
      });
    }
    VERIFY(away.leave());
    go = true;
    for (std::thread& thread : threads) thread.join();
    away.come_home();
    while (kernel::list_threads(::getpid()).size() > 1) std::this_thread::yield();
    std::thread([] {}).join();
  });
}

}  // namespace
}  // namespace telefork::migrate
