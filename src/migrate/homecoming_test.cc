// There and back: what a process did elsewhere is so at home.
#include <sys/mman.h>
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "migrate/homecoming_trip.h"
#include "tracee/testing_tracer_death.h"

namespace telefork::migrate {
namespace {

constexpr int kOld = 10;
constexpr int kNew = 20;

int g_number = 1;

char* map_pages(std::size_t count, int protection = PROT_READ | PROT_WRITE) {
  void* at = ::mmap(nullptr, count * kPageSize, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  VERIFY(at != MAP_FAILED);
  return static_cast<char*>(at);
}

// A thread that counts how often it was woken.
class Sleeper {
 public:
  Sleeper() : thread_([this] { run(); }) {}
  void poke() {
    std::unique_lock lock(mutex_);
    ++poked_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return count_ == poked_; });
  }
  int end() {
    {
      std::scoped_lock lock(mutex_);
      ended_ = true;
      changed_.notify_all();
    }
    thread_.join();
    return count_;
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ended_ || count_ != poked_; });
      if (ended_) return;
      count_ = poked_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int poked_ = 0;
  int count_ = 0;
  bool ended_ = false;
  std::thread thread_;
};

TEST(Homecoming, BringsChangedPagesHome) {
  expect_comes_home([](Away& away) {
    int local = 5;
    VERIFY(away.leave());
    g_number = 2;
    local = 6;
    away.come_home();
    VERIFY(g_number == 2 && local == 6);
  });
}

// Two descriptors change places, and one more comes to name what another does.
class DescriptorChanges {
 public:
  DescriptorChanges() {
    for (int i = 0; i < 3; ++i) VERIFY(::lseek(fds_[i].get(), i, SEEK_SET) == i);
    count_ = kernel::list_fds(::getpid()).size();
  }
  void make() {
    UniqueFd aside = fds_[0].duplicate();
    VERIFY(::dup2(fds_[1].get(), fds_[0].get()) >= 0 && ::dup2(aside.get(), fds_[1].get()) >= 0);
    VERIFY(::dup2(fds_[0].get(), fds_[2].get()) >= 0);
  }
  bool is_old() { return are_at(0, 1, 2); }
  bool is_new() {
    if (!are_at(1, 0, 1)) return false;
    VERIFY(::lseek(fds_[2].get(), 5, SEEK_SET) == 5);
    return are_at(5, 0, 5);
  }

 private:
  bool are_at(long a, long b, long c) {
    auto at = [&](int i) { return ::lseek(fds_[i].get(), 0, SEEK_CUR); };
    return at(0) == a && at(1) == b && at(2) == c && kernel::list_fds(::getpid()).size() == count_;
  }
  UniqueFd fds_[3] = {open_file("/etc/passwd", O_RDONLY), open_file("/etc/passwd", O_RDONLY),
                      open_file("/etc/passwd", O_RDONLY)};
  std::size_t count_ = 0;
};

