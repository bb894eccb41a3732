// What the child finds: everything as it was in the parent when it called.
#include <atomic>
#include <cfenv>
#include <csignal>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <sstream>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

// Of the least size that a thread may have.
TEST_P(AFork, WorksOnASmallStack) {
  Outcome outcome = run([this] {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    require_equal(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN), 0);
    struct Call {
      const char* node;
      pid_t pid;
    } call{node().c_str(), -1};
    auto fork_there = [](void* argument) -> void* {
      auto& own = *static_cast<Call*>(argument);
      own.pid = telefork_fork(own.node);
      if (own.pid == 0) _exit(7);
      return nullptr;
    };
    pthread_t thread;
    require_equal(pthread_create(&thread, &attributes, fork_there, &call), 0);
    pthread_join(thread, nullptr);
    require_equal(end_of(call.pid), exited(7));
  });
  EXPECT_TRUE(went_well(outcome));
}

constexpr std::size_t kMega = std::size_t{1} << 20;

// FNV-1a over 8 bytes at a time.
std::uint64_t checksum(const void* memory, std::size_t size) {
  const auto* words = static_cast<const std::uint64_t*>(memory);
  std::uint64_t sum = 14695981039346656037U;
  for (std::size_t i = 0; i < size / sizeof *words; ++i) sum = (sum ^ words[i]) * 1099511628211U;
  return sum;
}

void fill(void* memory, std::size_t size, std::uint64_t seed) {
  auto* words = static_cast<std::uint64_t*>(memory);
  for (std::size_t i = 0; i < size / sizeof *words; ++i) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    words[i] = seed;
  }
}

char* map_anonymous(std::size_t size, int protection = PROT_READ | PROT_WRITE) {
  void* memory =
      mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(memory != MAP_FAILED);
  return static_cast<char*>(memory);
}

std::string protections() {
  std::istringstream maps(read_file("/proc/self/maps"));
  std::string text;
  for (std::string range, rights, rest; maps >> range >> rights && std::getline(maps, rest);) {
    text += range + " " + rights + "\n";
  }
  return text;
}

struct Ids {
  uid_t users[3];
  gid_t groups[3];
  std::vector<gid_t> others;
  bool operator==(const Ids& other) const {
    return std::equal(users, users + 3, other.users) &&
           std::equal(groups, groups + 3, other.groups) && others == other.others;
  }
};

Ids own_ids() {
  Ids ids{};
  require(getresuid(&ids.users[0], &ids.users[1], &ids.users[2]) == 0);
  require(getresgid(&ids.groups[0], &ids.groups[1], &ids.groups[2]) == 0);
  ids.others.resize(static_cast<std::size_t>(getgroups(0, nullptr)));
  require(getgroups(static_cast<int>(ids.others.size()), ids.others.data()) >= 0);
  return ids;
}

