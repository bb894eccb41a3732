// Every kind of memory, with what it holds, how it may be used, and what it costs.
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_maps.h"
#include "migrate/round_trip.h"
#include "migrate/testing_memory.h"

namespace telefork::migrate {
namespace {

class RoundTripOfMemory : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

// Different bytes for every page and place.
void fill(char* start, std::size_t size, unsigned seed) {
  for (std::size_t i = 0; i < size; i += 8) {
    std::uint64_t word = (i + seed) * 0x9e3779b97f4a7c15u | 1;
    std::memcpy(start + i, &word, sizeof(word));
  }
}
bool is_filled(const char* start, std::size_t size, unsigned seed) {
  for (std::size_t i = 0; i < size; i += 8) {
    std::uint64_t word = (i + seed) * 0x9e3779b97f4a7c15u | 1;
    if (std::memcmp(start + i, &word, sizeof(word)) != 0) return false;
  }
  return true;
}
bool is_zero(const char* start, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    if (start[i] != 0) return false;
  }
  return true;
}

// Whether reading (or writing) there is a fault, and which.
sigjmp_buf g_after_fault;
int fault_at(char* address, bool write) {
  struct sigaction action {};
  struct sigaction old_segv {};
  struct sigaction old_bus {};
  action.sa_handler = [](int signal) { siglongjmp(g_after_fault, signal); };
  ::sigaction(SIGSEGV, &action, &old_segv);
  ::sigaction(SIGBUS, &action, &old_bus);
  int signal = sigsetjmp(g_after_fault, 1);
  if (signal == 0) {
    auto* at = static_cast<volatile char*>(address);
    char byte = *at;
    if (write) *at = byte;
  }
  ::sigaction(SIGSEGV, &old_segv, nullptr);
  ::sigaction(SIGBUS, &old_bus, nullptr);
  return signal;
}

TEST_F(RoundTripOfMemory, KeepsEveryProtection) {
  expect_survives([](Self& self) {
    struct Area {
      int protection;
      bool touched;
      char* at;
    };
    std::vector<Area> areas;
    // Where the processor has protection keys, what may only be executed may not be read.
    char* code = map(kPageSize, PROT_EXEC);
    bool executable_is_readable = fault_at(code, false) == 0;
    VERIFY(::munmap(code, kPageSize) == 0);
    for (int protection = 0; protection < 8; ++protection) {
      for (bool touched : {false, true}) {
        char* at = map(8 * kPageSize, touched ? PROT_READ | PROT_WRITE : protection);
        if (touched) {
          fill(at, 4 * kPageSize, static_cast<unsigned>(protection));
          VERIFY(::mprotect(at, 8 * kPageSize, protection) == 0);
        }
        areas.push_back({protection, touched, at});
      }
    }
    self.travel();
    for (const Area& area : areas) {
      // x86 and arm64: what may be written may be read.
      bool readable = area.protection == PROT_EXEC ? executable_is_readable : area.protection != 0;
      VERIFY(fault_at(area.at, false) == (readable ? 0 : SIGSEGV));
      if (readable) {
        VERIFY(fault_at(area.at, true) == ((area.protection & PROT_WRITE) != 0 ? 0 : SIGSEGV));
      }
      VERIFY(::mprotect(area.at, 8 * kPageSize, PROT_READ | PROT_WRITE) == 0);
      auto seed = static_cast<unsigned>(area.protection);
      if (area.touched) VERIFY(is_filled(area.at, 4 * kPageSize, seed));
      VERIFY(is_zero(area.at + 4 * kPageSize, 4 * kPageSize));
    }
  });
}

TEST_F(RoundTripOfMemory, KeepsGuardPagesMadeByMprotect) {
  expect_survives([](Self& self) {
    char* at = map(64 * kPageSize);
    fill(at, 64 * kPageSize, 1);
    for (std::size_t page = 0; page < 64; page += 8) {
      VERIFY(::mprotect(at + page * kPageSize, kPageSize, PROT_NONE) == 0);
    }
    self.travel();
    for (std::size_t page = 0; page < 64; ++page) {
      VERIFY(fault_at(at + page * kPageSize, false) == (page % 8 == 0 ? SIGSEGV : 0));
    }
    VERIFY(::mprotect(at, 64 * kPageSize, PROT_READ) == 0);
    VERIFY(is_filled(at, 64 * kPageSize, 1));
  });
}

TEST_F(RoundTripOfMemory, RunsCodeThatWasMadeAtRunTime) {
  expect_survives([](Self& self) {
    char* at = map(kPageSize);
    const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};  // mov $42, %eax; ret
    std::memcpy(at, code, sizeof(code));
    VERIFY(::mprotect(at, kPageSize, PROT_READ | PROT_EXEC) == 0);
    self.travel();
    VERIFY(reinterpret_cast<int (*)()>(at)() == 42);
  });
}

