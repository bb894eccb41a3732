#include "kernel/page_move.h"

#include <cerrno>

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "kernel/probe.h"

namespace telefork::kernel {
namespace {

class PageMoveTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!probe_features().uffd_move) GTEST_SKIP() << "needs: uffd_move";
    fd_ = UniqueFd(static_cast<int>(::syscall(SYS_userfaultfd, page_move_flags())));
    ASSERT_GE(fd_.get(), 0);
    ASSERT_EQ(call(ask_for_page_moves()), 0);
    for (char** at : {&from_, &to_}) {
      void* memory =
          ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      ASSERT_NE(memory, MAP_FAILED);
      *at = static_cast<char*>(memory);
    }
    from_[0] = 'm';
  }
  void TearDown() override {
    for (char* at : {from_, to_}) {
      if (at != nullptr) ::munmap(at, kSize);
    }
  }
  int call(IoctlCall call) const { return ::ioctl(fd_.get(), call.request, call.argument.data()); }
  static RemotePtr address(const char* at) {
    return RemotePtr(reinterpret_cast<std::uint64_t>(at));
  }
  static bool is_there(char* page) {
    unsigned char there = 0;
    return ::mincore(page, kPageSize, &there) == 0 && there != 0;
  }

  static constexpr std::size_t kSize = 4 * kPageSize;
  UniqueFd fd_;
  char* from_ = nullptr;
  char* to_ = nullptr;
};

TEST_F(PageMoveTest, MovesAPageToMemoryThatWasToldOf) {
  ASSERT_EQ(call(let_pages_move_to(address(to_), kSize)), 0);
  ASSERT_EQ(call(move_pages(address(to_), address(from_), kPageSize)), 0);
  EXPECT_FALSE(is_there(from_));
  EXPECT_EQ(to_[0], 'm');
}

TEST_F(PageMoveTest, LeavesOtherPagesOfThatMemoryToBeMadeByAFault) {
  ASSERT_EQ(call(let_pages_move_to(address(to_), kSize)), 0);
  EXPECT_EQ(::syscall(SYS_clock_gettime, CLOCK_MONOTONIC, to_ + kPageSize), 0);
}

TEST_F(PageMoveTest, MovesNothingWhereAPageIs) {
  ASSERT_EQ(call(let_pages_move_to(address(to_), kSize)), 0);
  to_[0] = 'o';
  EXPECT_EQ(call(move_pages(address(to_), address(from_), kPageSize)), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(to_[0], 'o');
  EXPECT_EQ(from_[0], 'm');
}

TEST_F(PageMoveTest, MovesNothingToMemoryThatWasNotToldOf) {
  EXPECT_EQ(call(move_pages(address(to_), address(from_), kPageSize)), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(from_[0], 'm');
}

}  // namespace
}  // namespace telefork::kernel
