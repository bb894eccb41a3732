// A process that runs while its memory is somewhere else: real processes, real faults.
#include "migrate/pager.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/error.h"
#include "kernel/probe.h"
#include "kernel/procfs.h"
#include "kernel/procfs_maps.h"
#include "migrate/page_server.h"
#include "net/fd_passing.h"
#include "net/fd_stream.h"
#include "tracee/snapshot.h"

namespace telefork::migrate {
namespace {

using kernel::PageRun;

constexpr std::uint64_t kPages = 600;

// What page `page` of the source holds. Every seventh is there, and all zeros; every tenth was
// never touched.
std::uint64_t content_of(std::uint64_t page) {
  return page % 7 == 0 || page % 10 == 0 ? 0 : 0x1234567800000000u + page;
}

bool is_as_it_was(const std::uint64_t* area, std::uint64_t page) {
  const std::uint64_t* words = area + page * kPageSize / sizeof(std::uint64_t);
  return words[0] == content_of(page) && words[511] == content_of(page);
}

bool all_as_it_was(const std::uint64_t* area, std::uint64_t first, std::uint64_t pages) {
  for (std::uint64_t page = 0; page < pages; ++page) {
    const std::uint64_t* words = area + page * kPageSize / sizeof(std::uint64_t);
    if (words[0] != content_of(first + page) || words[511] != content_of(first + page))
      return false;
  }
  return true;
}

class PagerTest : public testing::Test {
 protected:
  using Area = std::uint64_t*;
  using Body = std::function<bool(Area)>;

  void SetUp() override {
    if (!kernel::probe_features().uffd_kernel_faults) GTEST_SKIP() << "needs: uffd_kernel_faults";
    void* memory = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    area_ = static_cast<Area>(memory);
    for (std::uint64_t page = 0; page < kPages; ++page) {
      if (page % 10 == 0) continue;
      area_[page * 512] = content_of(page);
      area_[page * 512 + 511] = content_of(page);
    }
    source_ = ::fork();
    if (source_ == 0) {
      for (;;) ::pause();
    }
  }
  void TearDown() override {
    pager_.reset();
    server_.reset();
    if (source_ > 0) {
      ::kill(source_, SIGKILL);
      ::waitpid(source_, nullptr, 0);
    }
    if (area_ != nullptr) ::munmap(area_, kPages * kPageSize);
  }

  RemotePtr start() const { return RemotePtr(reinterpret_cast<std::uintptr_t>(area_)); }

  // A process at whose `area_` nothing is yet, and that runs `body` when it may.
  void start_guest(const Body& body, bool tracks = false, std::vector<PageRun> arrived = {}) {
    auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
    guest_ = ::fork();
    if (guest_ == 0) {
      void* memory = ::mmap(area_, kPages * kPageSize, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      for (const PageRun& run : arrived) {
        const std::uint64_t page = (run.start - start()) / kPageSize;
        for (std::uint64_t i = page; i < page + run.pages; ++i) area_[i * 512] = 99;
      }
      UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, kernel::Userfault::flags())));
      std::byte byte{1};
      const int fds[] = {fd.get()};
      if (memory == MAP_FAILED || !fd) ::_exit(2);
      net::send_fds(theirs.get(), std::span(&byte, 1), fds);
      fd.reset();
      if (::read(theirs.get(), &byte, 1) != 1) ::_exit(3);
      ::_exit(body(area_) ? 0 : 1);
    }
    std::byte byte{};
    net::ReceivedFds received =
        net::receive_fds(ours.get(), std::span(&byte, 1), 1, net::Deadline::never());
    ASSERT_EQ(received.fds.size(), 1u);
    kernel::Userfault faults(std::move(received.fds[0]), tracks);
    faults.enlist(start(), kPages * kPageSize, tracks);
    auto [here, there] = net::make_stream_pair();
    ServedMemory memory;
    memory.pid = source_;
    memory.shares_pages = true;
    memory.pagemap = kernel::pagemap_abi(kernel::probe_features());
    memory.mappings = {mapping()};
    memory.ahead = arrived;
    server_ = std::make_unique<PageServer>(std::move(there), std::vector<ServedMemory>{memory});
    pager_ = std::make_unique<Pager>(std::move(here), "home", Pager::Guard{});
    const PageRun whole{start(), kPages};
    pager_->begin(guest_, std::move(faults), {&whole, 1}, arrived, {}, tracks);
    go_ = std::move(ours);
  }
  void let_run() {
    const std::byte byte{1};
    ASSERT_EQ(::write(go_.get(), &byte, 1), 1);
  }
  // Throws why the pager has failed: then nobody gives the guest what it waits for.
  void expect_success() {
    const UniqueFd guest(static_cast<int>(::syscall(SYS_pidfd_open, guest_, 0)));
    pollfd entries[] = {{guest.get(), POLLIN, 0}, {pager_->fd(), POLLIN, 0}};
    while (entries[0].revents == 0) {
      ASSERT_GT(::poll(entries, 2, -1), 0);
      pager_->check();
    }
    int status = 0;
    ASSERT_EQ(::waitpid(guest_, &status, 0), guest_);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    pager_->check();
  }
  void run(const Body& body) {
    start_guest(body);
    let_run();
    pager_->let_come();
    expect_success();
  }

