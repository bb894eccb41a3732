// There and back, one kind of state at a time.
#include <dlfcn.h>
#include <sched.h>
#include <sys/mman.h>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/probe.h"
#include "kernel/procfs.h"
#include "migrate/homecoming_trip.h"
#include "migrate/testing_memory.h"

namespace telefork::migrate {
namespace {

constexpr std::size_t kSomePages = 16;
constexpr std::size_t kSize = kSomePages * kPageSize;

char* map_private() { return map(kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS); }
char* map_shared() { return map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS); }

bool all(const char* at, std::size_t size, char wanted) {
  return std::all_of(at, at + size, [=](char byte) { return byte == wanted; });
}

[[gnu::noinline]] void come_home_from_a_deep_stack(Away& away) {
  volatile char deep[512 * 1024];
  for (std::size_t i = 0; i < sizeof(deep); i += 64) deep[i] = static_cast<char>(i / 64);
  away.come_home();
  for (std::size_t i = 0; i < sizeof(deep); i += 64) VERIFY(deep[i] == static_cast<char>(i / 64));
}

TEST(HomecomingMemory, BringsAStackHomeThatHasGrown) {
  expect_comes_home([](Away& away) {
    VERIFY(away.leave());
    come_home_from_a_deep_stack(away);
    VERIFY(vma_at(&away).is_stack());
  });
}

TEST(HomecomingMemory, BringsAHeapHomeThatHasGrown) {
  expect_comes_home([](Away& away) {
    VERIFY(away.leave());
    auto* more = static_cast<char*>(::sbrk(kSize));
    std::memset(more, 'n', kSize);
    away.come_home();
    VERIFY(all(more, kSize, 'n') && ::sbrk(0) == more + kSize);
    VERIFY(vma_at(more).is_heap());
    void* end = ::sbrk(0);  // malloc() may have moved it since
    VERIFY(::sbrk(kSize) == end && ::sbrk(0) == static_cast<char*>(end) + kSize);
  });
}

TEST(HomecomingMemory, BringsAHeapHomeThatHasShrunk) {
  expect_comes_home([](Away& away) {
    auto* more = static_cast<char*>(::sbrk(kSize));
    more[0] = 'o';
    VERIFY(away.leave());
    VERIFY(::sbrk(-static_cast<std::intptr_t>(kSize)) != nullptr);
    away.come_home();
    VERIFY(::sbrk(0) == more);
  });
}

// Alone between its neighbours, so that it is a mapping of its own.
char* map_large(std::size_t size) {
  char* at = map(size + 2 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
  VERIFY(::mprotect(at + kPageSize, size, PROT_READ | PROT_WRITE) == 0);
  return at + kPageSize;
}

std::size_t mappings_within(const char* at, std::size_t size) {
  auto start = RemotePtr(reinterpret_cast<std::uint64_t>(at));
  std::size_t count = 0;
  for (const kernel::Vma& vma : kernel::read_maps(::getpid())) {
    if (vma.start < start + size && start < vma.end) ++count;
  }
  return count;
}

// A kernel may give memory that is only read pages of its own.
bool has_zero_page() {
  const volatile char* at = map_large(kPageSize);
  const bool is_zero = *at == 0;
  return is_zero && vma_at(const_cast<const char*>(at)).rss_kb == 0;
}

// Of large mappings all, half or little is new; the rest is what it was.
TEST(HomecomingMemory, BringsLargeMappingsHome) {
  constexpr std::size_t kLarge = 20 * 1024 * 1024;
  constexpr std::size_t kHalf = kLarge / 2;
  expect_comes_home([](Away& away) {
    char* rewritten = map_large(kLarge);
    char* half = map_large(kLarge);
    char* dropped = map_large(kLarge);
    char* little = map_large(kLarge);
    char* read_only = map_large(kLarge);
    char* sparse = map_large(8 * kLarge);
    for (char* at : {rewritten, half, dropped, little, read_only}) std::memset(at, 'o', kLarge);
    VERIFY(::madvise(half, kLarge, MADV_DONTFORK) == 0);
    VERIFY(::mprotect(read_only, kLarge, PROT_READ) == 0);
    sparse[0] = 'o';
    VERIFY(away.leave());
    std::memset(rewritten, 'n', kLarge);
    std::memset(half + kPageSize, 'n', kHalf);
    std::memset(dropped, 'n', kHalf);
    VERIFY(::madvise(dropped + kHalf, kHalf, MADV_DONTNEED) == 0);
    for (std::size_t at = 0; at < kLarge; at += 64 * kPageSize) little[at] = 'n';
    VERIFY(::mprotect(read_only, kLarge, PROT_READ | PROT_WRITE) == 0);
    std::memset(read_only, 'n', kHalf + kPageSize);
    VERIFY(::mprotect(read_only, kLarge, PROT_READ) == 0);
    std::memset(sparse + 4 * kLarge, 'n', kLarge);
    away.come_home();
    VERIFY(all(rewritten, kLarge, 'n'));
    VERIFY(all(half, kPageSize, 'o') && all(half + kPageSize, kHalf, 'n'));
    VERIFY(all(half + kPageSize + kHalf, kHalf - kPageSize, 'o'));
    VERIFY(vma_at(half).has(kernel::VmFlag::kDontCopy) && mappings_within(half, kLarge) == 1);
    VERIFY(all(dropped, kHalf, 'n') && all(dropped + kHalf, kHalf, 0));
    for (std::size_t at = 0; at < kLarge; at += kPageSize) {
      VERIFY(little[at] == (at % (64 * kPageSize) == 0 ? 'n' : 'o') && little[at + 1] == 'o');
    }
    VERIFY(all(read_only, kHalf + kPageSize, 'n'));
    VERIFY(all(read_only + kHalf + kPageSize, kHalf - kPageSize, 'o'));
    VERIFY(vma_at(read_only).protection() == PROT_READ && mappings_within(read_only, kLarge) == 1);
    VERIFY(sparse[0] == 'o' && all(sparse + 4 * kLarge, kLarge, 'n'));
    // All of it was read, to be compared.
    VERIFY(!has_zero_page() || vma_at(sparse).rss_kb <= 2 * kLarge / 1024);
  });
}

constexpr std::size_t kLargeSize = 20 * 1024 * 1024;

// Those that are whole; kPageIsHuge is of the page tables.
std::size_t count_huge_pages(const char* at, std::size_t size) {
  UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  std::vector<kernel::PageRegion> regions(size / kPageSize);
  kernel::PagemapScanArg query;
  query.size = sizeof(query);
  query.start = reinterpret_cast<std::uint64_t>(at);
  query.end = query.start + size;
  query.vec = reinterpret_cast<std::uint64_t>(regions.data());
  query.vec_len = regions.size();
  query.category_mask = query.return_mask = kernel::kPageIsHuge;
  long count = ::ioctl(pagemap.get(), kernel::kPagemapScan, &query);
  VERIFY(count >= 0);
  std::size_t pages = 0;
  for (long i = 0; i < count; ++i) pages += (regions[i].end - regions[i].start) / kHugePageSize;
  return pages;
}

[[noreturn]] void rewrite_a_large_mapping(Away& away) {
  char* large = map_large(kLargeSize);
  std::memset(large, 'o', kLargeSize);
  VERIFY(away.leave());
  std::memset(large, 'n', kLargeSize);
  away.come_home();
  VERIFY(all(large, kLargeSize, 'n') && mappings_within(large, kLargeSize) == 1);
  kernel::Vma home = vma_at(large);
  VERIFY(!home.has(kernel::VmFlag::kHugePage) && !home.has(kernel::VmFlag::kUffdWp));
  // Its first and its last may be parts.
  ::_exit(count_huge_pages(large, kLargeSize) >= kLargeSize / kHugePageSize - 1 ? 0 : 42);
}

TEST(HomecomingMemory, IsOfHugePagesWhereItIsWholeThoughItDoesNotAskForThem) {
  if (!kernel::probe_features().uffd_move) GTEST_SKIP() << "needs: uffd_move";
  Journey journey(&rewrite_a_large_mapping);
  journey.leave();
  journey.capture_guest();
  journey.come_home(Way::kMixed);
  std::string said;
  EXPECT_EQ(journey.finish(&said), 0) << said;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A SIGSTOP ends the system call in which the process receives.
TEST(HomecomingMemory, ArrivesWholeThoughTheProcessIsStoppedMeanwhile) {
  Journey journey(&rewrite_a_large_mapping);
  journey.leave();
  journey.capture_guest();
  const std::string call = "/proc/" + std::to_string(journey.pid()) + "/syscall";
  journey.interrupt_at(kLargeSize / 2 + 1000, [&] {
    while (text_of(call).rfind(std::to_string(SYS_recvmsg) + " ", 0) != 0) ::sched_yield();
    ::kill(journey.pid(), SIGSTOP);
  });
  journey.come_home(Way::kReceived);
  ::kill(journey.pid(), SIGCONT);
  std::string said;
  journey.finish(&said);
  EXPECT_EQ(said, "");
}

TEST(HomecomingMemory, BringsChangesOfMappedFilesHome) {
  ScratchFile file(std::string(kSize, 'f'));
  expect_comes_home([&](Away& away) {
    UniqueFd fd = open_file(file.path(), O_RDONLY);
    char* changed = map(kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get());
    char* dropped = map(kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get());
    fd.reset();
    std::memset(dropped, 'o', kSize);
    std::memset(changed, 'o', kPageSize);
    VERIFY(away.leave());
    std::memset(changed + kPageSize, 'n', kPageSize);
    VERIFY(::madvise(dropped, kPageSize, MADV_DONTNEED) == 0);
    away.come_home();
    VERIFY(all(changed, kPageSize, 'o') && all(changed + kPageSize, kPageSize, 'n'));
    VERIFY(all(changed + 2 * kPageSize, kSize - 2 * kPageSize, 'f'));
    VERIFY(all(dropped, kPageSize, 'f') && all(dropped + kPageSize, kSize - kPageSize, 'o'));
  });
}

TEST(HomecomingMemory, MapsFilesThatWereMappedThere) {
  ScratchFile file(std::string(kSize, 'f'));
  expect_comes_home([&](Away& away) {
    VERIFY(away.leave());
    UniqueFd fd = open_file(file.path(), O_RDONLY);
    char* read_only = map(kSize, PROT_READ, MAP_PRIVATE, fd.get());
    char* changed = map(kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get());
    fd.reset();
    changed[kPageSize] = 'n';
    away.come_home();
    VERIFY(all(read_only, kSize, 'f') && changed[kPageSize] == 'n');
    VERIFY(all(changed, kPageSize, 'f') && changed[kPageSize + 1] == 'f');
    VERIFY(vma_at(read_only).path == file.path() && vma_at(read_only).protection() == PROT_READ);
  });
}

TEST(HomecomingMemory, BringsALibraryHomeThatWasLoadedThere) {
  expect_comes_home([](Away& away) {
    VERIFY(away.leave());
    void* library = ::dlopen("libthread_db.so.1", RTLD_LAZY);
    VERIFY(library != nullptr);
    away.come_home();
    void* symbol = ::dlsym(library, "td_init");
    VERIFY(symbol != nullptr);
    VERIFY(reinterpret_cast<int (*)()>(symbol)() == 0);
    VERIFY(::dlclose(library) == 0);
  });
}

TEST(HomecomingMemory, BringsSharedMemoryHome) {
  expect_comes_home([](Away& away) {
    char* old_one = map_shared();
    void* view = ::mremap(old_one, 0, kSize, MREMAP_MAYMOVE);
    std::memset(old_one, 'o', kSize);
    VERIFY(away.leave());
    std::memset(old_one + kPageSize, 'n', kPageSize);
    VERIFY(::madvise(old_one + 3 * kPageSize, kPageSize, MADV_REMOVE) == 0);
    char* new_one = map_shared();
    void* new_view = ::mremap(new_one + kPageSize, 0, 2 * kPageSize, MREMAP_MAYMOVE);
    void* third_view = ::mremap(old_one, 0, kSize, MREMAP_MAYMOVE);
    std::memset(new_one, 'n', kSize);
    away.come_home();
    auto* other = static_cast<char*>(view);
    VERIFY(all(other, kPageSize, 'o') && all(other + kPageSize, kPageSize, 'n'));
    VERIFY(all(other + 3 * kPageSize, kPageSize, 0));
    VERIFY(all(new_one, kSize, 'n'));
    new_one[kPageSize] = 'x';
    VERIFY(*static_cast<char*>(new_view) == 'x');
    other[0] = 'y';
    VERIFY(*static_cast<char*>(third_view) == 'y' && old_one[0] == 'y');
  });
}

TEST(HomecomingMemory, BringsSharedMemoryHomeThatWasOpenedAndMovedThere) {
  expect_comes_home([](Away& away) {
    char* shared = map_shared();
    shared[0] = 'o';
    char* target = map_private();
    VERIFY(::mprotect(shared, kSize, PROT_READ) == 0);
    VERIFY(away.leave());
    VERIFY(::mprotect(shared, kSize, PROT_READ | PROT_WRITE) == 0);
    VERIFY(::mremap(shared, kSize, kSize, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    target[kPageSize] = 'n';
    away.come_home();
    VERIFY(target[0] == 'o' && target[kPageSize] == 'n');
    target[0] = 'w';
    VERIFY(vma_at(target).shared);
  });
}

TEST(HomecomingMemory, KeepsAdviceReservationsAndLocks) {
  expect_comes_home([](Away& away) {
    char* locked = map_private();
    char* advised = map_private();
    std::memset(locked, 'o', kSize);
    VERIFY(::mlock(locked, kSize) == 0);
    VERIFY(::madvise(advised, kSize, MADV_DONTDUMP) == 0);
    VERIFY(away.leave());
    VERIFY(::munlock(locked, kSize) == 0 && ::madvise(locked, kPageSize, MADV_DONTNEED) == 0);
    VERIFY(::mlock(locked, kSize) == 0);
    VERIFY(::madvise(advised, kSize, MADV_DODUMP) == 0);
    VERIFY(::madvise(advised, kSize, MADV_DONTFORK) == 0);
    char* reserved =
        map(std::size_t{1} << 36, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    char* huge = map(4 * kHugePageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    VERIFY(::madvise(huge, 4 * kHugePageSize, MADV_HUGEPAGE) == 0);
    std::memset(huge, 'h', 4 * kHugePageSize);
    char* locked_there = map_private();
    VERIFY(::mlock(locked_there, kSize) == 0);
    away.come_home();
    VERIFY(all(locked, kPageSize, 0) && all(locked + kPageSize, kSize - kPageSize, 'o'));
    VERIFY(vma_at(locked).has(kernel::VmFlag::kLocked));
    VERIFY(vma_at(locked_there).has(kernel::VmFlag::kLocked));
    VERIFY(!vma_at(advised).has(kernel::VmFlag::kDontDump));
    VERIFY(vma_at(advised).has(kernel::VmFlag::kDontCopy));
    VERIFY(vma_at(reserved).has(kernel::VmFlag::kNoReserve));
    VERIFY(vma_at(huge).has(kernel::VmFlag::kHugePage) && all(huge, 4 * kHugePageSize, 'h'));
  });
}

TEST(HomecomingMemory, BringsGuardPagesHome) {
  char* probe = map_private();
  if (::madvise(probe, kPageSize, kernel::kMadvGuardInstall) != 0) {
    GTEST_SKIP() << "needs: guard_pages";
  }
  expect_comes_home([](Away& away) {
    char* at = map_private();
    std::memset(at, 'o', kSize);
    VERIFY(::madvise(at, kPageSize, kernel::kMadvGuardInstall) == 0);
    VERIFY(away.leave());
    VERIFY(::madvise(at, kPageSize, kernel::kMadvGuardRemove) == 0);
    at[0] = 'n';
    VERIFY(::madvise(at + kPageSize, kPageSize, kernel::kMadvGuardInstall) == 0);
    away.come_home();
    VERIFY(at[0] == 'n' && at[1] == 0 && at[2 * kPageSize] == 'o');
    auto [read_end, write_end] = make_pipe();
    VERIFY(::write(write_end.get(), at + kPageSize, 1) < 0 && errno == EFAULT);
  });
}

TEST(HomecomingMemory, BringsWritesToProtectedMemoryHome) {
  expect_comes_home([](Away& away) {
    char* closed = map_private();
    char* read_only = map_private();
    std::memset(closed, 'o', kSize);
    VERIFY(::mprotect(closed, kSize, PROT_NONE) == 0);
    VERIFY(::mprotect(read_only, kSize, PROT_READ) == 0);
    VERIFY(away.leave());
    VERIFY(::mprotect(closed, kSize, PROT_READ | PROT_WRITE) == 0);
    closed[kPageSize] = 'n';
    VERIFY(::mprotect(closed, kSize, PROT_NONE) == 0);
    VERIFY(::mprotect(read_only + kPageSize, kPageSize, PROT_READ | PROT_WRITE) == 0);
    read_only[kPageSize] = 'n';
    VERIFY(::mprotect(read_only + kPageSize, kPageSize, PROT_READ) == 0);
    away.come_home();
    VERIFY(vma_at(closed).protection() == PROT_NONE);
    VERIFY(vma_at(read_only + kPageSize).protection() == PROT_READ && read_only[kPageSize] == 'n');
    VERIFY(::mprotect(closed, kSize, PROT_READ) == 0);
    VERIFY(closed[kPageSize] == 'n' && closed[0] == 'o' && closed[kPageSize + 1] == 'o');
  });
}

TEST(HomecomingFiles, BringsDescriptorsHome) {
  ScratchFile file("0123456789");
  ScratchFile other("abc");
  expect_comes_home([&](Away& away) {
    int moved = ::open(file.path().c_str(), O_RDONLY);
    int closed = ::open(file.path().c_str(), O_RDONLY);
    int copy = ::dup(moved);
    VERIFY(away.leave());
    char bytes[4] = {};
    VERIFY(::read(moved, bytes, 3) == 3);
    VERIFY(::fcntl(moved, F_SETFD, FD_CLOEXEC) == 0);
    VERIFY(::close(closed) == 0);
    int opened = ::open(other.path().c_str(), O_RDWR | O_APPEND);
    VERIFY(opened == closed);
    VERIFY(::lseek(opened, 1, SEEK_SET) == 1);
    VERIFY(::dup2(opened, 50) == 50);
    VERIFY(::dup2(moved, 51) == 51);
    away.come_home();
    VERIFY(::lseek(moved, 0, SEEK_CUR) == 3 && ::lseek(copy, 0, SEEK_CUR) == 3);
    VERIFY(::lseek(51, 2, SEEK_CUR) == 5 && ::lseek(moved, 0, SEEK_CUR) == 5);
    VERIFY(::fcntl(moved, F_GETFD) == FD_CLOEXEC && ::fcntl(copy, F_GETFD) == 0);
    VERIFY(::read(opened, bytes, 1) == 1 && bytes[0] == 'b');
    VERIFY(::lseek(50, 0, SEEK_CUR) == 2);
    VERIFY((::fcntl(opened, F_GETFL) & (O_ACCMODE | O_APPEND)) == (O_RDWR | O_APPEND));
    // Nothing else is open.
    std::vector<int> expected = {0, 1, 2, 3, moved, opened, copy, 50, 51};
    std::sort(expected.begin(), expected.end());
    std::vector<int> open = kernel::list_fds(::getpid());
    for (int fd : open) {
      if (::fcntl(fd, F_GETFD) < 0) continue;  // that of the list itself
      VERIFY(std::find(expected.begin(), expected.end(), fd) != expected.end());
    }
    for (int fd : expected) VERIFY(::fcntl(fd, F_GETFD) >= 0);
  });
}

TEST(HomecomingFiles, KeepsItsStreamsAndRedirectsThem) {
  ScratchFile file;
  expect_comes_home([&](Away& away) {
    struct stat before {};
    VERIFY(::fstat(2, &before) == 0);
    VERIFY(away.leave());
    VERIFY(::dup2(2, 60) == 60);
    int fd = ::open(file.path().c_str(), O_WRONLY);
    away.come_home();
    struct stat after {};
    VERIFY(::fstat(60, &after) == 0 && after.st_ino == before.st_ino);
    VERIFY(::write(fd, "x", 1) == 1);
  });
}

TEST(HomecomingFiles, BringsDirectoryAndUmaskHome) {
  expect_comes_home([](Away& away) {
    ::umask(0123);
    VERIFY(::chdir("/tmp") == 0);
    VERIFY(away.leave());
    ::umask(0321);
    VERIFY(::chdir("/usr") == 0);
    away.come_home();
    char path[64];
    VERIFY(::getcwd(path, sizeof(path)) != nullptr && std::string(path) == "/usr");
    VERIFY(::umask(0) == 0321);
  });
}

std::atomic<int> g_alarms;
std::atomic<int> g_values;
void on_alarm(int) { ++g_alarms; }
void on_value(int, siginfo_t* info, void*) { g_values += info->si_value.sival_int; }

TEST(HomecomingSignals, BringsActionsMasksAndPendingSignalsHome) {
  expect_comes_home([](Away& away) {
    struct sigaction old_action {};
    old_action.sa_handler = &on_alarm;
    VERIFY(::sigaction(SIGUSR2, &old_action, nullptr) == 0);
    VERIFY(away.leave());
    struct sigaction action {};
    action.sa_sigaction = &on_value;
    action.sa_flags = SA_SIGINFO;
    VERIFY(::sigaction(SIGRTMIN, &action, nullptr) == 0);
    action = {};
    action.sa_handler = SIG_DFL;
    VERIFY(::sigaction(SIGUSR2, &action, nullptr) == 0);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN);
    VERIFY(::sigprocmask(SIG_BLOCK, &blocked, nullptr) == 0);
    VERIFY(::sigqueue(::getpid(), SIGRTMIN, {.sival_int = 3}) == 0);
    siginfo_t info{};
    info.si_code = SI_QUEUE;
    info.si_value.sival_int = 4;
    VERIFY(::syscall(SYS_rt_tgsigqueueinfo, ::getpid(), ::gettid(), SIGRTMIN, &info) == 0);
    static char stack[65536];
    stack_t alternate{stack, 0, sizeof(stack)};
    VERIFY(::sigaltstack(&alternate, nullptr) == 0);
    VERIFY(::prctl(PR_SET_NAME, "renamed") == 0);
    away.come_home();
    sigset_t now;
    VERIFY(::sigprocmask(SIG_SETMASK, nullptr, &now) == 0 && sigismember(&now, SIGRTMIN) == 1);
    VERIFY(g_values == 0);
    VERIFY(::sigprocmask(SIG_UNBLOCK, &blocked, nullptr) == 0);
    VERIFY(g_values == 7);
    VERIFY(::sigaction(SIGUSR2, nullptr, &action) == 0 && action.sa_handler == SIG_DFL);
    VERIFY(::sigaltstack(nullptr, &alternate) == 0 && alternate.ss_sp == stack);
    char name[16] = {};
    VERIFY(::prctl(PR_GET_NAME, name) == 0 && std::string(name) == "renamed");
  });
}

// What came for it here meanwhile, and was told to nobody, comes last.
TEST(HomecomingSignals, KeepsTheOrderOfQueuedOnes) {
  Journey journey([](Away& away) {
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN);
    VERIFY(::sigprocmask(SIG_BLOCK, &blocked, nullptr) == 0);
    VERIFY(away.leave());
    for (int value : {1, 2}) VERIFY(::sigqueue(::getpid(), SIGRTMIN, {.sival_int = value}) == 0);
    away.come_home();
    for (int value : {1, 2, 3, 4}) {
      siginfo_t info{};
      VERIFY(::sigwaitinfo(&blocked, &info) == SIGRTMIN);
      VERIFY(info.si_value.sival_int == value);
    }
  });
  journey.leave();
  for (int value : {3, 4}) {
    ASSERT_EQ(::sigqueue(journey.pid(), SIGRTMIN, {.sival_int = value}), 0);
  }
  journey.capture_guest();
  journey.come_home(Way::kFile);
  std::string said;
  EXPECT_EQ(journey.finish(&said), 0) << said;
}

TEST(HomecomingSignals, BringsTimersHome) {
  expect_comes_home([](Away& away) {
    struct sigaction action {};
    action.sa_handler = &on_alarm;
    VERIFY(::sigaction(SIGALRM, &action, nullptr) == 0);
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGALRM;
    timer_t kept = nullptr, deleted = nullptr, made = nullptr;
    VERIFY(::timer_create(CLOCK_MONOTONIC, &event, &kept) == 0);
    VERIFY(::timer_create(CLOCK_MONOTONIC, &event, &deleted) == 0);
    itimerspec hour{{0, 0}, {3600, 0}};
    itimerval long_one{{0, 0}, {7200, 0}};
    VERIFY(::timer_settime(deleted, 0, &hour, nullptr) == 0);
    VERIFY(::setitimer(ITIMER_REAL, &long_one, nullptr) == 0);
    VERIFY(away.leave());
    VERIFY(::timer_delete(deleted) == 0);
    VERIFY(::timer_settime(kept, 0, &hour, nullptr) == 0);
    event.sigev_signo = SIGUSR1;
    VERIFY(::timer_create(CLOCK_REALTIME, &event, &made) == 0);
    VERIFY(::timer_settime(made, 0, &hour, nullptr) == 0);
    away.come_home();
    itimerspec left{};
    VERIFY(::timer_gettime(kept, &left) == 0 && left.it_value.tv_sec > 3000);
    VERIFY(::timer_gettime(made, &left) == 0 && left.it_value.tv_sec > 3000);
    itimerval rest{};
    VERIFY(::getitimer(ITIMER_REAL, &rest) == 0 && rest.it_value.tv_sec > 7000);
    std::vector<kernel::PosixTimer> timers = kernel::read_timers(::getpid());
    VERIFY(timers.size() == 2);
  });
}

// Which name threads by ids: those of its own pid namespace.
TEST(HomecomingSignals, BringsTimersOfThreadsHome) {
  expect_comes_home([](Away& away) {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = ::gettid();
    timer_t kept = nullptr, made = nullptr, of_processor = nullptr, of_begun = nullptr;
    VERIFY(::timer_create(CLOCK_MONOTONIC, &event, &kept) == 0);
    VERIFY(away.leave());
    VERIFY(::timer_create(CLOCK_MONOTONIC, &event, &made) == 0);
    std::atomic<bool> go{false};
    std::atomic<pid_t> begun_tid{0};
    std::thread begun([&] {
      begun_tid = ::gettid();
      while (!go) std::this_thread::yield();
    });
    while (begun_tid == 0) std::this_thread::yield();
    clockid_t clock = 0;
    VERIFY(::pthread_getcpuclockid(begun.native_handle(), &clock) == 0);
    VERIFY(::timer_create(clock, nullptr, &of_processor) == 0);
    event._sigev_un._tid = begun_tid;
    VERIFY(::timer_create(CLOCK_MONOTONIC, &event, &of_begun) == 0);
    away.come_home();
    itimerspec left{};
    for (timer_t timer : {kept, made, of_processor, of_begun}) {
      VERIFY(::timer_gettime(timer, &left) == 0);
    }
    std::vector<kernel::PosixTimer> timers = kernel::read_timers(::getpid());
    VERIFY(timers.size() == 4);
    VERIFY(std::count_if(timers.begin(), timers.end(), [](const kernel::PosixTimer& timer) {
             return timer.to_thread && timer.target == ::gettid();
           }) == 2);
    go = true;
    begun.join();
  });
}

TEST(HomecomingSignals, StaysAwayWhereFewerSignalsMayBePending) {
  expect_stays_away(
      [](Away& away) {
        sigset_t set;
        ::sigemptyset(&set);
        ::sigaddset(&set, SIGRTMIN);
        VERIFY(::sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
        if (!away.leave()) ::_exit(0);
        for (int i = 0; i < 20; ++i) VERIFY(::sigqueue(::getpid(), SIGRTMIN, {}) == 0);
        away.come_home();
        ::_exit(1);
      },
      "limit sigpending",
      [](Journey& journey) {
        rlimit limit{10, 10};
        ASSERT_EQ(::prlimit(journey.pid(), RLIMIT_SIGPENDING, &limit, nullptr), 0);
      });
}

// What stands in the way, and the victim that does nothing but say so.
void come_back_old(Away& away) {
  char* at = map_private();
  if (!away.leave()) return;
  VERIFY(::mmap(nullptr, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
         MAP_FAILED);
  std::memset(at, 'n', kSize);
  VERIFY(::open("/dev/zero", O_RDONLY) >= 0);
  away.come_home();
  VERIFY(false);
}

TEST(HomecomingRefusal, NamesALackOfAddressSpace) {
  expect_stays_away(&come_back_old, "Cannot allocate memory", [](Journey& journey) {
    std::uint64_t used = 0;
    for (const kernel::Vma& vma : kernel::read_maps(journey.pid())) used += vma.size();
    rlimit limit{used + (32 << 20), RLIM_INFINITY};
    ASSERT_EQ(::prlimit(journey.pid(), RLIMIT_AS, &limit, nullptr), 0);
  });
}

TEST(HomecomingRefusal, NamesALackOfMappings) {
  Journey journey(&come_back_old);
  journey.leave();
  journey.capture_guest();
  restore::HomecomingSettings settings = journey.settings();
  settings.max_map_count = 20;
  std::uint64_t before = journey.checksum();
  try {
    journey.come_home(settings);
    ADD_FAILURE() << "it came home";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find("vm.max_map_count"), std::string::npos) << error.text();
    EXPECT_EQ(error.error(), ENOMEM);
  }
  EXPECT_EQ(journey.checksum(), before);
  journey.roll_back();
  std::string said;
  EXPECT_EQ(journey.finish(&said), 0) << said;
}

TEST(HomecomingRefusal, NamesALackOfDescriptors) {
  expect_stays_away(&come_back_old, "limit nofile", [](Journey& journey) {
    rlimit limit{4, 1024};
    ASSERT_EQ(::prlimit(journey.pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  });
}

TEST(HomecomingRefusal, NamesAFileThatIsNotHere) {
  ScratchFile file("there");
  expect_stays_away(
      [path = file.path()](Away& away) {
        UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        if (!away.leave()) return;
        VERIFY(::open(path.c_str(), O_RDONLY) >= 0);
        away.come_home();
        VERIFY(false);
      },
      "No such file", [&](Journey&) { ::unlink(file.path().c_str()); });
}

TEST(HomecomingRefusal, NamesAFileThatDoesNotTakeItsFlags) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  ScratchFile file("there");
  auto try_set_append_only = [&](bool on) {
    int flags = on ? FS_APPEND_FL : 0;
    UniqueFd attributes = open_file(file.path(), O_RDONLY);
    return ::ioctl(attributes.get(), FS_IOC_SETFLAGS, &flags) == 0;
  };
  if (!try_set_append_only(true)) GTEST_SKIP() << "needs: append_only";
  // A file that may only be appended to cannot change whether it is (fcntl(2)).
  expect_stays_away(
      [&](Away& away) {
        VERIFY(try_set_append_only(false));
        int fd = ::open(file.path().c_str(), O_WRONLY);
        int other = ::open(file.path().c_str(), O_RDONLY);
        if (away.leave()) {
          VERIFY(::fcntl(other, F_SETFL, O_NONBLOCK) == 0);
          VERIFY(::fcntl(fd, F_SETFL, O_APPEND) == 0);
          away.come_home();
          VERIFY(false);
        }
        VERIFY((::fcntl(fd, F_GETFL) & O_APPEND) == 0);
        VERIFY((::fcntl(other, F_GETFL) & O_NONBLOCK) == 0);
      },
      "have f set them as they were", [&](Journey&) { ASSERT_TRUE(try_set_append_only(true)); });
  ASSERT_TRUE(try_set_append_only(false));
}

TEST(HomecomingRefusal, NamesMemoryWhereTheStubLies) {
  expect_stays_away(
      [](Away& away) {
        if (!away.leave()) return;
        VERIFY(::mmap(reinterpret_cast<void*>(0x10000), kSize, PROT_READ,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
        away.come_home();
        VERIFY(false);
      },
      "telefork's own lies here");
}

TEST(HomecomingRefusal, NamesAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  expect_stays_away(
      [](Away& away) {
        if (!away.leave()) return;
        VERIFY(::setresuid(12345, 12345, 12345) == 0);
        VERIFY(::prctl(PR_SET_DUMPABLE, 1) == 0);
        away.come_home();
        VERIFY(false);
      },
      "(users 12345 12345 12345 12345, groups");
}

}  // namespace
}  // namespace telefork::migrate
