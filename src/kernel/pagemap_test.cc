#include "kernel/pagemap.h"

#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/probe_tries.h"
#include "kernel/procfs_file.h"
#include "kernel/test_child.h"

namespace telefork::kernel {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

bool kernel_has(PageMapAbi abi) {
  if (abi == PageMapAbi::kEntries) return true;
  UniqueFd fd = open_file(pagemap_path(::getpid()), O_RDONLY);
  PageRegion region{};
  PagemapScanArg query{.size = sizeof query,
                       .vec = reinterpret_cast<std::uint64_t>(&region),
                       .vec_len = 1,
                       .return_mask = abi == PageMapAbi::kScan ? kPageIsFile : kPageIsGuard};
  return ::ioctl(fd.get(), kPagemapScan, &query) >= 0;
}

// Memory of the test, given to a forked child that changes it.
class Memory {
 public:
  Memory(std::uint64_t pages, int flags, int fd = -1)
      : size_(pages * kPageSize),
        data_(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, flags, fd, 0)) {
    ::madvise(data_, size_, MADV_NOHUGEPAGE);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::munmap(data_, size_); }

  volatile char* page(std::uint64_t n) const { return static_cast<char*>(data_) + n * kPageSize; }
  RemotePtr at(std::uint64_t n) const {
    return RemotePtr(reinterpret_cast<std::uint64_t>(data_)) + n * kPageSize;
  }
  RemotePtr end() const { return at(0) + size_; }
  PageRun run(std::uint64_t first, std::uint64_t pages) const { return {at(first), pages}; }

 private:
  std::uint64_t size_;
  void* data_;
};

UniqueFd temporary_file(std::uint64_t pages) {
  char name[] = "/tmp/telefork-pagemap-XXXXXX";
  UniqueFd fd(::mkostemp(name, O_CLOEXEC));
  ::unlink(name);
  std::string content(pages * kPageSize, 'f');
  EXPECT_EQ(::write(fd.get(), content.data(), content.size()),
            static_cast<ssize_t>(content.size()));
  return fd;
}

class EveryAbi : public testing::TestWithParam<PageMapAbi> {
 protected:
  void SetUp() override {
    if (!kernel_has(GetParam())) GTEST_SKIP() << "needs: pagemap_scan or pagemap_guards";
  }
  PageMap open(const TestChild& child) { return PageMap(child.pid(), GetParam()); }
};

std::string abi_name(const testing::TestParamInfo<PageMapAbi>& tested) {
  switch (tested.param) {
    case PageMapAbi::kEntries:
      return "Entries";
    case PageMapAbi::kScan:
      return "Scan";
    case PageMapAbi::kScanGuards:
      return "ScanGuards";
  }
  return "";
}

INSTANTIATE_TEST_SUITE_P(PageMap, EveryAbi,
                         testing::Values(PageMapAbi::kEntries, PageMapAbi::kScan,
                                         PageMapAbi::kScanGuards),
                         abi_name);