TEST_F(RoundTripOfMemory, LeavesSparseMemorySparse) {
  constexpr std::size_t kSize = std::size_t{1} << 30;
  TripReport report = expect_survives([](Self& self) {
    char* at = map(kSize);
    for (std::size_t offset : {std::size_t{0}, kSize / 2, kSize - kPageSize}) {
      fill(at + offset, kPageSize, 3);
    }
    VERIFY(vma_at(at).anonymous_kb == 12);
    self.travel();
    VERIFY(vma_at(at).anonymous_kb == 12);
    for (std::size_t offset : {std::size_t{0}, kSize / 2, kSize - kPageSize}) {
      VERIFY(is_filled(at + offset, kPageSize, 3));
    }
    VERIFY(at[kSize / 4] == 0);
  });
  EXPECT_LT(report.image_bytes, 32u << 20);
}

TEST_F(RoundTripOfMemory, DoesNotSendZeroPages) {
  constexpr std::size_t kPages = 4000;
  TripReport report = expect_survives([](Self& self) {
    char* at = map(kPages * kPageSize);
    std::memset(at, 1, kPages * kPageSize);
    std::memset(at, 0, kPages * kPageSize);
    at[7 * kPageSize + 5] = 'x';
    at[3000 * kPageSize + 4095] = 'y';
    if (self.travel()) VERIFY(vma_at(at).anonymous_kb == 8);
    for (std::size_t i = 0; i < kPages * kPageSize; ++i) {
      char expected = i == 7 * kPageSize + 5 ? 'x' : i == 3000 * kPageSize + 4095 ? 'y' : '\0';
      VERIFY(at[i] == expected);
    }
  });
  EXPECT_GE(report.memory.pages_read - report.memory.pages_sent, kPages - 2);
}

TEST_F(RoundTripOfMemory, CarriesWhatIsScattered) {
  expect_survives([](Self& self) {
    constexpr std::size_t kPages = 20'000;
    char* at = map(kPages * kPageSize);
    for (std::size_t page = 0; page < kPages; page += 3) {
      fill(at + page * kPageSize, kPageSize, static_cast<unsigned>(page));
    }
    self.travel();
    for (std::size_t page = 0; page < kPages; ++page) {
      char* here = at + page * kPageSize;
      VERIFY(page % 3 == 0 ? is_filled(here, kPageSize, static_cast<unsigned>(page))
                           : is_zero(here, kPageSize));
    }
  });
}

std::uint64_t huge_kb(const void* address) {
  RemotePtr wanted(reinterpret_cast<std::uint64_t>(address));
  FILE* file = ::fopen("/proc/self/smaps", "re");
  VERIFY(file != nullptr);
  char line[512];
  bool here = false;
  std::uint64_t found = 0;
  while (::fgets(line, sizeof(line), file) != nullptr) {
    unsigned long start = 0;
    unsigned long end = 0;
    if (::sscanf(line, "%lx-%lx ", &start, &end) == 2) {
      here = start <= wanted.value() && wanted.value() < end;
    }
    unsigned long kb = 0;
    if (here && ::sscanf(line, "AnonHugePages: %lu kB", &kb) == 1) found = kb;
  }
  ::fclose(file);
  return found;
}

