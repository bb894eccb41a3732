// What the function changed there is so here.
#include <atomic>
#include <cerrno>
#include <cfenv>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMega = std::size_t{1} << 20;

unsigned char* map_anonymous(std::size_t size, int protection = PROT_READ | PROT_WRITE,
                             int flags = MAP_PRIVATE) {
  void* memory = mmap(nullptr, size, protection, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(memory != MAP_FAILED);
  return static_cast<unsigned char*>(memory);
}

TEST_P(ACall, BringsChangedPagesHomeAndLeavesTheOthers) {
  Outcome outcome = run([this] {
    constexpr std::size_t kSize = 64 * kMega;
    unsigned char* memory = map_anonymous(kSize);
    for (std::size_t page = 0; page < kSize / kPage; ++page) {
      std::memset(memory + page * kPage, static_cast<int>(page % 251 + 1), kPage);
    }
    std::minstd_rand random(7);
    std::vector<std::size_t> changed;
    for (int i = 0; i < 1000; ++i) changed.push_back(random() % (kSize / kPage));
    call_on(node(), [&] {
      for (std::size_t page : changed) memory[page * kPage + page % kPage] = 255;
      // One is zero again, and some were given back.
      std::memset(memory, 0, kPage);
      require(madvise(memory + 10 * kPage, 5 * kPage, MADV_DONTNEED) == 0);
    });
    std::vector<bool> is_changed(kSize / kPage);
    for (std::size_t page : changed) is_changed[page] = true;
    for (std::size_t page = 0; page < kSize / kPage; ++page) {
      bool is_gone = page == 0 || (page >= 10 && page < 15);
      for (std::size_t i = 0; i < kPage; ++i) {
        unsigned char expected = is_gone ? 0
                                         : (is_changed[page] && i == page % kPage
                                                ? 255
                                                : static_cast<unsigned char>(page % 251 + 1));
        if (memory[page * kPage + i] != expected) require_equal(page, ~std::size_t{0});
      }
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, IsListedWithHowItsChangesAreFound) {
  const char* otherwise = std::getenv("TELEFORK_TEST_CHANGES");
  const std::string wanted = otherwise != nullptr ? otherwise : "write-protection";
  const std::string found = "\"changes_found_by\":\"" + wanted + "\"";
  Program program = start([this] {
    call_on(node(), [this] {
      make_file(path("there"));
      await_file(path("listed"));
    });
  });
  ASSERT_TRUE(file_comes(path("there")));
  std::string listed;
  // f may run before home has heard of it.
  do {
    listed = telefork("ps --json");
  } while (listed.find("\"state\":\"away\"") == std::string::npos);
  make_file(path("listed"));
  EXPECT_TRUE(went_well(finish(program)));
  EXPECT_NE(listed.find(found), std::string::npos) << listed;
}

TEST_P(ACall, BringsNewAndLostMappingsHome) {
  Outcome outcome = run([this] {
    unsigned char* lost = map_anonymous(16 * kPage);
    unsigned char* guarded = map_anonymous(16 * kPage);
    std::memset(guarded, 3, 16 * kPage);
    auto made = call_on(node(), [&] {
      require(munmap(lost, 16 * kPage) == 0);
      require(mprotect(guarded + kPage, kPage, PROT_NONE) == 0);
      unsigned char* fresh = map_anonymous(1000 * kPage);
      std::memset(fresh + 500 * kPage, 9, kPage);
      void* moved = mremap(guarded + 8 * kPage, 8 * kPage, 32 * kPage, MREMAP_MAYMOVE);
      require(moved != MAP_FAILED);
      return std::pair(fresh, static_cast<unsigned char*>(moved));
    });
    unsigned char vector;
    require(mincore(lost, kPage, &vector) == -1);
    require_equal(int{made.first[500 * kPage]}, 9);
    require_equal(int{made.first[0]}, 0);
    require_equal(int{made.second[0]}, 3);
    require_equal(int{guarded[0]}, 3);
    const int zero = open("/dev/zero", O_RDONLY);
    require(read(zero, guarded + kPage, 1) == -1);
    require_equal(errno, EFAULT);
    close(zero);
  });
  EXPECT_TRUE(went_well(outcome));
}

// Whether it stayed where it was or was moved there, in a small program and in a large one.
TEST_P(ACall, BringsHolesInSharedMemoryHome) {
  Outcome outcome = run([this] {
    for (const std::size_t size : {16 * kPage, 80 * kMega}) {
      for (const bool moves : {false, true}) {
        unsigned char* memory = map_anonymous(size, PROT_READ | PROT_WRITE, MAP_SHARED);
        unsigned char* place = map_anonymous(size, PROT_NONE);
        std::memset(memory, 'o', size);
        call_on(node(), [&] {
          require(madvise(memory + 2 * kPage, 3 * kPage, MADV_REMOVE) == 0);
          memory[4 * kPage] = 'n';
          if (!moves) return;
          require(mremap(memory, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
          memory = place;
        });
        for (std::size_t page = 0; page < size / kPage; ++page) {
          const int there = page == 4 ? 'n' : 0;
          require_equal(int{memory[page * kPage]}, page >= 2 && page < 5 ? there : 'o');
        }
        require(munmap(memory, size) == 0);
      }
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, BringsAllocationsHome) {
  Outcome outcome = run([this] {
    std::vector<std::string> words(100, "a word that is too long for a short string");
    auto more = call_on(node(), [&] {
      std::vector<std::string> made;
      for (int i = 0; i < 50000; ++i) made.push_back("allocated there " + std::to_string(i));
      words.clear();
      words.shrink_to_fit();
      return made;
    });
    require_equal(more[49999], "allocated there 49999");
    require(words.empty());
    more.clear();
    for (int i = 0; i < 1000; ++i) words.emplace_back(1000, 'x');
    require_equal(words[999].size(), 1000U);
  });
  EXPECT_TRUE(went_well(outcome));
}

// A pool as OpenMP has it: threads that wait for work.
class Pool {
 public:
  explicit Pool(int size) {
    for (int i = 0; i < size; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      ends_ = true;
    }
    begin_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  int run() {
    std::unique_lock lock(mutex_);
    done_ = 0;
    ++round_;
    begin_.notify_all();
    end_.wait(lock, [this] { return done_ == static_cast<int>(threads_.size()); });
    return done_;
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (int seen = 0;;) {
      begin_.wait(lock, [&] { return ends_ || round_ != seen; });
      if (ends_) return;
      seen = round_;
      ++done_;
      end_.notify_one();
    }
  }
  std::mutex mutex_;
  std::condition_variable begin_, end_;
  std::vector<std::thread> threads_;
  int round_ = 0;
  int done_ = 0;
  bool ends_ = false;
};

TEST_P(ACall, TakesAPoolOfThreadsThereAndBack) {
  Outcome outcome = run([this] {
    Pool pool(8);
    require_equal(pool.run(), 8);
    require_equal(call_on(node(), [&] { return pool.run() + pool.run(); }), 16);
    require_equal(pool.run(), 8);
    require_equal(call_on(node(), [&] { return pool.run(); }), 8);
    require_equal(pool.run(), 8);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, BringsThreadsThatWereBegunThereAndForgetsThoseThatEnded) {
  Outcome outcome = run([this] {
    auto old = std::make_unique<Pool>(3);
    std::unique_ptr<Pool> fresh;
    require_equal(old->run(), 3);
    call_on(node(), [&] {
      old.reset();
      fresh = std::make_unique<Pool>(5);
      require_equal(fresh->run(), 5);
    });
    require_equal(fresh->run(), 5);
    fresh.reset();
    Pool last(2);
    require_equal(last.run(), 2);
  });
  EXPECT_TRUE(went_well(outcome));
}

using Attributes = void (*)(pthread_mutexattr_t*);

pthread_mutex_t make_mutex(Attributes set) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  set(&attributes);
  pthread_mutex_t mutex;
  pthread_mutex_init(&mutex, &attributes);
  return mutex;
}

void inherit_priority(pthread_mutexattr_t* attributes) {
  pthread_mutexattr_setprotocol(attributes, PTHREAD_PRIO_INHERIT);
}
void be_robust(pthread_mutexattr_t* attributes) {
  pthread_mutexattr_setrobust(attributes, PTHREAD_MUTEX_ROBUST);
}

// Locks that have the id of who holds them within.
struct Locks {
  pthread_mutex_t recursive = make_mutex([](pthread_mutexattr_t* attributes) {
    pthread_mutexattr_settype(attributes, PTHREAD_MUTEX_RECURSIVE);
  });
  pthread_mutex_t checked = make_mutex([](pthread_mutexattr_t* attributes) {
    pthread_mutexattr_settype(attributes, PTHREAD_MUTEX_ERRORCHECK);
  });
  pthread_mutex_t inheriting = make_mutex(&inherit_priority);
  pthread_mutex_t robust = make_mutex(&be_robust);
  pthread_mutex_t kept = make_mutex(&be_robust);      // to the end of who holds it
  pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;  // has none that counts

  void lock_all() {
    for (pthread_mutex_t* mutex : {&recursive, &checked, &inheriting, &robust, &kept, &plain}) {
      require_equal(pthread_mutex_lock(mutex), 0);
    }
  }
  // By who holds them.
  void use_as_before() {
    require_equal(pthread_mutex_lock(&recursive), 0);
    require_equal(pthread_mutex_unlock(&recursive), 0);
    require_equal(pthread_mutex_lock(&checked), EDEADLK);
    for (pthread_mutex_t* mutex : {&recursive, &checked, &inheriting, &robust, &plain}) {
      require_equal(pthread_mutex_unlock(mutex), 0);
    }
  }
  // By who holds them under another id now: docs/limits.md.
  void be_useless_but_for_robust_ones() {
    require_equal(pthread_mutex_trylock(&recursive), EBUSY);
    for (pthread_mutex_t* mutex : {&recursive, &checked, &inheriting}) {
      require_equal(pthread_mutex_unlock(mutex), EPERM);
    }
    for (pthread_mutex_t* mutex : {&robust, &plain}) {
      require_equal(pthread_mutex_unlock(mutex), 0);
    }
  }
  // By somebody else, afterwards.
  void take_over() {
    for (pthread_mutex_t* mutex : {&recursive, &checked, &inheriting}) {
      require_equal(pthread_mutex_lock(mutex), 0);
    }
  }
  void take_over_robust_ones() {
    for (pthread_mutex_t* mutex : {&robust, &plain}) require_equal(pthread_mutex_lock(mutex), 0);
    require_equal(pthread_mutex_lock(&kept), EOWNERDEAD);
  }
};

// A thread that holds the locks until it is told to go on.
struct Holder {
  Locks locks;
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> goes_on = false;
  std::thread thread;

  void begin(const std::function<void()>& then) {
    thread = std::thread([this, then] {
      locks.lock_all();
      tid = gettid();
      tid.notify_all();
      goes_on.wait(false);
      then();
    });
    tid.wait(0);
  }
  void go_on() {
    goes_on = true;
    goes_on.notify_all();
    thread.join();
  }
};

// Another machine gives out ids from where it is, which may not be free at home.
void give_ids_from(pid_t first) {
  if (std::getenv("TELEFORK_TEST_HOST") == nullptr) return;
  const int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
  write_all(last, std::to_string(first));
  close(last);
}

// As a thread that f began, at home; who is not root has the same id only by chance.
void go_on_with(Holder& holder) {
  if (geteuid() == 0) require_equal(gettid(), holder.tid);
  if (gettid() == holder.tid) {
    holder.locks.use_as_before();
  } else {
    holder.locks.be_useless_but_for_robust_ones();
  }
}

TEST_P(ACall, BringsThreadsHomeWithTheIdsThatTheyHadThereWhereItMayChoose) {
  Outcome outcome = run([this] {
    const bool may_choose = geteuid() == 0;
    for (int round = 0; round < 3; ++round) {
      Holder first;
      Holder second;
      call_on(node(), [&] {
        if (may_choose) give_ids_from(20'000 + 1000 * round);
        for (int i = 0; i < 100; ++i) std::thread([] {}).join();
        for (Holder* holder : {&first, &second}) holder->begin([holder] { go_on_with(*holder); });
      });
      require_equal(pthread_mutex_trylock(&first.locks.robust), EBUSY);
      std::thread waiting([&] {
        if (!may_choose) return;
        require_equal(pthread_mutex_lock(&first.locks.inheriting), 0);
        require_equal(pthread_mutex_unlock(&first.locks.inheriting), 0);
      });
      first.go_on();
      second.go_on();
      waiting.join();
      for (Holder* holder : {&first, &second}) {
        holder->locks.take_over_robust_ones();
        if (may_choose) holder->locks.take_over();
      }
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, BringsFilePositionsDirectoryAndUmaskHome) {
  Outcome outcome = run([this] {
    make_file(path("data"), "0123456789");
    mkdir(path("folder").c_str(), 0755);
    const int data = open(path("data").c_str(), O_RDWR);
    const int closed = open(path("data").c_str(), O_RDONLY);
    require(lseek(data, 2, SEEK_SET) == 2);
    umask(022);
    const int opened = call_on(node(), [&] {
      char text[3] = {};
      require_equal(read(data, text, 2), 2);
      require_equal(std::string(text), "23");
      require(write(data, "XY", 2) == 2);
      close(closed);
      require(chdir(path("folder").c_str()) == 0);
      umask(077);
      const int more = open(path("data").c_str(), O_RDONLY | O_CLOEXEC);
      require(lseek(more, 4, SEEK_SET) == 4);
      return more;
    });
    require(lseek(data, 0, SEEK_CUR) == 6);
    require(fcntl(closed, F_GETFD) == -1 || opened == closed);
    char text[3] = {};
    require_equal(read(opened, text, 2), 2);
    require_equal(std::string(text), "XY");
    require_equal(fcntl(opened, F_GETFD), FD_CLOEXEC);
    close(opened);
    close(data);
    char* folder = getcwd(nullptr, 0);
    require_equal(std::string(folder), path("folder"));
    require_equal(umask(022), 077U);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, BringsDescriptorsHomeWhereFewAreAllowed) {
  Outcome outcome = run([this] {
    constexpr int kOpened = 20;
    rlimit few{64, 64};
    require(setrlimit(RLIMIT_NOFILE, &few) == 0);
    int fds[kOpened];
    call_on(node(), [&] {
      for (int& fd : fds) fd = open("/etc/passwd", O_RDONLY);
    });
    for (int fd : fds) {
      struct stat here {};
      struct stat there {};
      require(fstat(fd, &there) == 0 && stat("/etc/passwd", &here) == 0);
      require_equal(there.st_ino, here.st_ino);
      close(fd);
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

// As a log is rotated, or a result is given its name when it is whole.
TEST_P(ACall, KeepsFilesThatGetAnotherNameMeanwhile) {
  Outcome outcome = run([this] {
    for (const std::string how : {"renamed", "removed", "replaced"}) {
      const std::string name = path(how);
      const int file = open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
      require(file >= 0 && ftruncate(file, kPage) == 0);
      // Who is not root cannot open the file of a mapping but by its name.
      const bool maps = geteuid() == 0 || how == "renamed";
      void* memory = maps ? mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                          : map_anonymous(kPage);
      require(memory != MAP_FAILED);
      struct stat before {};
      require(fstat(file, &before) == 0);
      call_on(node(), [&] {
        require_equal(write(file, "there", 5), 5);
        if (!maps) std::memcpy(memory, "there", 5);
        static_cast<char*>(memory)[5] = '!';
        if (how == "removed") require(unlink(name.c_str()) == 0);
        if (how == "renamed") require(rename(name.c_str(), (name + ".1").c_str()) == 0);
        if (how == "replaced") {
          make_file(name + ".new");
          require(rename((name + ".new").c_str(), name.c_str()) == 0);
        }
      });
      struct stat after {};
      require(fstat(file, &after) == 0);
      require(after.st_ino == before.st_ino && after.st_dev == before.st_dev);
      require_equal(lseek(file, 0, SEEK_CUR), 5);
      require_equal(std::string(static_cast<char*>(memory)), "there!");
      static_cast<char*>(memory)[0] = 'T';
      char first = 0;
      require(pread(file, &first, 1, 0) == 1 && first == (maps ? 'T' : 't'));
      munmap(memory, kPage);
      close(file);
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, BringsThePlaceInADirectoryHome) {
  constexpr int kFiles = 2000;  // more than one buffer
  require(mkdir(path("folder").c_str(), 0700) == 0);
  for (int i = 0; i < kFiles; ++i) make_file(path("folder/" + std::to_string(i)));
  Outcome outcome = run([this] {
    DIR* folder = opendir(path("folder").c_str());
    int count = 0;
    for (; count < 10; ++count) require(readdir(folder) != nullptr);
    call_on(node(), [&] {
      for (; count < kFiles / 2; ++count) require(readdir(folder) != nullptr);
    });
    while (readdir(folder) != nullptr) ++count;
    require_equal(count, kFiles + 2);
    closedir(folder);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, BringsTheFloatingPointEnvironmentHome) {
  Outcome outcome = run([this] {
    call_on(node(), [] { std::fesetround(FE_UPWARD); });
    require_equal(std::fegetround(), FE_UPWARD);
  });
  EXPECT_TRUE(went_well(outcome));
}

// A process that writes "after" when there is a byte to read.
pid_t fork_writer(char* memory, int from) {
  const pid_t child = fork();
  if (child != 0) return child;
  char byte = 0;
  require(read(from, &byte, 1) == 1);
  std::strcpy(memory, "after");
  _exit(0);
}

// What f had was a copy; here is what others see too.
TEST_P(ACall, LeavesMemoryFilesMapped) {
  Outcome outcome = run([this] {
    const int file = memfd_create("shared", 0);
    require(ftruncate(file, 8192) == 0);
    void* memory = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    void* view = mmap(nullptr, 8192, PROT_READ, MAP_SHARED, file, 0);
    const int id = shmget(IPC_PRIVATE, 4096, 0600);
    char* writing = static_cast<char*>(shmat(id, nullptr, 0));
    const char* reading = static_cast<char*>(shmat(id, nullptr, SHM_RDONLY));
    require(shmctl(id, IPC_RMID, nullptr) == 0);
    std::strcpy(writing, "before");
    int ends[2];
    require(pipe(ends) == 0);
    const pid_t writer = fork_writer(writing, ends[0]);
    require(shmdt(writing) == 0);
    telefork::Options options;
    options.shared = telefork::Shared::copy;
    options.fds = telefork::Fds::leave_home;
    call_on(
        node(),
        [&] {
          require_equal(std::string(reading), "before");
          std::strcpy(static_cast<char*>(memory) + 4096, "from there");
          require_equal(std::string(static_cast<char*>(view) + 4096), "from there");
        },
        options);
    char text[16] = "";
    require(pread(file, text, sizeof text, 4096) == sizeof text);
    require_equal(std::string(text), "from there");
    require_equal(std::string(static_cast<char*>(view) + 4096), "from there");
    require(pwrite(file, "by", 2, 0) == 2);
    require_equal(std::string(static_cast<char*>(memory)), "by");
    require(write(ends[1], "x", 1) == 1);
    require_equal(end_of(writer), exited(0));
    require_equal(std::string(reading), "after");
    for (int fd : {file, ends[0], ends[1]}) close(fd);
  });
  EXPECT_TRUE(went_well(outcome));
}

// There it is a file whose content came along; to look at the seals takes root.
TEST_P(ACall, LeavesSealedMemoryMapped) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to look at the seals";
  Outcome outcome = run([this] {
    const int file = memfd_create("sealed", MFD_ALLOW_SEALING);
    write_all(file, "sealed");
    require(fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0);
    void* memory = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, file, 0);
    require(memory != MAP_FAILED);
    close(file);
    auto is_there = [memory] { return std::string(static_cast<char*>(memory)) == "sealed"; };
    require(call_on(node(), is_there) && is_there());
  });
  EXPECT_TRUE(went_well(outcome));
}

// PR_SET_MDWE (Linux 6.3), there and here.
TEST_P(ACall, KeepsMemoryFromBecomingExecutable) {
  constexpr int kSetMdwe = 65;
  constexpr int kGetMdwe = 66;
  if (prctl(kGetMdwe, 0, 0, 0, 0) < 0) GTEST_SKIP() << "needs: PR_SET_MDWE";
  const auto refuses = [] {
    return mprotect(map_anonymous(kPage), kPage, PROT_READ | PROT_EXEC) != 0 && errno == EACCES;
  };
  Outcome outcome = run([&] {
    // Said there.
    call_on(node(), [] { require(prctl(kSetMdwe, 1, 0, 0, 0) == 0); });
    require(refuses());
    // Said before, in each way.
    unsigned char* made = nullptr;
    const bool refused_there = call_on(node(), [&] {
      made = map_anonymous(kPage, PROT_READ | PROT_EXEC);
      return refuses();
    });
    require(refused_there && refuses() && made[7] == 0);
    const std::string error = error_of_call(node(), [&] {
      const int memory = open("/proc/self/mem", O_RDWR);
      require(pwrite(memory, "x", 1, static_cast<off_t>(reinterpret_cast<std::uintptr_t>(made))) ==
              1);
      close(memory);
    });
    require(error.find("has changed there, and here it may not (PR_SET_MDWE)") != error.npos);
    require(made[0] == 0 && refuses());
    const pid_t child = telefork::fork(node());
    if (child == 0) _exit(refuses() ? 5 : 6);
    require_equal(end_of(child), exited(5));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, KeepsItsDescriptorsAndItsChildren) {
  Outcome outcome = run([this] {
    int ends[2];
    require(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
      close(ends[1]);
      char byte;
      _exit(static_cast<int>(read(ends[0], &byte, 1)));
    }
    telefork::Options options;
    options.fds = telefork::Fds::leave_home;
    call_on(
        node(), [&] { require(write(ends[1], "x", 1) == -1); }, options);
    require(write(ends[1], "x", 1) == 1);
    require_equal(end_of(child), exited(1));
    close(ends[0]);
    close(ends[1]);
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
