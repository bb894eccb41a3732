// Children that begin before their memory has come (Mode::lazy).
#include <csignal>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lazy_pages.h"
#include "scene.h"
#include "seen_process.h"

namespace fork_test {
namespace {

class ALazyFork : public WithMemoryThatFollows {};

TEST_P(ALazyFork, FindsMemoryThatComesLater) {
  Outcome outcome = run([this] {
    const Pages pages(128 * kMegabyte);
    const pid_t child = telefork::fork(node(), lazy());
    if (child == 0) {
      pages.expect_untouched(0, pages.count);
      _exit(7);
    }
    // It is a copy of what was.
    for (std::size_t page = 0; page < pages.count; ++page) pages.word(page) = 0;
    require_equal(end_of(child), exited(7));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyFork, OfWhichTheParentHasEndedFindsItsMemory) {
  Outcome outcome = run([this] {
    require(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
    const pid_t parent = fork();
    if (parent == 0) {
      const Pages pages(64 * kMegabyte);
      const pid_t child = telefork::fork(node(), lazy());
      if (child == 0) {
        require_equal(pages.sum(0, 1), pages.sum_untouched());
        _exit(7);
      }
      _exit(3);
    }
    require_equal(end_of(parent), exited(3));
    // The agent of its parent may be the first to end.
    int status = 0;
    while (status == 0) require(waitpid(-1, &status, 0) > 0);
    require_equal(status, 7 << 8);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyFork, MayForkAndChangeItsMemoryAtOnce) {
  Outcome outcome = run([this] {
    Pages pages(64 * kMegabyte);
    const pid_t child = telefork::fork(node(), lazy());
    if (child == 0) {
      const std::size_t mega = kMegabyte / kPageOfMemory;
      require(madvise(pages.start, kMegabyte, MADV_DONTNEED) == 0);
      require(mprotect(pages.start + kMegabyte, kMegabyte, PROT_READ) == 0);
      require(munmap(pages.start + 2 * kMegabyte, kMegabyte) == 0);
      std::vector<std::thread> threads;
      std::vector<std::size_t> sums(2);
      unsigned char* const before = pages.start;
      const pid_t grandchild = fork();
      if (grandchild == 0) {
        pages.expect_untouched(3 * mega, pages.count);
        _exit(5);
      }
      void* room = mmap(nullptr, 8 * kMegabyte, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      require(mremap(before + 8 * kMegabyte, 8 * kMegabyte, 8 * kMegabyte,
                     MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
      for (std::size_t page = 0; page < mega; ++page) require_equal(pages.word(page), 0U);
      pages.expect_untouched(mega, 2 * mega);
      pages.expect_untouched(3 * mega, 8 * mega);
      pages.expect_untouched(16 * mega, pages.count);
      pages.start = static_cast<unsigned char*>(room) - 8 * kMegabyte;
      pages.expect_untouched(8 * mega, 16 * mega);
      require_equal(end_of(grandchild), exited(5));
      _exit(6);
    }
    require_equal(end_of(child), exited(6));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyFork, MayEndAtOnceWhenItHasForked) {
  for (int round = 0; round < 8; ++round) {
    Outcome outcome = run([this] {
      const Pages pages(16 * kMegabyte);
      const pid_t child = telefork::fork(node(), lazy());
      if (child == 0) {
        if (fork() != 0) _exit(4);
        pages.expect_untouched(0, pages.count);
        require(write(STDOUT_FILENO, "all", 3) == 3);
        _exit(0);
      }
      require_equal(end_of(child), exited(4));
    });
    EXPECT_TRUE(went_well(outcome));
    EXPECT_EQ(outcome.out, "all");
  }
}

TEST_P(ALazyFork, MayExecBeforeItsMemoryHasCome) {
  Outcome outcome = run([this] {
    const Pages pages(256 * kMegabyte);
    const pid_t child = telefork::fork(node(), lazy());
    if (child == 0) {
      execlp("sh", "sh", "-c", "exit 9", nullptr);
      _exit(1);
    }
    require_equal(end_of(child), exited(9));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ALazyFork, IsKilledWhileItWaitsForMemory) {
  Outcome outcome = run([this] {
    const Pages pages(256 * kMegabyte);
    const pid_t child = telefork::fork(node(), lazy());
    if (child == 0) {
      for (;;) pages.sum(0, 1);
    }
    require(kill(child, SIGKILL) == 0);
    int status = 0;
    require(waitpid(child, &status, 0) == child);
    require(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  });
  EXPECT_TRUE(went_well(outcome));
}

// The kernel would give it zeros where nobody waits for its faults any more.
TEST_P(ALazyFork, NeverSeesZerosWhenItsKeeperIsKilled) {
  for (int round = 0; round < 4; ++round) {
    Program program = start([this] {
      const Pages pages(256 * kMegabyte);
      const pid_t child = telefork::fork(node(), lazy());
      if (child == 0) {
        make_file(path("runs"));
        for (;;) {
          for (std::size_t page = 0; page < pages.count; ++page) {
            if (pages.word(page) != page + 1) make_file(path("wrong"));
          }
        }
      }
      require_equal(end_of(child), exited(125));
    });
    await_file(path("runs"));
    for (const SeenProcess& process : all_descendants()) {
      if (process.name.starts_with("telefork-keeper")) kill(process.pid, SIGKILL);
    }
    Outcome outcome = finish(program);
    // stderr has the reason of 125.
    EXPECT_EQ(outcome.end, exited(0)) << outcome.err;
    EXPECT_NE(access(path("wrong").c_str(), F_OK), 0);
    unlink(path("runs").c_str());
  }
}

TEST_P(ALazyFork, HasSiblings) {
  Outcome outcome = run([this] {
    const Pages pages(32 * kMegabyte);
    std::vector<pid_t> children;
    for (int i = 0; i < 4; ++i) {
      pages.word(100) = static_cast<std::size_t>(i);
      children.push_back(telefork::fork(node(), lazy()));
      if (children.back() == 0) {
        require_equal(pages.word(100), static_cast<std::size_t>(i));
        pages.expect_untouched(101, pages.count);
        _exit(i);
      }
    }
    for (int i = 0; i < 4; ++i)
      require_equal(end_of(children[static_cast<std::size_t>(i)]), exited(i));
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(There, ALazyFork,
                         testing::ValuesIn(nodes_under_test({"local", "unix", "tls"})),
                         name_of_node);

}  // namespace
}  // namespace fork_test
