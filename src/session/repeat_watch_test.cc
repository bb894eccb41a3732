#include "session/repeat_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/testing_error.h"
#include "kernel/probe.h"

namespace telefork::session {
namespace {

using kernel::PageRun;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::size_t kPages = 2 * kernel::kLeastWatched / kPageSize;

// Memory of this very process, which watches itself.
class ARepeatWatch : public ::testing::Test {
 protected:
  void SetUp() override {
    abi_ = kernel::pagemap_abi(kernel::probe_features());
    if (abi_ == kernel::PageMapAbi::kEntries) GTEST_SKIP() << "needs: Linux 6.7";
    void* memory = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    bytes_ = static_cast<char*>(memory);
    for (std::size_t i = 0; i < kPages; ++i) touch(i);
    UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, kernel::WriteWatch::flags())));
    ASSERT_TRUE(fd);
    watch_.emplace(::getpid(), abi_, std::move(fd));
  }
  void TearDown() override {
    if (bytes_ != nullptr) ::munmap(bytes_, kPages * kPageSize);
  }

  void touch(std::size_t page) { ++bytes_[page * kPageSize]; }
  RemotePtr start() const { return RemotePtr(reinterpret_cast<std::uint64_t>(bytes_)); }
  PageRun run(std::size_t first, std::uint64_t pages) const {
    return {start() + first * kPageSize, pages};
  }
  std::vector<kernel::Vma> map() const {
    kernel::Vma vma;
    vma.start = start();
    vma.end = start() + kPages * kPageSize;
    vma.read = vma.write = true;
    return {vma};
  }
  void remember() {
    watch_->protect(map());
    watch_->remember("node7", {std::byte{7}}, {run(0, kPages)});
  }

  kernel::PageMapAbi abi_{};
  char* bytes_ = nullptr;
  std::optional<RepeatWatch> watch_;
};

TEST_F(ARepeatWatch, TellsWhatWasNotWrittenTo) {
  remember();
  EXPECT_THAT(watch_->clean(map()), ElementsAre(run(0, kPages)));
  touch(3);
  EXPECT_THAT(watch_->clean(map()), ElementsAre(run(0, 3), run(4, kPages - 4)));
}

TEST_F(ARepeatWatch, KnowsOnlyWhatIsThere) {
  remember();
  watch_->remember("node7", {std::byte{7}}, {run(5, 2), run(9, 1)});
  EXPECT_THAT(watch_->clean(map()), ElementsAre(run(5, 2), run(9, 1)));
  EXPECT_THAT(watch_->token_of("node8"), IsEmpty());
  EXPECT_THAT(watch_->token_of("node7"), ElementsAre(std::byte{7}));
}

TEST_F(ARepeatWatch, GoesOnWhereItWasPacked) {
  remember();
  RepeatWatch::Packed packed = watch_->pack();
  watch_.reset();
  touch(8);
  const RepeatWatch next = RepeatWatch::unpack(::getpid(), abi_, std::move(packed));
  EXPECT_THAT(next.clean(map()), ElementsAre(run(0, 8), run(9, kPages - 9)));
  next.protect(map());
  EXPECT_THAT(next.clean(map()), ElementsAre(run(0, kPages)));
  EXPECT_THAT(next.token_of("node7"), ElementsAre(std::byte{7}));
}

// Their protection comes along, and nobody watches them any more.
TEST_F(ARepeatWatch, KnowsNothingOfPagesThatWereMovedThere) {
  remember();
  const std::size_t half = kPages / 2;
  void* moved = ::mremap(bytes_ + half * kPageSize, half * kPageSize, half * kPageSize,
                         MREMAP_MAYMOVE | MREMAP_FIXED, bytes_);
  ASSERT_EQ(moved, bytes_);
  EXPECT_THAT(watch_->clean(map()), IsEmpty());
  // So that TearDown() finds what it unmaps.
  ::mmap(bytes_ + half * kPageSize, half * kPageSize, PROT_READ,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

TEST_F(ARepeatWatch, IsOfMemoryThatIsWorthIt) {
  kernel::Vma vma = map()[0];
  EXPECT_TRUE(RepeatWatch::is_worth_watching(vma));
  vma.end = vma.start + kPageSize;
  EXPECT_FALSE(RepeatWatch::is_worth_watching(vma));
  vma = map()[0];
  vma.shared = true;
  EXPECT_FALSE(RepeatWatch::is_worth_watching(vma));
}

TEST_F(ARepeatWatch, RefusesWhatIsNoneOfItsFiles) {
  RepeatWatch::Packed packed = watch_->pack();
  ASSERT_EQ(::pwrite(packed.known.get(), "x", 1, 0), 1);
  expect_corrupt([&] { RepeatWatch::unpack(::getpid(), abi_, std::move(packed)); }, "known");
}

}  // namespace
}  // namespace telefork::session
