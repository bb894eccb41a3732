#include "kernel/write_watch.h"

#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"

namespace telefork::kernel {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::size_t kPages = 16;

UniqueFd make_userfaultfd() {
  return UniqueFd(static_cast<int>(::syscall(SYS_userfaultfd, WriteWatch::flags())));
}

// Memory of this very process, which watches itself.
class Watched : public ::testing::Test {
 protected:
  explicit Watched(int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1)
      : bytes_(static_cast<char*>(
            ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, flags, fd, 0))) {
    EXPECT_NE(bytes_, MAP_FAILED);
  }
  ~Watched() override { ::munmap(bytes_, kPages * kPageSize); }

  // False where this kernel cannot.
  bool begin() {
    try {
      watch_ = std::make_unique<WriteWatch>(::getpid(), PageMapAbi::kScan, make_userfaultfd());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kUnsupported);
      return false;
    }
    watch_->begin(vma());
    return true;
  }
  RemotePtr start() const { return RemotePtr(reinterpret_cast<std::uint64_t>(bytes_)); }
  char* page(std::size_t number) { return bytes_ + number * kPageSize; }
  PageRun run(std::size_t first, std::uint64_t pages) const {
    return {start() + first * kPageSize, pages};
  }
  Vma vma() const {
    Vma vma{};
    vma.start = start();
    vma.end = start() + kPages * kPageSize;
    vma.inode = inode_;
    return vma;
  }
  std::vector<PageRun> written() { return watch_->changes(vma()).written; }
  std::vector<PageRun> dropped() { return watch_->changes(vma()).dropped; }

  char* bytes_;
  std::uint64_t inode_ = 0;
  std::unique_ptr<WriteWatch> watch_;
};

#define BEGIN_OR_SKIP() \
  if (!begin()) GTEST_SKIP() << "needs: userfaultfd with WP_ASYNC (Linux 6.7)"

TEST_F(Watched, SeesNothingWhereNothingHappens) {
  std::memset(bytes_, 1, kPages * kPageSize);
  BEGIN_OR_SKIP();
  EXPECT_EQ(*page(3), 1);
  EXPECT_THAT(written(), IsEmpty());
  EXPECT_THAT(dropped(), IsEmpty());
}

TEST_F(Watched, SeesWritesOfTheProgramAndOfTheKernelForIt) {
  std::memset(bytes_, 1, kPages * kPageSize);
  BEGIN_OR_SKIP();
  *page(2) = 5;
  UniqueFd zero = open_file("/dev/zero", O_RDONLY);
  ASSERT_EQ(::read(zero.get(), page(7), 2 * kPageSize), static_cast<ssize_t>(2 * kPageSize));
  EXPECT_THAT(written(), ElementsAre(run(2, 1), run(7, 2)));
  EXPECT_THAT(dropped(), IsEmpty());
}

TEST_F(Watched, SeesFirstWrites) {
  BEGIN_OR_SKIP();
  *page(4) = 5;
  EXPECT_THAT(written(), ElementsAre(run(4, 1)));
  EXPECT_THAT(dropped(), IsEmpty());
}

TEST_F(Watched, SeesWhatLostItsContent) {
  std::memset(bytes_, 1, 8 * kPageSize);
  BEGIN_OR_SKIP();
  ASSERT_EQ(::madvise(page(1), 3 * kPageSize, MADV_DONTNEED), 0);
  ASSERT_EQ(::madvise(page(12), kPageSize, MADV_DONTNEED), 0);
  *page(2) = 7;
  EXPECT_THAT(written(), ElementsAre(run(2, 1)));
  EXPECT_THAT(dropped(), ElementsAre(run(1, 1), run(3, 1)));
}

TEST_F(Watched, CountsMemoryThatWasMappedLaterAsWritten) {
  std::memset(bytes_, 1, kPages * kPageSize);
  BEGIN_OR_SKIP();
  ASSERT_NE(::mmap(page(4), 2 * kPageSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
  *page(4) = 1;
  EXPECT_THAT(written(), ElementsAre(run(4, 1)));
  EXPECT_THAT(dropped(), ElementsAre(run(5, 1)));
}

class WatchedFile : public Watched {
 protected:
  WatchedFile() : Watched(MAP_PRIVATE, make_file().get()) { inode_ = 1; }
  static UniqueFd make_file() {
    UniqueFd file(::memfd_create("watched", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(file.get(), kPages * kPageSize), 0);
    return file;
  }
};

TEST_F(WatchedFile, SeesCopiesOfItsPagesAndThoseThatLostTheirs) {
  *page(1) = 1;
  *page(2) = 1;
  *page(5) = 1;
  BEGIN_OR_SKIP();
  *page(2) = 2;
  *page(3) = 3;
  volatile char read = *page(8);
  EXPECT_EQ(read, 0);
  ASSERT_EQ(::madvise(page(1), kPageSize, MADV_DONTNEED), 0);
  // On memory files as written, elsewhere as dropped: both say that it is not what it was.
  EXPECT_THAT(unite_runs(written(), dropped()), ElementsAre(run(1, 3)));
}

TEST(UniteRuns, HasAllOfBoth) {
  auto at = [](std::uint64_t page) { return RemotePtr(page * kPageSize); };
  EXPECT_THAT(unite_runs({{at(1), 2}, {at(8), 4}}, {{at(3), 1}, {at(9), 1}, {at(20), 1}}),
              ElementsAre(PageRun{at(1), 3}, PageRun{at(8), 4}, PageRun{at(20), 1}));
}

TEST(IntersectRuns, HasWhatIsInBoth) {
  auto at = [](std::uint64_t page) { return RemotePtr(page * kPageSize); };
  EXPECT_THAT(intersect_runs({{at(1), 4}, {at(10), 2}}, {{at(0), 2}, {at(4), 7}, {at(11), 9}}),
              ElementsAre(PageRun{at(1), 1}, PageRun{at(4), 1}, PageRun{at(10), 2}));
  EXPECT_THAT(intersect_runs({{at(1), 4}}, {}), IsEmpty());
}

TEST(SubtractRuns, LeavesWhatNoneOfTheOthersHas) {
  auto at = [](std::uint64_t page) { return RemotePtr(page * kPageSize); };
  std::vector<PageRun> runs = {{at(1), 4}, {at(8), 2}, {at(20), 5}};
  EXPECT_THAT(subtract_runs(runs, at(0), at(100), {}), testing::ElementsAreArray(runs));
  EXPECT_THAT(subtract_runs(runs, at(2), at(9), {}),
              ElementsAre(PageRun{at(2), 3}, PageRun{at(8), 1}));
  EXPECT_THAT(
      subtract_runs(runs, at(0), at(100), {{at(0), 3}, {at(8), 2}, {at(21), 1}, {at(24), 9}}),
      ElementsAre(PageRun{at(3), 2}, PageRun{at(20), 1}, PageRun{at(22), 2}));
  EXPECT_THAT(subtract_runs(runs, at(0), at(100), {{at(0), 100}}), IsEmpty());
}

}  // namespace
}  // namespace telefork::kernel