TEST_F(RoundTripOfMemory, CarriesHugePagesAsHugePages) {
  if (::access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) != 0) {
    GTEST_SKIP() << "needs: transparent huge pages";
  }
  for (bool moves : {true, false}) {
    SCOPED_TRACE(moves ? "moved into place" : "collapsed in place");
    TripOptions options;
    options.settings = [=](restore::RestoreSettings& settings) { settings.moves_pages = moves; };
    expect_survives(
        [](Self& self) {
          constexpr std::size_t kSize = 16 << 20;
          char* at = map(kSize);
          char* plain = map(kSize);
          VERIFY(::madvise(at, kSize, MADV_HUGEPAGE) == 0);
          fill(at, kSize, 5);
          fill(plain, kSize, 6);
          std::uint64_t before = huge_kb(at);
          VERIFY(before > 0);
          const bool travelled = self.travel();
          VERIFY(is_filled(at, kSize, 5) && is_filled(plain, kSize, 6));
          VERIFY(huge_kb(at) >= before && (!travelled || huge_kb(plain) > 0));
          VERIFY(!vma_at(plain).has(kernel::VmFlag::kHugePage));
          // One VMA in every respect: the program may move and grow it.
          void* moved = ::mremap(at, kSize, 2 * kSize, MREMAP_MAYMOVE);
          VERIFY(moved != MAP_FAILED);
          VERIFY(is_filled(static_cast<char*>(moved), kSize, 5));
        },
        options);
  }
}