TEST_P(AFork, HasTheIdsOfItsParent) {
  Outcome outcome = run([this] {
    const Ids mine = own_ids();
    const pid_t pid = fork_child(node(), [&] { return own_ids() == mine ? 0 : 1; });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, FindsItsDataIntact) {
  Outcome outcome = run([this] {
    constexpr std::size_t kSize = 64 * kMega;
    char* small_pages = map_anonymous(kSize);
    char* huge_pages = map_anonymous(kSize);
    madvise(huge_pages, kSize, MADV_HUGEPAGE);
    fill(small_pages, kSize, 1);
    fill(huge_pages, kSize, 2);
    const std::uint64_t expected = checksum(small_pages, kSize) + checksum(huge_pages, kSize);
    const pid_t pid = fork_child(node(), [&] {
      require_equal(checksum(small_pages, kSize) + checksum(huge_pages, kSize), expected);
      return 0;
    });
    // What the parent does meanwhile is not the child's.
    std::memset(small_pages, 0, kSize);
    std::memset(huge_pages, 0, kSize);
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsSparseMemorySparse) {
  Outcome outcome = run([this] {
    constexpr std::size_t kSize = 8192 * kMega;
    char* memory = map_anonymous(kSize);
    for (std::size_t at = 0; at < kSize; at += 512 * kMega)
      memory[at] = static_cast<char>(at >> 29);
    const pid_t pid = fork_child(node(), [&] {
      for (std::size_t at = 0; at < kSize; at += 512 * kMega) {
        require_equal(memory[at], static_cast<char>(at >> 29));
        require_equal(memory[at + 4096], 0);
      }
      rusage usage{};
      getrusage(RUSAGE_SELF, &usage);
      require(usage.ru_maxrss < 512 * 1024);
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, HasTheSameMapWithTheSameRights) {
  Outcome outcome = run([this] {
    char* memory = map_anonymous(4 * kMega);
    std::strcpy(memory, "read only");
    require(mprotect(memory, kMega, PROT_READ) == 0);
    require(mprotect(memory + kMega, kMega, PROT_NONE) == 0);
    const pid_t pid = fork_child(node(), [&, before = protections()] {
      require_equal(std::string(memory), "read only");
      memory[3 * kMega] = 1;
      require_equal(protections(), before);
      memory[0] = 1;
      return 0;
    });
    require_equal(end_of(pid), killed(SIGSEGV));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsItsChangesToItself) {
  Outcome outcome = run([this] {
    auto value = std::make_unique<int>(1);
    const pid_t pid = fork_child(node(), [&] {
      *value = 2;
      return *value;
    });
    require_equal(end_of(pid), exited(2));
    require_equal(*value, 1);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ContinuesOnlyTheCallingThread) {
  Outcome outcome = run([this] {
    std::atomic<bool> stop{false};
    std::atomic<int> running{0};
    std::vector<std::thread> others;
    for (int i = 0; i < 4; ++i) {
      others.emplace_back([&] {
        ++running;
        while (!stop) std::this_thread::yield();
      });
    }
    while (running < 4) std::this_thread::yield();
    std::thread caller([&] {
      thread_local int own = 17;
      own = 18;
      const pid_t pid = fork_child(node(), [] {
        require_equal(own, 18);
        struct stat tasks {};
        require(stat("/proc/self/task", &tasks) == 0);
        require_equal(tasks.st_nlink, 3U);  // one thread
        return 6;
      });
      require_equal(end_of(pid), exited(6));
    });
    caller.join();
    stop = true;
    for (std::thread& other : others) other.join();
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ForksFromManyThreadsAtOnce) {
  Outcome outcome = run([this] {
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([this, i] {
        for (int k = 0; k < 3; ++k) {
          require_equal(end_of(fork_child(node(), [i] { return i; })), exited(i));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  EXPECT_TRUE(went_well(outcome));
}

std::string handler_calls;

TEST_P(AFork, RunsTheAtforkHandlers) {
  Outcome outcome = run([this] {
    pthread_atfork([] { handler_calls += "prepare "; }, [] { handler_calls += "parent"; },
                   [] { handler_calls += "child"; });
    const pid_t pid = fork_child(node(), [] {
      require_equal(handler_calls, "prepare child");
      return 0;
    });
    require_equal(handler_calls, "prepare parent");
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

std::atomic<int> beats{0};

void* beat(void*) {
  for (;;) {
    ++beats;
    usleep(1000);
  }
}

TEST_P(AFork, TakesTheThreadsAlongThatAtforkHandlersBegin) {
  Outcome outcome = run([this] {
    pthread_atfork(nullptr, nullptr, [] {
      pthread_t thread;
      require(pthread_create(&thread, nullptr, beat, nullptr) == 0);
      pthread_setname_np(thread, "beating");
    });
    const pid_t pid = fork_child(node(), [] {
      // Moved here whole: it still runs.
      const int before = beats;
      while (beats < before + 10) usleep(1000);
      std::set<std::string> names;
      for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
        std::string name;
        std::getline(std::ifstream(task.path() / "comm"), name);
        names.insert(name);
      }
      return names.count("beating") == 1 ? 42 : 1;
    });
    require_equal(end_of(pid), exited(42));
    require_equal(static_cast<int>(beats), 0);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, StartsNewThreadsInTheChild) {
  Outcome outcome = run([this] {
    // Their stacks are in glibc's cache when the child starts its own.
    for (int i = 0; i < 4; ++i) std::thread([] {}).join();
    std::atomic<bool> stop{false};
    std::thread live([&] {
      while (!stop) std::this_thread::yield();
    });
    const pid_t pid = fork_child(node(), [] {
      std::mutex mutex;
      int sum = 0;
      std::vector<std::thread> threads;
      for (int i = 0; i < 16; ++i) {
        threads.emplace_back([&] {
          std::vector<int> data(100'000);
          std::iota(data.begin(), data.end(), 0);
          std::lock_guard lock(mutex);
          sum += data[99] / 99;
        });
      }
      for (std::thread& thread : threads) thread.join();
      return sum;
    });
    stop = true;
    live.join();
    require_equal(end_of(pid), exited(16));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ThrowsAndCatchesInTheChild) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      try {
        throw std::runtime_error(std::string(1000, 'x'));
      } catch (const std::exception& error) {
        return static_cast<int>(std::strlen(error.what()) / 10);
      }
    });
    require_equal(end_of(pid), exited(100));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsTheSignalMask) {
  Outcome outcome = run([this] {
    sigset_t mask;
    sigemptyset(&mask);
    for (int signal : {SIGUSR1, SIGCHLD, SIGRTMIN + 3}) sigaddset(&mask, signal);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    auto as_before = [mask] {
      sigset_t now;
      sigprocmask(SIG_SETMASK, nullptr, &now);
      for (int signal = 1; signal <= SIGRTMAX; ++signal) {
        require_equal(sigismember(&now, signal), sigismember(&mask, signal));
      }
      return 0;
    };
    const pid_t pid = fork_child(node(), as_before);
    as_before();
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsTheSignalHandlersAndTheAlternateStack) {
  Outcome outcome = run([this] {
    static char stack[65536];
    const stack_t alternate{stack, 0, sizeof stack};
    require(sigaltstack(&alternate, nullptr) == 0);
    static volatile sig_atomic_t on_stack;
    struct sigaction action {};
    action.sa_handler = [](int) {
      char here = 0;
      on_stack = &here >= stack && &here < stack + sizeof stack ? 1 : 2;
    };
    action.sa_flags = SA_ONSTACK | SA_RESTART;
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, nullptr);
    signal(SIGTERM, SIG_IGN);
    const pid_t pid = fork_child(node(), [] {
      struct sigaction now {};
      sigaction(SIGUSR1, nullptr, &now);
      require_equal(now.sa_flags & (SA_ONSTACK | SA_RESTART), SA_ONSTACK | SA_RESTART);
      require_equal(sigismember(&now.sa_mask, SIGUSR2), 1);
      sigaction(SIGTERM, nullptr, &now);
      require(now.sa_handler == SIG_IGN);
      raise(SIGTERM);
      raise(SIGUSR1);
      return static_cast<int>(on_stack);
    });
    require_equal(end_of(pid), exited(1));
  });
  EXPECT_TRUE(went_well(outcome));
}

// fork(2): neither pending signals nor timers are the child's.
TEST_P(AFork, HasNoPendingSignalsAndNoTimers) {
  Outcome outcome = run([this] {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    raise(SIGUSR1);
    const itimerval in_an_hour{{0, 0}, {3600, 0}};
    require(setitimer(ITIMER_REAL, &in_an_hour, nullptr) == 0);
    const pid_t pid = fork_child(node(), [] {
      sigset_t pending;
      sigpending(&pending);
      require_equal(sigismember(&pending, SIGUSR1), 0);
      itimerval timer{};
      getitimer(ITIMER_REAL, &timer);
      require_equal(timer.it_value.tv_sec, 0);
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsDirectoryUmaskAndLimits) {
  Outcome outcome = run([this] {
    require(mkdir(path("folder").c_str(), 0700) == 0 && chdir(path("folder").c_str()) == 0);
    umask(0137);
    const rlimit few_files{300, 500};
    require(setrlimit(RLIMIT_NOFILE, &few_files) == 0);
    const rlimit no_core{0, 0};
    require(setrlimit(RLIMIT_CORE, &no_core) == 0);
    setenv("A_NAME", "a value", 1);
    prctl(PR_SET_NAME, "another name", 0, 0, 0);
    const pid_t pid = fork_child(node(), [this] {
      char buffer[4096];
      require_equal(std::string(getcwd(buffer, sizeof buffer)), path("folder"));
      require_equal(umask(0), 0137U);
      rlimit limit{};
      getrlimit(RLIMIT_NOFILE, &limit);
      require_equal(limit.rlim_cur, 300U);
      require_equal(limit.rlim_max, 500U);
      getrlimit(RLIMIT_CORE, &limit);
      require_equal(limit.rlim_max, 0U);
      require_equal(std::string(getenv("A_NAME")), "a value");
      prctl(PR_GET_NAME, buffer, 0, 0, 0);
      require_equal(std::string(buffer), "another name");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsWhoItIs) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [user = geteuid(), group = getegid()] {
      return geteuid() == user && getuid() == user && getegid() == group ? 0 : 1;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

std::string namespace_of(const std::string& kind) {
  char link[64] = {};
  require(readlink(("/proc/self/ns/" + kind).c_str(), link, sizeof link - 1) > 0);
  return link;
}

TEST_P(AFork, RunsOnTheMachineThatItWasSentTo) {
  const char* host = std::getenv("TELEFORK_TEST_HOST");  // of the node, where it is another machine
  if (host == nullptr) return;
  Outcome outcome = run([&] {
    const pid_t pid = fork_child(node(), [=, at_home = namespace_of("pid")] {
      char name[64] = {};
      require(gethostname(name, sizeof name) == 0);
      require_equal(std::string(name), std::string(host));
      require(namespace_of("pid") != at_home);
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

// A plain user's keeper may have one capability, which makes process ids; the guest has it not.
TEST_P(AFork, HasTheCapabilitiesThatItHadAtHome) {
  Outcome outcome = run([this] {
    auto capabilities = [] {
      std::istringstream status(read_file("/proc/self/status"));
      std::string found;
      for (std::string line; std::getline(status, line);) {
        if (line.starts_with("Cap")) found += line + "\n";
      }
      return found;
    };
    const pid_t pid = fork_child(node(), [&, at_home = capabilities()] {
      require_equal(capabilities(), at_home);
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

// On another machine, where it nearly always is: a pid may be taken once, not each time.
TEST_P(AFork, KeepsItsPidWhereThatIsFree) {
  if (node() == "local" || node() == "unix:" + socket_) return;  // the deputy has it
  Outcome outcome = run([this] {
    listen_to_children();
    for (int tries = 0; tries < 10; ++tries) {
      const pid_t pid = fork_child(node(), [] {
        write_all(1, std::to_string(getpid()) + "\n");
        return 0;
      });
      require_equal(end_of(pid), exited(0));
      if (read_line() == std::to_string(pid)) return;
    }
    require(false);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KnowsItsOwnPid) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      const pid_t own = static_cast<pid_t>(syscall(SYS_getpid));
      require_equal(getpid(), own);
      require_equal(gettid(), own);
      require_equal(std::stoi(read_file("/proc/self/stat")), own);
      // raise() and pthread_kill() use what libc remembers.
      signal(SIGUSR1, [](int) {});
      require(raise(SIGUSR1) == 0);
      require(pthread_kill(pthread_self(), SIGUSR1) == 0);
      require(kill(getpid(), SIGUSR1) == 0);
      pthread_mutex_t mutex;
      pthread_mutexattr_t checked;
      pthread_mutexattr_init(&checked);
      pthread_mutexattr_settype(&checked, PTHREAD_MUTEX_ERRORCHECK);
      pthread_mutex_init(&mutex, &checked);
      require(pthread_mutex_lock(&mutex) == 0);
      require_equal(pthread_mutex_lock(&mutex), EDEADLK);  // it is our own tid in it
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsTheFloatingPointMode) {
  Outcome outcome = run([this] {
    require(fesetround(FE_UPWARD) == 0);
    volatile double third = 1.0;
    third = third / 3;
    const pid_t pid = fork_child(node(), [up = static_cast<double>(third)] {
      require_equal(fegetround(), FE_UPWARD);
      volatile double one = 1.0;
      return one / 3 == up ? 0 : 1;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

// More than a message holds, and nearly as much as the kernel takes.
constexpr std::size_t kLongLine = 2'000'000;

// From now on the arguments of this process are there; all else is as it was (proc_pid_stat(5)).
void have_command_line(char* line) {
  const std::string stat = read_file("/proc/self/stat");
  std::istringstream rest(stat.substr(stat.rfind(')') + 2));
  std::vector<std::uint64_t> fields(3);  // there is no first, and two are in front
  for (std::string field; rest >> field;) fields.push_back(strtoull(field.c_str(), nullptr, 10));
  prctl_mm_map map{};
  map.start_code = fields.at(26);
  map.end_code = fields.at(27);
  map.start_stack = fields.at(28);
  map.start_data = fields.at(45);
  map.end_data = fields.at(46);
  map.start_brk = fields.at(47);
  map.brk = reinterpret_cast<std::uint64_t>(sbrk(0));
  map.env_start = fields.at(50);
  map.env_end = fields.at(51);
  map.arg_start = reinterpret_cast<std::uint64_t>(line);
  map.arg_end = map.arg_start + kLongLine;
  map.exe_fd = ~0U;
  require(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) == 0);
}

TEST_P(AFork, HasACommandLineOfMegabytes) {
  Outcome outcome = run([this] {
    void* memory =
        mmap(nullptr, kLongLine, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED);
    auto* line = static_cast<char*>(memory);
    std::memset(line, 'w', kLongLine);
    // No word is longer than exec takes.
    for (std::size_t end = 100'000; end <= kLongLine; end += 100'000) line[end - 1] = '\0';
    have_command_line(line);
    const std::string all = read_file("/proc/self/cmdline");
    require_equal(all.size(), kLongLine);
    const pid_t pid = fork_child(node(), [all] {
      require(read_file("/proc/self/cmdline") == all);
      raise(SIGSTOP);
      return 7;
    });
    require_equal(status_of(pid, WUNTRACED), std::string("stopped by 19"));
    require(read_file("/proc/" + std::to_string(pid) + "/cmdline") == all);
    require(kill(pid, SIGCONT) == 0);
    require_equal(end_of(pid), exited(7));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, HasClocksThatGoOn) {
  Outcome outcome = run([this] {
    timespec before{};
    clock_gettime(CLOCK_REALTIME, &before);
    const pid_t pid = fork_child(node(), [before] {
      timespec last{};
      for (int i = 0; i < 10'000; ++i) {
        timespec now{};
        require(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
        require(now.tv_sec > last.tv_sec ||
                (now.tv_sec == last.tv_sec && now.tv_nsec >= last.tv_nsec));
        last = now;
      }
      const timespec nap{0, 1'000'000};
      require(nanosleep(&nap, nullptr) == 0);
      timespec after{};
      clock_gettime(CLOCK_REALTIME, &after);
      require(after.tv_sec >= before.tv_sec && after.tv_sec < before.tv_sec + 120);
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