  kernel::Vma mapping() const {
    kernel::Vma vma;
    vma.start = start();
    vma.end = start() + kPages * kPageSize;
    vma.read = vma.write = true;
    return vma;
  }

  Area area_ = nullptr;
  pid_t source_ = -1;
  pid_t guest_ = -1;
  UniqueFd go_;
  std::unique_ptr<PageServer> server_;
  std::unique_ptr<Pager> pager_;
};

TEST_F(PagerTest, AProcessFindsItsMemoryThoughItHasNotCome) {
  start_guest([](Area area) { return all_as_it_was(area, 0, kPages); });
  let_run();  // nothing is pushed
  expect_success();
  EXPECT_GT(pager_->progress().faults, 0u);
  EXPECT_FALSE(pager_->progress().complete);
}

TEST_F(PagerTest, AllComesByItself) {
  start_guest([](Area area) { return all_as_it_was(area, 0, kPages); });
  pager_->let_come();
  while (!pager_->progress().complete) pager_->check();
  EXPECT_EQ(pager_->progress().faults, 0u);
  EXPECT_TRUE(server_->progress().all_sent);
  let_run();
  expect_success();
}

TEST_F(PagerTest, BackwardsAndInBetween) {
  run([](Area area) {
    for (std::uint64_t page = kPages; page-- > 0;) {
      if (!is_as_it_was(area, page)) return false;
    }
    return true;
  });
}

// By this process, which has the same at the same place; it says how often it was asked.
int lend(const UniqueFd& control, const UniqueFd& pages) {
  int asked = 0;
  tracee::MemoryRequest request{};
  while (::recv(control.get(), &request, sizeof(request), 0) == ssize_t{sizeof(request)}) {
    if (request.kind != tracee::MemoryRequest::Kind::kLend) continue;
    ++asked;
    const iovec wanted{reinterpret_cast<void*>(request.address), request.size};
    if (::vmsplice(pages.get(), &wanted, 1, 0) != static_cast<ssize_t>(wanted.iov_len)) break;
  }
  return asked;
}

TEST_F(PagerTest, TakesWhatTheSourceLends) {
  auto [control, others] = make_socket_pair(SOCK_SEQPACKET);
  auto [read_end, write_end] = make_pipe();
  std::atomic<int> asked{0};
  std::thread lender([&asked, &socket = others, &pipe = write_end] { asked = lend(socket, pipe); });
  auto [all_there, tell] = make_pipe();
  start_guest([&waited = all_there](Area area) {
    if (!is_as_it_was(area, 503)) return false;  // from there on
    // If it went on by itself it could want all before anything is pushed, and what is wanted is
    // not lent.
    std::byte byte{};
    return ::read(waited.get(), &byte, 1) == 1 && all_as_it_was(area, 0, kPages);
  });
  server_->borrow(std::move(control), std::move(read_end));
  let_run();
  while (server_->progress().wanted == 0) pager_->check();
  pager_->let_come();
  while (!pager_->progress().complete) pager_->check();
  const std::byte byte{1};
  ASSERT_EQ(::write(tell.get(), &byte, 1), 1);
  expect_success();
  server_.reset();
  lender.join();
  EXPECT_GT(asked, 0);
}

TEST_F(PagerTest, IsToldWhenNobodyLendsAnyMore) {
  auto [control, others] = make_socket_pair(SOCK_SEQPACKET);
  auto [read_end, write_end] = make_pipe();
  write_end.reset();
  start_guest([](Area area) { return all_as_it_was(area, 0, kPages); });
  server_->borrow(std::move(control), std::move(read_end));
  pager_->let_come();
  while (!server_->progress().failure) ::sched_yield();
  EXPECT_EQ(server_->progress().failure->code(), Code::kGone);
  ::kill(guest_, SIGKILL);
  ::waitpid(guest_, nullptr, 0);
}