TEST_P(EveryAbi, FindsOnlyThePagesThatWereWritten) {
  Memory memory(20000, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  TestChild child([&] {
    for (int n : {0, 3, 4, 5, 9000, 19999}) *memory.page(n) = 1;
  });
  EXPECT_THAT(
      open(child).private_pages(memory.at(0), memory.end()),
      ElementsAre(memory.run(0, 1), memory.run(3, 3), memory.run(9000, 1), memory.run(19999, 1)));
}

TEST_P(EveryAbi, StaysWithinTheRange) {
  Memory memory(16, MAP_PRIVATE | MAP_ANONYMOUS);
  TestChild child([&] {
    for (int n = 0; n < 16; ++n) *memory.page(n) = 1;
  });
  EXPECT_THAT(open(child).private_pages(memory.at(2), memory.at(5)), ElementsAre(memory.run(2, 3)));
  EXPECT_THAT(open(child).private_pages(memory.at(5), memory.at(5)), IsEmpty());
}

TEST_P(EveryAbi, FindsMoreRunsThanOneCallReturns) {
  constexpr int kRuns = 3000;
  Memory memory(2 * kRuns, MAP_PRIVATE | MAP_ANONYMOUS);
  TestChild child([&] {
    for (int n = 0; n < kRuns; ++n) *memory.page(2 * n) = 1;
  });
  auto runs = open(child).private_pages(memory.at(0), memory.end());
  ASSERT_EQ(runs.size(), static_cast<std::size_t>(kRuns));
  EXPECT_EQ(count_pages(runs), static_cast<std::uint64_t>(kRuns));
  EXPECT_EQ(runs.back(), memory.run(2 * (kRuns - 1), 1));
}

TEST_P(EveryAbi, FindsOnlyTheDirtyPagesOfAPrivateFile) {
  UniqueFd file = temporary_file(16);
  Memory memory(16, MAP_PRIVATE, file.get());
  TestChild child([&] {
    for (int n = 0; n < 16; ++n) static_cast<void>(*memory.page(n));
    *memory.page(2) = 1;
    *memory.page(7) = 1;
  });
  EXPECT_THAT(open(child).private_pages(memory.at(0), memory.end()),
              ElementsAre(memory.run(2, 1), memory.run(7, 1)));
}

TEST_P(EveryAbi, NeverLosesAWrittenPageAmongPagesThatWereOnlyRead) {
  Memory memory(16, MAP_PRIVATE | MAP_ANONYMOUS);
  TestChild child([&] {
    for (int n = 0; n < 16; ++n) static_cast<void>(*memory.page(n));
    *memory.page(8) = 1;
  });
  auto runs = open(child).private_pages(memory.at(0), memory.end());
  bool found = false;
  for (const PageRun& run : runs) found |= run.start <= memory.at(8) && memory.at(8) < run.end();
  EXPECT_TRUE(found);
}

TEST_P(EveryAbi, FindsPagesInheritedFromTheParent) {
  Memory memory(4, MAP_PRIVATE | MAP_ANONYMOUS);
  *memory.page(1) = 1;
  TestChild child([] {});
  EXPECT_THAT(open(child).private_pages(memory.at(0), memory.end()), ElementsAre(memory.run(1, 1)));
}

TEST_P(EveryAbi, CountsAnUnmappedRangeAsUntouched) {
  Memory memory(8, MAP_PRIVATE | MAP_ANONYMOUS);
  TestChild child([&] {
    for (int n = 0; n < 8; ++n) *memory.page(n) = 1;
    ::munmap(const_cast<char*>(memory.page(2)), 3 * kPageSize);
  });
  EXPECT_THAT(open(child).private_pages(memory.at(0), memory.end()),
              ElementsAre(memory.run(0, 2), memory.run(5, 3)));
}

// kScan cannot: it is for kernels that have PAGEMAP_SCAN, but do not tell of guard pages.
TEST(PageMap, LeavesGuardPagesOut) {
  Memory memory(8, MAP_PRIVATE | MAP_ANONYMOUS);
  TestChild child([&] {
    for (int n = 0; n < 8; ++n) *memory.page(n) = 1;
    ::madvise(const_cast<char*>(memory.page(3)), kPageSize, kMadvGuardInstall);
  });
  PageMapAbi abi = PageMapAbi::kScanGuards;
  if (!kernel_has(abi)) GTEST_SKIP() << "needs: pagemap_guards";
  for (PageMapAbi each : {abi, PageMapAbi::kEntries})
    EXPECT_THAT(PageMap(child.pid(), each).private_pages(memory.at(0), memory.end()),
                ElementsAre(memory.run(0, 3), memory.run(4, 4)));
}

TEST(PageMap, FindsGuardPages) {
  Memory memory(8, MAP_PRIVATE | MAP_ANONYMOUS);
  TestChild child([&] {
    for (int n : {0, 3, 4}) *memory.page(n) = 1;
    ::madvise(const_cast<char*>(memory.page(3)), kPageSize, kMadvGuardInstall);
    ::madvise(const_cast<char*>(memory.page(6)), 2 * kPageSize, kMadvGuardInstall);
  });
  PageMapAbi abi = PageMapAbi::kScanGuards;
  if (!kernel_has(abi)) GTEST_SKIP() << "needs: pagemap_guards";
  for (PageMapAbi each : {abi, PageMapAbi::kEntries})
    EXPECT_THAT(PageMap(child.pid(), each).guard_pages(memory.at(0), memory.end()),
                ElementsAre(memory.run(3, 1), memory.run(6, 2)));
}

TEST(PageMap, OfAProcessThatHasEndedIsGone) {
  pid_t pid;
  {
    TestChild child([] {});
    pid = child.pid();
  }
  try {
    PageMap map(pid, PageMapAbi::kEntries);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kGone);
  }
}

const Vma vma_of(pid_t pid, RemotePtr at) {
  for (const Vma& vma : read_maps(pid))
    if (vma.start <= at && at < vma.end) return vma;
  return {};
}

TEST(SharedPages, AreFoundThoughAForkedChildNeverTouchedThem) {
  Memory memory(64, MAP_SHARED | MAP_ANONYMOUS);
  *memory.page(3) = 1;
  *memory.page(4) = 1;
  TestChild child([] {});
  auto runs = shared_pages(child.pid(), vma_of(child.pid(), memory.at(0)));
  // Without the right to open the file of a mapping, all of it.
  EXPECT_THAT(runs, ElementsAre(may_open_map_files() ? memory.run(3, 2) : memory.run(0, 64)));
}

TEST(SharedPages, OfAMemfdAreItsData) {
  UniqueFd memfd(::memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(memfd.get(), 32 * kPageSize), 0);
  ASSERT_EQ(::pwrite(memfd.get(), "x", 1, 10 * kPageSize + 5), 1);
  Vma vma;
  vma.start = RemotePtr(0x100000);
  vma.offset = 8 * kPageSize;
  vma.end = vma.start + 40 * kPageSize;
  EXPECT_THAT(shared_pages_of_file(memfd, vma), ElementsAre(PageRun{vma.start + 2 * kPageSize, 1}));
}

TEST(AppendRun, MergesNeighbours) {
  std::vector<PageRun> runs;
  append_run(runs, {RemotePtr(0x1000), 2});
  append_run(runs, {RemotePtr(0x3000), 1});
  append_run(runs, {RemotePtr(0x5000), 1});
  append_run(runs, {RemotePtr(0x6000), 0});
  EXPECT_THAT(runs, ElementsAre(PageRun{RemotePtr(0x1000), 3}, PageRun{RemotePtr(0x5000), 1}));
}

}  // namespace
}  // namespace telefork::kernel
