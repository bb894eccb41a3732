#include "tracee/map_flags.h"

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/remote_ptr.h"
#include "kernel/procfs_task.h"
#include "tracee/freezer.h"
#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

using kernel::Vma;
using kernel::VmFlag;

constexpr std::size_t kMega = 1024 * 1024;
// What the kernel keeps for itself, or writes when it likes.
constexpr auto kPassedOver = static_cast<std::uint64_t>(VmFlag::kSoftDirty);

char* map(std::size_t size, int flags = 0) {
  void* memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (memory == MAP_FAILED) ::_exit(90);
  std::memset(memory, 1, size);
  return static_cast<char*>(memory);
}

void advise(char* memory, std::size_t size, int advice) {
  if (::madvise(memory, size, advice) != 0) ::_exit(91);
}

// Mappings of all kinds, some of them next to others that differ in one flag.
void map_all_kinds() {
  constexpr long kMseal = 462;  // Linux 6.10; elsewhere it is a mapping as the others
  char* wiped = map(4 * kMega);
  advise(wiped + kMega, kMega, MADV_WIPEONFORK);
  char* told = map(4 * kMega, MAP_NORESERVE);
  advise(told, kMega, MADV_DONTDUMP);
  advise(told + kMega, kMega, MADV_HUGEPAGE);
  advise(told + 2 * kMega, kMega, MADV_NOHUGEPAGE);
  char* read_only = map(kMega);
  ::mprotect(read_only, kMega, PROT_READ);
  map(16 * kPageSize, MAP_GROWSDOWN);
  char* sealed = map(kMega);
  ::syscall(kMseal, sealed, kMega, 0);
}

std::vector<std::string> lines(const std::vector<Vma>& map) {
  std::vector<std::string> all;
  for (const Vma& vma : map) {
    all.push_back(fmt::format("{:x}-{:x} {} flags {:x} {} key {} pages {}", vma.start.value(),
                              vma.end.value(), vma.path, vma.flags & ~kPassedOver,
                              fmt::join(vma.unknown_flags, " "), vma.protection_key,
                              vma.kernel_page_kb));
  }
  return all;
}

void expect_same_map(const std::function<void()>& prepare) {
  Victim victim([&prepare](int stop_fd, int ready_fd) {
    prepare();
    if (::write(ready_fd, "", 1) != 1) return 9;
    char byte;
    return ::read(stop_fd, &byte, 1) == 1 ? 0 : 1;
  });
  FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
  const std::vector<std::string> before = lines(kernel::read_smaps(victim.pid()));
  std::vector<Vma> map = kernel::read_maps(victim.pid());
  Stub stub(frozen.leader(), victim.pid(), {});
  read_flags(stub, map);
  EXPECT_EQ(lines(map), before);
  EXPECT_TRUE(kernel::list_children(victim.pid()).empty());
  EXPECT_FALSE(stub.has_farewell());
}

TEST(MapFlags, AreThoseOfSmaps) { expect_same_map(map_all_kinds); }

// As a program is that runs on, whatever it had asked for itself.
TEST(MapFlags, LeaveNothingInOneThatRunsOn) {
  for (const bool locked : {false, true}) {
    Victim victim([locked](int stop_fd, int ready_fd) {
      map_all_kinds();
      map(64 * kMega);
      if (locked && ::mlock(map(kMega), kMega) != 0) return 92;
      if (::write(ready_fd, "", 1) != 1) return 9;
      char byte;
      return ::read(stop_fd, &byte, 1) == 1 ? 0 : 1;
    });
    FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
    const std::vector<Vma> smaps = kernel::read_smaps(victim.pid());
    for (const std::vector<Vma>& before : {smaps, std::vector<Vma>()}) {
      std::vector<Vma> map = kernel::read_maps(victim.pid());
      Stub stub(frozen.leader(), victim.pid(), {});
      read_flags_of_running(stub, before, map);
      EXPECT_EQ(lines(map), lines(smaps));
      EXPECT_TRUE(kernel::list_children(victim.pid()).empty());
      EXPECT_FALSE(stub.has_farewell());
      stub.remove();
      EXPECT_EQ(lines(kernel::read_smaps(victim.pid())), lines(smaps));
    }
  }
}

TEST(MapFlags, AreReadFromSmapsWhereACloneWouldNotHaveAll) {
  expect_same_map([] {
    map_all_kinds();
    char* left_out = map(4 * kMega);
    advise(left_out + kMega, kMega, MADV_DONTFORK);
  });
  expect_same_map([] {
    map_all_kinds();
    if (::mlock(map(kMega), kMega) != 0) ::_exit(92);
  });
}

TEST(MapFlags, LeaveThePagesOfLargeMappingsBehind) {
  Victim victim([](int stop_fd, int ready_fd) {
    map(64 * kMega);
    if (::write(ready_fd, "", 1) != 1) return 9;
    char byte;
    return ::read(stop_fd, &byte, 1) == 1 ? 0 : 1;
  });
  FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
  std::vector<Vma> map = kernel::read_maps(victim.pid());
  Stub stub(frozen.leader(), victim.pid(), {});
  const auto wiped = [](const std::vector<Vma>& of) {
    std::uint64_t bytes = 0;
    for (const Vma& vma : of) bytes += vma.has(VmFlag::kWipeOnFork) ? vma.size() : 0;
    return bytes;
  };
  read_flags(stub, map);
  EXPECT_EQ(wiped(map), 0u);
  EXPECT_GE(wiped(kernel::read_smaps(victim.pid())), 63 * kMega);
}

}  // namespace
}  // namespace telefork::tracee