// What changes there in every way that memory can, and which state it is in.
class Changes {
 public:
  Changes()
      : changed_(map_pages(4)),
        gone_(map_pages(4)),
        closed_(map_pages(4)),
        dropped_(map_pages(4)),
        replaced_(map_pages(4)) {
    for (char* at : {changed_, gone_, closed_, dropped_, replaced_}) {
      std::memset(at, 'o', 4 * kPageSize);
    }
    VERIFY(::mprotect(closed_, 4 * kPageSize, PROT_READ) == 0);
  }
  void make() {
    g_number = 2;
    std::memset(changed_ + kPageSize, 'n', kPageSize);
    VERIFY(::munmap(gone_, 4 * kPageSize) == 0);
    VERIFY(::mprotect(closed_, kPageSize, PROT_READ | PROT_WRITE) == 0);
    closed_[0] = 'n';
    VERIFY(::mprotect(closed_, 4 * kPageSize, PROT_NONE) == 0);
    VERIFY(::madvise(dropped_, 2 * kPageSize, MADV_DONTNEED) == 0);
    VERIFY(::mmap(replaced_, 4 * kPageSize, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == replaced_);
    std::memset(replaced_, 'n', kPageSize);
    made_ = map_pages(8);
    std::memset(made_, 'n', 8 * kPageSize);
    heap_.assign(1 << 22, 'n');
  }
  bool is_old() {
    return g_number == 1 && all(changed_, 4, 'o') && all(gone_, 4, 'o') && all(closed_, 4, 'o') &&
           all(dropped_, 4, 'o') && all(replaced_, 4, 'o') && heap_.empty() && made_ == nullptr;
  }
  bool is_new() {
    if (g_number != 2 || !all(changed_, 1, 'o') || !all(changed_ + kPageSize, 1, 'n')) return false;
    if (!all(changed_ + 2 * kPageSize, 2, 'o')) return false;
    if (::msync(gone_, kPageSize, MS_ASYNC) == 0) return false;
    if (::mprotect(closed_, 4 * kPageSize, PROT_READ) != 0) return false;
    if (closed_[0] != 'n' || closed_[1] != 'o' || !all(closed_ + kPageSize, 3, 'o')) return false;
    if (!all(dropped_, 2, 0) || !all(dropped_ + 2 * kPageSize, 2, 'o')) return false;
    if (!all(replaced_, 1, 'n') || !all(replaced_ + kPageSize, 3, 0)) return false;
    return all(made_, 8, 'n') && heap_.size() == 1 << 22 && all(heap_.data(), 1 << 10, 'n');
  }

 private:
  static bool all(const char* at, std::size_t pages, char wanted) {
    return std::all_of(at, at + pages * kPageSize, [=](char byte) { return byte == wanted; });
  }

  char* changed_;
  char* gone_;
  char* closed_;
  char* dropped_;
  char* replaced_;
  char* made_ = nullptr;
  std::vector<char> heap_;
};

TEST(Homecoming, BringsTheMemoryMapHome) {
  expect_comes_home([](Away& away) {
    Changes changes;
    VERIFY(changes.is_old());
    VERIFY(away.leave());
    changes.make();
    away.come_home();
    VERIFY(changes.is_new());
  });
}

TEST(Homecoming, BringsThreadsHomeThatLivedAllTheTime) {
  expect_comes_home([](Away& away) {
    Sleeper sleeper;
    sleeper.poke();
    VERIFY(away.leave());
    sleeper.poke();
    away.come_home();
    sleeper.poke();
    VERIFY(sleeper.end() == 3);
  });
}

// Its caller is not its first thread, another one sleeps, one is begun and one ends there.
void change_everything(Away& away) {
  Changes changes;
  DescriptorChanges descriptors;
  Sleeper sleeper;
  auto ended = std::make_unique<Sleeper>();
  std::unique_ptr<Sleeper> begun;
  int state = 0;
  std::thread caller([&] {
    if (!away.leave()) {
      state = changes.is_old() && descriptors.is_old() ? kOld : 98;
      return;
    }
    changes.make();
    descriptors.make();
    ended->end();
    ended.reset();
    begun = std::make_unique<Sleeper>();
    away.come_home();
    state = changes.is_new() && descriptors.is_new() ? kNew : 97;
  });
  caller.join();
  sleeper.poke();
  if (sleeper.end() != 1) ::_exit(96);
  if (ended) ended->end();
  if (begun) begun->end();
  std::thread([] {}).join();
  ::_exit(state);
}

// A trip takes a tenth of a second: parked_process_test.cc looks at every call of the flip.
void expect_one_of_two_states(Way way, long stride) {
  int news = 0;
  int olds = 0;
  for (long die_at = 0;; die_at += stride) {
    Journey journey(&change_everything);
    pid_t tracer = ::fork();
    if (tracer == 0) {
      journey.leave();
      journey.capture_guest();
      tracee::tracer_death() = {.die_at = die_at};
      journey.come_home(way);
      ::_exit(0);
    }
    int tracer_status = 0;
    ASSERT_EQ(::waitpid(tracer, &tracer_status, 0), tracer);
    std::string said;
    int status = journey.finish(&said);
    ASSERT_TRUE(WIFEXITED(status)) << "the tracer died before its call " << die_at << ": " << said;
    int end = WEXITSTATUS(status);
    // How many calls come before it is settled is not the same each time.
    ASSERT_TRUE(end == kNew || end == kOld)
        << "the tracer died before its call " << die_at << ": " << end << said;
    ++(end == kNew ? news : olds);
    if (WIFEXITED(tracer_status)) break;
  }
  EXPECT_GT(olds, 100 / stride);
  EXPECT_GT(news, 50 / stride);
}

TEST(Homecoming, IsInOneOfTwoStatesAtWhateverCallItsTracerDies) {
  expect_one_of_two_states(Way::kFile, 7);
}

TEST(Homecoming, IsInOneOfTwoStatesAlsoWhenPagesWaitInTheProcess) {
  expect_one_of_two_states(Way::kProcess, 13);
}

TEST(Homecoming, IsInOneOfTwoStatesAlsoWhenTheProcessReceivesItsPages) {
  expect_one_of_two_states(Way::kMixed, 13);
}

}  // namespace
}  // namespace telefork::migrate
