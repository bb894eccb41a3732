// Calls that begin before the program's memory has come (Mode::lazy).
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "lazy_pages.h"

namespace fork_test {
namespace {

class ALazyCall : public WithMemoryThatFollows {};

TEST_P(ALazyCall, ReadsMemoryThatComesLater) {
  Outcome outcome = run([this] {
    const Pages pages(64 * kMegabyte);
    const std::size_t sum = call_on(
        node(), [&] { return pages.sum(0, 1); }, lazy());
    require_equal(sum, pages.sum_untouched());
    pages.expect_untouched(0, pages.count);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyCall, BringsWhatItWroteHomeThoughNotAllHadCome) {
  Outcome outcome = run([this] {
    const Pages pages(256 * kMegabyte);
    call_on(
        node(),
        [&] {
          for (std::size_t page = 5; page < pages.count; page += 1000) pages.word(page) = 4711;
        },
        lazy());
    for (std::size_t page = 0; page < pages.count; ++page) {
      require_equal(pages.word(page), page % 1000 == 5 ? 4711 : page + 1);
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyCall, DropsUnmapsAndMovesWhatHasNotCome) {
  Outcome outcome = run([this] {
    const Pages dropped(16 * kMegabyte);
    const Pages unmapped(16 * kMegabyte);
    Pages moved(16 * kMegabyte);
    unsigned char* const before = moved.start;
    call_on(
        node(),
        [&] {
          require(madvise(dropped.start + kMegabyte, 2 * kMegabyte, MADV_DONTNEED) == 0);
          require(munmap(unmapped.start + kMegabyte, 2 * kMegabyte) == 0);
          void* room = mmap(nullptr, 8 * kMegabyte, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
          void* there = mremap(moved.start + 4 * kMegabyte, 4 * kMegabyte, 4 * kMegabyte,
                               MREMAP_MAYMOVE | MREMAP_FIXED, room);
          require(there == room);
          moved.start = static_cast<unsigned char*>(room) - 4 * kMegabyte;
        },
        lazy());
    const std::size_t first = kMegabyte / kPageOfMemory;
    const std::size_t last = 3 * kMegabyte / kPageOfMemory;
    for (std::size_t page = first; page < last; ++page) require_equal(dropped.word(page), 0U);
    dropped.expect_untouched(0, first);
    dropped.expect_untouched(last, dropped.count);
    unsigned char resident = 0;
    require(mincore(unmapped.start + kMegabyte, kPageOfMemory, &resident) != 0 && errno == ENOMEM);
    unmapped.expect_untouched(last, unmapped.count);
    moved.expect_untouched(4 * kMegabyte / kPageOfMemory, 8 * kMegabyte / kPageOfMemory);
    moved.start = before;
    moved.expect_untouched(0, 4 * kMegabyte / kPageOfMemory);
    moved.expect_untouched(8 * kMegabyte / kPageOfMemory, moved.count);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyCall, ForksThreadsAndChildrenWhileMemoryIsMissing) {
  Outcome outcome = run([this] {
    const Pages pages(64 * kMegabyte);
    std::vector<std::size_t> sums(3);
    call_on(
        node(),
        [&] {
          std::vector<std::thread> threads;
          for (std::size_t i = 0; i < sums.size(); ++i) {
            threads.emplace_back([&, i] { sums[i] = pages.sum(i, 3); });
          }
          const pid_t child = fork();
          if (child == 0) {
            pages.expect_untouched(0, pages.count);
            _exit(0);
          }
          int status = 0;
          require(waitpid(child, &status, 0) == child);
          require_equal(status, 0);
          for (std::thread& thread : threads) thread.join();
        },
        lazy());
    require_equal(sums[0] + sums[1] + sums[2], pages.sum_untouched());
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyCall, FailsAndLeavesAllAsItWas) {
  Outcome outcome = run([this] {
    const Pages pages(64 * kMegabyte);
    const std::string error = error_of_call(
        node(),
        [&] {
          for (std::size_t page = 0; page < pages.count; page += 7) pages.word(page) = 1;
          raise(SIGSEGV);
        },
        lazy());
    if (error.find("SIGSEGV") == std::string::npos &&
        error.find("signal 11") == std::string::npos) {
      fail_here(error, Where::current());
    }
    pages.expect_untouched(0, pages.count);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyCall, IsRepeated) {
  Outcome outcome = run([this] {
    const Pages pages(32 * kMegabyte);
    for (std::size_t round = 0; round < 5; ++round) {
      call_on(
          node(), [&] { pages.word(round * 100) += 10; }, lazy());
    }
    for (std::size_t page = 0; page < pages.count; ++page) {
      const bool was_written = page % 100 == 0 && page < 500;
      require_equal(pages.word(page), page + 1 + (was_written ? 10 : 0));
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(There, ALazyCall,
                         testing::ValuesIn(nodes_under_test({"local", "unix", "tls"})),
                         name_of_node);

}  // namespace
}  // namespace fork_test