TEST_F(PagerTest, TheKernelFindsItToo) {
  run([](Area area) {
    int ends[2];
    if (::pipe(ends) != 0) return false;
    std::uint64_t word = 0;
    for (std::uint64_t page : {501u, 13u, 10u, 333u}) {
      if (::write(ends[1], area + page * 512, 8) != 8 || ::read(ends[0], &word, 8) != 8 ||
          word != content_of(page)) {
        return false;
      }
      if (::write(ends[1], &word, 8) != 8 || ::read(ends[0], area + page * 512 + 512, 8) != 8) {
        return false;
      }
    }
    return true;
  });
}

TEST_F(PagerTest, WhatIsDroppedIsZero) {
  run([](Area area) {
    if (::madvise(area + 100 * 512, 50 * kPageSize, MADV_DONTNEED) != 0) return false;
    for (std::uint64_t page = 100; page < 150; ++page) {
      if (area[page * 512] != 0) return false;
    }
    return all_as_it_was(area, 0, 100) && all_as_it_was(area + 150 * 512, 150, kPages - 150);
  });
}

TEST_F(PagerTest, WhatIsUnmappedAndMappedAgainIsNew) {
  run([](Area area) {
    if (::munmap(area + 100 * 512, 50 * kPageSize) != 0) return false;
    void* again = ::mmap(area + 100 * 512, 50 * kPageSize, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (again == MAP_FAILED) return false;
    for (std::uint64_t page = 100; page < 150; ++page) {
      if (area[page * 512] != 0) return false;
    }
    return all_as_it_was(area + 150 * 512, 150, kPages - 150);
  });
}

TEST_F(PagerTest, WhatMovesComesToWhereItIs) {
  run([](Area area) {
    void* moved = ::mremap(area + 200 * 512, 100 * kPageSize, 100 * kPageSize, MREMAP_MAYMOVE);
    // It may stay where it is: so it is told to go elsewhere.
    void* room = ::mmap(nullptr, 100 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (moved == MAP_FAILED || room == MAP_FAILED) return false;
    moved = ::mremap(moved, 100 * kPageSize, 100 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, room);
    if (moved != room) return false;
    return all_as_it_was(static_cast<Area>(moved), 200, 100) && all_as_it_was(area, 0, 200) &&
           all_as_it_was(area + 300 * 512, 300, kPages - 300);
  });
}

TEST_F(PagerTest, AChildHasItsParentsMemory) {
  run([](Area area) {
    if (!all_as_it_was(area, 0, 20)) return false;
    area[30 * 512] = 4711;
    const pid_t child = ::fork();
    if (child == 0) {
      const bool right = area[30 * 512] == 4711 && all_as_it_was(area, 0, 30) &&
                         all_as_it_was(area + 31 * 512, 31, kPages - 31);
      ::_exit(right ? 0 : 1);
    }
    int status = 0;
    if (::waitpid(child, &status, 0) != child || status != 0) return false;
    return all_as_it_was(area + 31 * 512, 31, kPages - 31);
  });
}

TEST_F(PagerTest, WhatIsCutIntoManyMappingsComesToAllOfThem) {
  run([](Area area) {
    for (std::uint64_t page = 1; page < kPages; page += 3) {
      if (::mprotect(area + page * 512, kPageSize, PROT_READ) != 0) return false;
    }
    if (::madvise(area + 100 * 512, 50 * kPageSize, MADV_NOHUGEPAGE) != 0) return false;
    return all_as_it_was(area, 0, kPages);
  });
}

TEST_F(PagerTest, WhoWaitsInAPartIsNotForgotten) {
  if (!kernel::probe_features().uffd_wp_async) GTEST_SKIP() << "needs: uffd_wp_async";
  start_guest(
      [](Area area) {
        return ::mprotect(area + 300 * 512, kPageSize, PROT_READ) == 0 &&
               ::mlock(area + 298 * 512, 4 * kPageSize) == 0 && is_as_it_was(area, 299) &&
               all_as_it_was(area, 0, kPages);
      },
      true);
  let_run();
  expect_success();
}

// Each moves its own; where one has just left another comes, and the kernel does not tell of both
// in the order in which they came. Pages come meanwhile. Seldom that order cannot be known.
TEST_F(PagerTest, ThreadsThatMoveMemoryAtOnceFindTheirOwnOrEnd) {
  const Body body = [](Area area) {
    constexpr std::uint64_t kThreads = 8;
    constexpr std::uint64_t kEach = kPages / kThreads;
    std::atomic<bool> right = true;
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([area, i, &right] {
        Area own = area + i * kEach * 512;
        for (int round = 0; round < 40; ++round) {
          void* room =
              ::mmap(nullptr, kEach * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
          void* moved = ::mremap(own, kEach * kPageSize, kEach * kPageSize,
                                 MREMAP_MAYMOVE | MREMAP_FIXED, room);
          if (moved != room) right = false;
          own = static_cast<Area>(moved);
          const std::uint64_t page = (static_cast<std::uint64_t>(round) * 7 + i) % kEach;
          const std::uint64_t* words = own + page * 512;
          if (words[0] != content_of(i * kEach + page)) right = false;
        }
        if (!all_as_it_was(own, i * kEach, kEach)) right = false;
      });
    }
    for (std::thread& thread : threads) thread.join();
    return right.load();
  };
  try {
    run(body);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnsupported);
    EXPECT_NE(error.text().find("the kernel does not tell in which order"), std::string::npos)
        << error.text();
    ::kill(guest_, SIGKILL);
    ::waitpid(guest_, nullptr, 0);
  }
}

TEST_F(PagerTest, WhatIsToBeWipedIsZerosInAChild) {
  run([](Area area) {
    if (::madvise(area + 100 * 512, 10 * kPageSize, MADV_WIPEONFORK) != 0) return false;
    const pid_t child = ::fork();
    if (child == 0) {
      for (std::uint64_t page = 100; page < 110; ++page) {
        if (area[page * 512] != 0) ::_exit(1);
      }
      ::_exit(all_as_it_was(area, 0, 100) ? 0 : 1);
    }
    int status = 0;
    return ::waitpid(child, &status, 0) == child && status == 0 && all_as_it_was(area, 0, kPages);
  });
}

TEST_F(PagerTest, WhatWentAheadIsNotSentAgain) {
  const PageRun ahead{start() + 10 * kPageSize, 3};
  start_guest(
      [](Area area) {
        return area[10 * 512] == 99 && area[12 * 512] == 99 &&
               all_as_it_was(area + 13 * 512, 13, kPages - 13);
      },
      false, {ahead});
  let_run();
  pager_->let_come();
  expect_success();
}

TEST_F(PagerTest, KnowsWhatHasNotComeWhenItIsHeld) {
  if (!kernel::probe_features().uffd_wp_async) GTEST_SKIP() << "needs: uffd_wp_async";
  start_guest(
      [](Area area) {
        area[500 * 512] += 1;
        void* room = ::mmap(nullptr, 2 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        void* moved = ::mremap(area + 300 * 512, 2 * kPageSize, 2 * kPageSize,
                               MREMAP_MAYMOVE | MREMAP_FIXED, room);
        ::raise(SIGSTOP);
        return moved == room && all_as_it_was(static_cast<Area>(moved), 300, 2);
      },
      true);
  let_run();
  int status = 0;
  ASSERT_EQ(::waitpid(guest_, &status, WUNTRACED), guest_);
  ASSERT_TRUE(WIFSTOPPED(status));
  pager_->hold();
  pager_->fetch_moved();
  const std::vector<PageRun> missing = pager_->missing(start(), start() + kPages * kPageSize);
  EXPECT_LT(kernel::count_pages(missing), kPages - 2);
  EXPECT_GT(kernel::count_pages(missing), kPages - 64);
  for (const PageRun& run : missing) {
    EXPECT_FALSE(run.start <= start() + 500 * kPageSize && start() + 500 * kPageSize < run.end());
    EXPECT_TRUE(run.end() <= start() + 300 * kPageSize || start() + 302 * kPageSize <= run.start);
  }
  ::kill(guest_, SIGCONT);
  expect_success();
}

TEST_F(PagerTest, TellsThatTheSourceIsGone) {
  start_guest([](Area area) { return all_as_it_was(area, 0, kPages); });
  server_.reset();
  pollfd entry{pager_->fd(), POLLIN, 0};
  ASSERT_EQ(net::poll_until({&entry, 1}, net::Deadline::never()), 1);
  EXPECT_THROW(pager_->check(), Error);
  ::kill(guest_, SIGKILL);
  ::waitpid(guest_, nullptr, 0);
}

}  // namespace
}  // namespace telefork::migrate