TEST_F(RoundTripOfMemory, MakesNoHugePagesForAProcessThatWantsNone) {
  for (bool moves : {true, false}) {
    SCOPED_TRACE(moves);
    TripOptions options;
    options.settings = [=](restore::RestoreSettings& settings) { settings.moves_pages = moves; };
    expect_survives(
        [](Self& self) {
          constexpr std::size_t kSize = 16 << 20;
          VERIFY(::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
          char* at = map(kSize);
          char* plain = map(kSize);
          VERIFY(::madvise(at, kSize, MADV_HUGEPAGE) == 0);
          fill(at, kSize, 5);
          fill(plain, kSize, 6);
          self.travel();
          VERIFY(is_filled(at, kSize, 5) && is_filled(plain, kSize, 6));
          VERIFY(huge_kb(at) == 0 && huge_kb(plain) == 0);
          VERIFY(::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
        },
        options);
  }
}

TEST_F(RoundTripOfMemory, KeepsWhatMadviseSaid) {
  expect_survives([](Self& self) {
    std::vector<char*> areas;
    for (int advice : {MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_HUGEPAGE,
                       MADV_NOHUGEPAGE, MADV_SEQUENTIAL, MADV_RANDOM, MADV_MERGEABLE}) {
      for (bool touched : {false, true}) {
        char* at = map(16 * kPageSize);
        if (touched) fill(at, 4 * kPageSize, 1);
        VERIFY(::madvise(at, 16 * kPageSize, advice) == 0 || advice == MADV_MERGEABLE);
        // So that no two of them are one.
        map(kPageSize, PROT_NONE);
        areas.push_back(at);
      }
    }
    std::vector<std::uint64_t> before;
    for (char* at : areas) before.push_back(vma_at(at).flags);
    self.travel();
    for (std::size_t i = 0; i < areas.size(); ++i) VERIFY(vma_at(areas[i]).flags == before[i]);
    pid_t child = ::fork();
    if (child == 0) {
      // DONTFORK, touched: not there. WIPEONFORK, touched: zeros.
      if (fault_at(areas[1], false) != SIGSEGV) ::_exit(1);
      if (!is_zero(areas[5], 16 * kPageSize)) ::_exit(2);
      ::_exit(0);
    }
    int status = -1;
    VERIFY(::waitpid(child, &status, 0) == child && status == 0);
    VERIFY(is_filled(areas[1], 4 * kPageSize, 1) && is_filled(areas[5], 4 * kPageSize, 1));
  });
}

TEST_F(RoundTripOfMemory, KeepsMemoryLocked) {
  TripReport report = expect_survives([](Self& self) {
    char* locked = map(8 * kPageSize);
    char* later = map(8 * kPageSize);
    char* unlocked = map(8 * kPageSize);
    VERIFY(::mlock(locked, 8 * kPageSize) == 0);
    VERIFY(::mlock2(later, 8 * kPageSize, MLOCK_ONFAULT) == 0);
    VERIFY(::mlock(unlocked, 8 * kPageSize) == 0);
    VERIFY(::munlock(unlocked, 8 * kPageSize) == 0);
    fill(locked, kPageSize, 2);
    fill(later, kPageSize, 3);
    char* none = map(8 * kPageSize, PROT_NONE);
    // It is locked by then.
    VERIFY(::mlock(none, 8 * kPageSize) != 0 && errno == ENOMEM);
    self.travel();
    VERIFY(vma_at(locked).has(kernel::VmFlag::kLocked));
    VERIFY(vma_at(none).has(kernel::VmFlag::kLocked));
    VERIFY(!vma_at(none).has(kernel::VmFlag::kLockOnFault));
    VERIFY(vma_at(locked).locked_kb == 32);
    VERIFY(vma_at(later).has(kernel::VmFlag::kLockOnFault));
    VERIFY(vma_at(later).rss_kb == 4);
    VERIFY(!vma_at(unlocked).has(kernel::VmFlag::kLocked));
    VERIFY(is_filled(locked, kPageSize, 2) && is_filled(later, kPageSize, 3));
  });
  EXPECT_TRUE(report.warnings.empty());
}

TEST_F(RoundTripOfMemory, KeepsMemoryWithoutReserve) {
  expect_survives([](Self& self) {
    char* huge = map(std::size_t{1} << 40, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    fill(huge + (std::size_t{1} << 39), kPageSize, 8);
    self.travel();
    VERIFY(is_filled(huge + (std::size_t{1} << 39), kPageSize, 8));
    VERIFY(vma_at(huge).has(kernel::VmFlag::kNoReserve));
    VERIFY(vma_at(huge).rss_kb == 4);
  });
}

[[gnu::noinline]] void use_stack(std::size_t size) {
  auto* block = static_cast<volatile char*>(__builtin_alloca(size));
  for (std::size_t at = size; at > 0; at -= 1024) block[at - 1] = 's';
}

TEST_F(RoundTripOfMemory, LetsTheStackGrow) {
  expect_survives([](Self& self) {
    std::uint64_t before = vma_at(__builtin_frame_address(0)).size();
    self.travel();
    use_stack(4 << 20);
    VERIFY(vma_at(__builtin_frame_address(0)).size() > before);
    VERIFY(vma_at(__builtin_frame_address(0)).is_stack());
  });
}

TEST_F(RoundTripOfMemory, LetsOtherMemoryGrowDown) {
  expect_survives([](Self& self) {
    char* room = map(64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    VERIFY(::munmap(room, 64 << 20) == 0);
    char* start = room + (32 << 20);
    void* at = ::mmap(start, 16 * kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    VERIFY(at == start);
    fill(start, 16 * kPageSize, 4);
    start[-1] = 1;
    self.travel();
    VERIFY(is_filled(start, 16 * kPageSize, 4));
    VERIFY(start[-1] == 1);
    start[-5 * static_cast<std::ptrdiff_t>(kPageSize)] = 2;
    VERIFY(vma_at(start - 5 * kPageSize).has(kernel::VmFlag::kGrowsDown));
    VERIFY(vma_at(start - 5 * kPageSize).end == vma_at(start).end);
  });
}

TEST_F(RoundTripOfMemory, GoesOnWithItsHeap) {
  expect_survives([](Self& self) {
    char* old_end = static_cast<char*>(::sbrk(100'000));
    VERIFY(old_end != reinterpret_cast<char*>(-1));
    std::memset(old_end, 7, 100'000);
    char* end = static_cast<char*>(::sbrk(0));
    self.travel();
    VERIFY(::sbrk(0) == end);
    VERIFY(old_end[0] == 7 && old_end[99'999] == 7);
    VERIFY(::sbrk(1 << 20) == end);
    VERIFY(is_zero(end, 1 << 20));
    std::memset(end, 9, 1 << 20);
    VERIFY(::brk(old_end) == 0);
    VERIFY(::sbrk(0) == old_end);
    VERIFY(::sbrk(1 << 20) == old_end);
    // From here on malloc(3) may move the break, too.
    VERIFY(vma_at(old_end + kPageSize).is_heap());
    std::vector<int> numbers(1'000'000, 3);
    VERIFY(numbers.back() == 3);
  });
}

TEST_F(RoundTripOfMemory, KeepsDirtyPagesOfPrivateFileMappings) {
  std::string content(16 * kPageSize, 'f');
  for (std::size_t page = 0; page < 16; ++page) content[page * kPageSize] = static_cast<char>(page);
  ScratchFile file(content);
  TripReport report = expect_survives([&](Self& self) {
    int fd = ::open(file.path().c_str(), O_RDONLY);
    char* at = map(15 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, kPageSize);
    ::close(fd);
    std::memset(at + 3 * kPageSize, 'd', kPageSize);
    std::memset(at + 5 * kPageSize, 0,
                kPageSize);  // a page of zeros where the file has something else
    self.travel();
    for (std::size_t page = 0; page < 15; ++page) {
      char* here = at + page * kPageSize;
      char expected = page == 3 ? 'd' : page == 5 ? '\0' : 'f';
      VERIFY(here[1] == expected && here[4095] == expected);
      if (expected == 'f') VERIFY(here[0] == static_cast<char>(page + 1));
    }
    VERIFY(vma_at(at).anonymous_kb == 8);
    at[0] = 'x';
  });
  EXPECT_EQ(file.read(), content);
}

TEST_F(RoundTripOfMemory, KeepsMappingsBeyondTheEndOfTheirFile) {
  ScratchFile file(std::string(kPageSize + kPageSize / 2, 'f'));
  expect_survives([&](Self& self) {
    int fd = ::open(file.path().c_str(), O_RDONLY);
    char* at = map(4 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    ::close(fd);
    at[kPageSize + 1] = 'd';
    self.travel();
    VERIFY(at[0] == 'f' && at[kPageSize] == 'f' && at[kPageSize + 1] == 'd');
    VERIFY(at[kPageSize + kPageSize / 2] == 0);
    VERIFY(fault_at(at + 2 * kPageSize, false) == SIGBUS);
  });
}

TEST_F(RoundTripOfMemory, WritesToFilesThroughSharedMappings) {
  ScratchFile file(std::string(4 * kPageSize, 'f'));
  expect_survives([&](Self& self) {
    int fd = ::open(file.path().c_str(), O_RDWR);
    char* at = map(4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char* read_only = map(4 * kPageSize, PROT_READ, MAP_SHARED, fd, 0);
    ::close(fd);
    at[5] = '5';
    self.travel();
    at[6] = '6';
    VERIFY(read_only[5] == '5' && read_only[6] == '6');
    VERIFY(::mprotect(read_only, kPageSize, PROT_READ | PROT_WRITE) == 0);
  });
  EXPECT_EQ(file.read().substr(4, 4), "f56f");
}

TEST_F(RoundTripOfMemory, DoesNotWriteThroughAReadOnlySharedMapping) {
  ScratchFile file(std::string(4 * kPageSize, 'f'));
  expect_survives([&](Self& self) {
    int fd = ::open(file.path().c_str(), O_RDONLY);
    char* at = map(4 * kPageSize, PROT_READ, MAP_SHARED, fd, 0);
    ::close(fd);
    self.travel();
    VERIFY(at[3 * kPageSize] == 'f');
    VERIFY(::mprotect(at, kPageSize, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
  });
}

TEST_F(RoundTripOfMemory, KeepsSharedAnonymousMemory) {
  expect_survives([](Self& self) {
    char* at = map(1000 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    fill(at + 10 * kPageSize, kPageSize, 1);
    fill(at + 999 * kPageSize, kPageSize, 2);
    self.travel();
    VERIFY(vma_at(at).rss_kb <= 16);
    VERIFY(is_filled(at + 10 * kPageSize, kPageSize, 1) &&
           is_filled(at + 999 * kPageSize, kPageSize, 2));
    VERIFY(is_zero(at, 10 * kPageSize));
    // It is shared memory still: a child's writes are seen.
    pid_t child = ::fork();
    if (child == 0) {
      at[0] = 'c';
      ::_exit(0);
    }
    VERIFY(::waitpid(child, nullptr, 0) == child);
    VERIFY(at[0] == 'c');
  });
}

TEST_F(RoundTripOfMemory, KeepsAliasesOfSharedMemoryAliases) {
  expect_survives([](Self& self) {
    char* whole = map(16 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    char* other = map(16 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    fill(whole, 16 * kPageSize, 1);
    void* part = ::mremap(whole + 4 * kPageSize, 0, 8 * kPageSize, MREMAP_MAYMOVE);
    void* read_only = ::mremap(whole, 0, 16 * kPageSize, MREMAP_MAYMOVE);
    VERIFY(part != MAP_FAILED && read_only != MAP_FAILED);
    VERIFY(::mprotect(read_only, 16 * kPageSize, PROT_READ) == 0);
    // What only the alias maps is there as well.
    VERIFY(::munmap(whole + 5 * kPageSize, kPageSize) == 0);
    auto* alias = static_cast<char*>(part);
    auto* constant = static_cast<char*>(read_only);
    self.travel();
    VERIFY(is_filled(constant, 16 * kPageSize, 1));
    VERIFY(is_filled(alias + kPageSize, 7 * kPageSize, 1 + 5 * kPageSize));
    alias[0] = 'a';
    whole[15 * kPageSize] = 'w';
    alias[kPageSize] = 'h';
    VERIFY(whole[4 * kPageSize] == 'a' && constant[4 * kPageSize] == 'a');
    VERIFY(constant[15 * kPageSize] == 'w' && constant[5 * kPageSize] == 'h');
    VERIFY(is_zero(other, 16 * kPageSize));
    VERIFY(fault_at(constant, true) == SIGSEGV);
  });
}

TEST_F(RoundTripOfMemory, CopiesMemoryThatOthersShareOnlyWhenAsked) {
  auto* shared = static_cast<char*>(
      ::mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(shared, MAP_FAILED);
  std::strcpy(shared, "both");
  auto victim = [&](Self& self) {
    bool moved = self.travel();
    VERIFY(std::strcmp(shared, "both") == 0);
    if (moved) std::strcpy(shared, "mine");
  };
  TripOptions options;
  {
    Traveller refused(victim);
    try {
      refused.save(options);
      ADD_FAILURE() << "was not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kRefused);
      EXPECT_NE(error.text().find("memory shared with processes that stay"), std::string::npos)
          << error.text();
    }
  }
  options.survey.copy_shared = true;
  expect_survives(victim, options);
  EXPECT_STREQ(shared, "both");
  ::munmap(shared, 4 * kPageSize);
}

// A segment whose inode, which is its id, is that of other memory, and one whose id is 0.
TEST_F(RoundTripOfMemory, TellsSystemVMemoryFromOtherMemory) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root, to choose the id";
  auto attach = [](std::uint64_t wanted) {
    std::ofstream("/proc/sys/kernel/shm_next_id") << wanted;
    const int id = ::shmget(IPC_PRIVATE, kPageSize, 0600);
    void* at = ::shmat(id, nullptr, 0);
    ::shmctl(id, IPC_RMID, nullptr);
    return static_cast<char*>(at);
  };
  TripOptions options;
  options.survey.copy_shared = true;
  options.compare = false;  // a copy is no System V memory any more
  auto victim = [&](Self& self) {
    auto* anonymous = static_cast<char*>(
        ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    VERIFY(anonymous != MAP_FAILED);
    const auto start = reinterpret_cast<std::uint64_t>(anonymous);
    std::uint64_t inode = 0;
    for (const kernel::Vma& vma : kernel::read_maps(::getpid())) {
      if (vma.start.value() == start) inode = vma.inode;
    }
    char* like_it = attach(inode);
    char* first = attach(0);
    fill(anonymous, kPageSize, 1);
    fill(like_it, kPageSize, 2);
    fill(first, kPageSize, 3);
    self.travel();
    VERIFY(is_filled(anonymous, kPageSize, 1));
    VERIFY(is_filled(like_it, kPageSize, 2));
    VERIFY(is_filled(first, kPageSize, 3));
  };
  expect_survives(victim, options);
}

TEST_F(RoundTripOfMemory, CarriesManyMappings) {
  expect_survives([](Self& self) {
    constexpr std::size_t kAreas = 5000;
    char* at = map(2 * kAreas * kPageSize);
    for (std::size_t i = 0; i < kAreas; ++i) {
      VERIFY(::mprotect(at + 2 * i * kPageSize, kPageSize, PROT_READ) == 0);
      if (i % 5 == 0) at[(2 * i + 1) * kPageSize] = static_cast<char>(i % 100 + 1);
    }
    self.travel();
    for (std::size_t i = 0; i < kAreas; ++i) {
      char expected = i % 5 == 0 ? static_cast<char>(i % 100 + 1) : '\0';
      VERIFY(at[(2 * i + 1) * kPageSize] == expected);
      VERIFY(at[2 * i * kPageSize] == 0);
    }
  });
}

// Right below and above what the blank process and the stub could lie on.
TEST_F(RoundTripOfMemory, KeepsMemoryWhereTheBlankProcessLies) {
  expect_survives([](Self& self) {
    std::vector<char*> areas;
    for (std::uint64_t address : {0x10000ul, 0x60000000000ul, 0x5fffffff000ul, 0x10000000000ul,
                                  0x10000200000ul, 0x400000ul, 0x7ffff0000000ul}) {
      void* at = ::mmap(reinterpret_cast<void*>(address), 16 * kPageSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      if (at == MAP_FAILED) continue;
      areas.push_back(static_cast<char*>(at));
      fill(areas.back(), 16 * kPageSize, static_cast<unsigned>(address >> 12));
    }
    VERIFY(areas.size() >= 5);
    self.travel();
    for (char* at : areas) {
      auto address = reinterpret_cast<std::uint64_t>(at);
      VERIFY(is_filled(at, 16 * kPageSize, static_cast<unsigned>(address >> 12)));
    }
  });
}

bool install_guard(char* at, std::size_t size) {
  return ::madvise(at, size, kernel::kMadvGuardInstall) == 0;
}

TEST_F(RoundTripOfMemory, KeepsGuardRegions) {
  char* probe = map(kPageSize);
  bool has_guards = install_guard(probe, kPageSize);
  ::munmap(probe, kPageSize);
  if (!has_guards) GTEST_SKIP() << "needs: guard_pages";
  expect_survives([](Self& self) {
    char* touched = map(64 * kPageSize);
    char* untouched = map(64 * kPageSize);
    char* whole = map(4 * kPageSize);
    char* shared = map(8 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    fill(touched, 64 * kPageSize, 9);
    fill(shared, 8 * kPageSize, 9);
    for (char* at : {touched, untouched}) {
      VERIFY(install_guard(at, kPageSize));
      VERIFY(install_guard(at + 20 * kPageSize, 3 * kPageSize));
      VERIFY(install_guard(at + 63 * kPageSize, kPageSize));
    }
    VERIFY(install_guard(whole, 4 * kPageSize));
    VERIFY(install_guard(shared + kPageSize, kPageSize));
    VERIFY(::mprotect(untouched, 64 * kPageSize, PROT_READ) == 0);
    self.travel();
    for (std::size_t page = 0; page < 64; ++page) {
      bool guarded = page == 0 || page == 63 || (page >= 20 && page < 23);
      VERIFY(fault_at(touched + page * kPageSize, false) == (guarded ? SIGSEGV : 0));
      VERIFY(fault_at(untouched + page * kPageSize, false) == (guarded ? SIGSEGV : 0));
      if (!guarded) {
        VERIFY(is_filled(touched + page * kPageSize, kPageSize,
                         9 + static_cast<unsigned>(page * kPageSize)));
      }
    }
    for (std::size_t page = 0; page < 4; ++page) {
      VERIFY(fault_at(whole + page * kPageSize, false) == SIGSEGV);
    }
    VERIFY(fault_at(shared + kPageSize, false) == SIGSEGV);
    VERIFY(is_filled(shared, kPageSize, 9));
    VERIFY(::madvise(shared + kPageSize, kPageSize, kernel::kMadvGuardRemove) == 0);
    VERIFY(is_filled(shared, 8 * kPageSize, 9));
    VERIFY(::madvise(touched, kPageSize, kernel::kMadvGuardRemove) == 0);
    VERIFY(is_zero(touched, kPageSize));
  });
}

}  // namespace
}  // namespace telefork::migrate
