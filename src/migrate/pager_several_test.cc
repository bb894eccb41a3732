// Several processes whose memory is somewhere else, by one connection: each has its own at the same
// addresses.
#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/error.h"
#include "kernel/probe.h"
#include "migrate/page_server.h"
#include "migrate/pager.h"
#include "net/fd_passing.h"
#include "net/fd_stream.h"

namespace telefork::migrate {
namespace {

using kernel::PageRun;
using Area = std::uint64_t*;
using Body = std::function<bool(Area)>;
using Kind = protocol::PageMessage::Kind;

constexpr std::uint64_t kPagesOfEach = 400;

std::uint64_t content_of(std::uint32_t process, std::uint64_t page) {
  return (std::uint64_t{process} + 1) << 32 | page;
}

bool all_of(std::uint32_t process, const std::uint64_t* area) {
  for (std::uint64_t page = 0; page < kPagesOfEach; ++page) {
    if (area[page * 512] != content_of(process, page)) return false;
  }
  return true;
}

// One of them, here and there.
struct Member {
  std::uint32_t process;
  pid_t source = -1;
  pid_t guest = -1;
  UniqueFd go{};
  UniqueFd userfaultfd{};
};

class PagerOfSeveral : public testing::Test {
 protected:
  void SetUp() override {
    if (!kernel::probe_features().uffd_kernel_faults) GTEST_SKIP() << "needs: uffd_kernel_faults";
    void* memory = ::mmap(nullptr, kPagesOfEach * kPageSize, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    area_ = static_cast<Area>(memory);
  }
  void TearDown() override {
    pager_.reset();
    server_.reset();
    for (const Member& member : members_) {
      for (const pid_t pid : {member.source, member.guest}) {
        if (pid <= 0) continue;
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
      }
    }
    if (area_ != nullptr) ::munmap(area_, kPagesOfEach * kPageSize);
  }

  RemotePtr start() const { return RemotePtr(reinterpret_cast<std::uintptr_t>(area_)); }

  // A process with its own memory there, and one that has none of it yet and runs `body` when it
  // may.
  void add(std::uint32_t process, const Body& body) {
    Member member{process};
    for (std::uint64_t page = 0; page < kPagesOfEach; ++page) {
      area_[page * 512] = content_of(process, page);
    }
    member.source = ::fork();
    if (member.source == 0) {
      for (;;) ::pause();
    }
    auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
    member.guest = ::fork();
    if (member.guest == 0) {
      ours.reset();
      void* memory = ::mmap(area_, kPagesOfEach * kPageSize, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
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
    member.userfaultfd = std::move(received.fds[0]);
    member.go = std::move(ours);
    members_.push_back(std::move(member));
  }

  ServedMemory served(pid_t pid, std::uint32_t process) const {
    ServedMemory memory;
    memory.pid = pid;
    memory.shares_pages = true;
    memory.pagemap = kernel::pagemap_abi(kernel::probe_features());
    kernel::Vma vma;
    vma.start = start();
    vma.end = start() + kPagesOfEach * kPageSize;
    vma.read = vma.write = true;
    memory.mappings = {vma};
    memory.process = process;
    return memory;
  }

  void connect() {
    auto [here, there] = net::make_stream_pair();
    std::vector<ServedMemory> memories;
    for (const Member& member : members_) {
      memories.push_back(served(member.source, member.process));
    }
    server_ = std::make_unique<PageServer>(std::move(there), memories);
    pager_ = std::make_unique<Pager>(std::move(here), "home", Pager::Guard{});
    for (Member& member : members_) begin(member, member.process);
  }

  void begin(Member& member, std::uint32_t process) {
    kernel::Userfault faults(std::move(member.userfaultfd), false);
    faults.enlist(start(), kPagesOfEach * kPageSize, false);
    const PageRun whole{start(), kPagesOfEach};
    pager_->begin(member.guest, std::move(faults), {&whole, 1}, {}, {}, false, process);
  }

  void let_run(const Member& member) {
    const std::byte byte{1};
    ASSERT_EQ(::write(member.go.get(), &byte, 1), 1);
  }

  // Throws why the pager has failed: then nobody gives the guest what it waits for.
  int await_end(Member& member) {
    const UniqueFd guest(static_cast<int>(::syscall(SYS_pidfd_open, member.guest, 0)));
    pollfd entries[] = {{guest.get(), POLLIN, 0}, {pager_->fd(), POLLIN, 0}};
    while (entries[0].revents == 0) {
      EXPECT_GT(::poll(entries, 2, -1), 0);
      pager_->check();
    }
    int status = 0;
    EXPECT_GT(::waitpid(std::exchange(member.guest, -1), &status, 0), 0);
    return status;
  }

  Area area_ = nullptr;
  std::vector<Member> members_;
  std::unique_ptr<PageServer> server_;
  std::unique_ptr<Pager> pager_;
};

TEST_F(PagerOfSeveral, EachFindsItsOwn) {
  for (const std::uint32_t process : {0u, 2u, 5u}) {
    add(process, [process](Area area) { return all_of(process, area); });
  }
  connect();
  EXPECT_EQ(pager_->progress().missing, 3 * kPagesOfEach);
  for (const Member& member : members_) let_run(member);
  pager_->let_come();
  for (Member& member : members_) EXPECT_EQ(await_end(member), 0);
}

TEST_F(PagerOfSeveral, AllComesThoughNobodyWaits) {
  for (const std::uint32_t process : {0u, 1u}) {
    add(process, [process](Area area) { return all_of(process, area); });
  }
  connect();
  pager_->let_come();
  while (!pager_->progress().complete) pager_->check();
  EXPECT_EQ(pager_->progress().faults, 0u);
  EXPECT_EQ(pager_->progress().missing, 0u);
  EXPECT_EQ(server_->progress().pages, 2 * kPagesOfEach);
  for (const Member& member : members_) let_run(member);
  for (Member& member : members_) EXPECT_EQ(await_end(member), 0);
}

TEST_F(PagerOfSeveral, AChildHasItsOwnParentsMemory) {
  for (const std::uint32_t process : {0u, 1u}) {
    add(process, [process](Area area) {
      const pid_t child = ::fork();
      if (child == 0) ::_exit(all_of(process, area) ? 0 : 1);
      int status = 0;
      return ::waitpid(child, &status, 0) == child && status == 0 && all_of(process, area);
    });
  }
  connect();
  for (const Member& member : members_) let_run(member);
  for (Member& member : members_) EXPECT_EQ(await_end(member), 0);
}

TEST_F(PagerOfSeveral, WhatOneDoesToItsMemoryIsItsOwn) {
  add(0, [](Area area) {
    return ::munmap(area, kPagesOfEach / 2 * kPageSize) == 0 &&
           area[kPagesOfEach / 2 * 512] == content_of(0, kPagesOfEach / 2);
  });
  add(1, [](Area area) { return all_of(1, area); });
  connect();
  let_run(members_[0]);
  EXPECT_EQ(await_end(members_[0]), 0);
  let_run(members_[1]);
  EXPECT_EQ(await_end(members_[1]), 0);
}

TEST_F(PagerOfSeveral, AllComesThoughOneHasEnded) {
  add(0, [](Area area) { return area[512] == content_of(0, 1); });
  add(1, [](Area area) { return all_of(1, area); });
  connect();
  let_run(members_[0]);
  EXPECT_EQ(await_end(members_[0]), 0);
  pager_->let_come();
  while (!pager_->progress().complete) pager_->check();
  let_run(members_[1]);
  EXPECT_EQ(await_end(members_[1]), 0);
}

TEST_F(PagerOfSeveral, NobodyNeedsAnythingWhenAllHaveEnded) {
  for (const std::uint32_t process : {0u, 1u}) add(process, [](Area) { return true; });
  connect();
  for (const Member& member : members_) let_run(member);
  for (Member& member : members_) EXPECT_EQ(await_end(member), 0);
  pager_->let_come();
  while (!pager_->progress().complete) pager_->check();
  while (!server_->progress().complete) ::sched_yield();
}

// The other end by hand, of two that have the memory of this process.
class PageServerOfTwo : public PagerOfSeveral {
 protected:
  void SetUp() override {
    PagerOfSeveral::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    for (std::uint64_t page = 0; page < kPagesOfEach; ++page)
      area_[page * 512] = content_of(0, page);
    auto [here, there] = net::make_stream_pair();
    const std::vector<ServedMemory> memories = {served(::getpid(), 0), served(::getpid(), 1)};
    server_ = std::make_unique<PageServer>(std::move(there), memories);
    stream_ = std::make_unique<PageStream>(std::move(here));
  }

  std::unique_ptr<PageStream> stream_;
};

TEST_F(PageServerOfTwo, SendsNoMoreOfOneThatNobodyNeeds) {
  stream_->send({Kind::kOver, 0, 0, 0});
  stream_->send({Kind::kBegin, 0, 0, 0});
  std::uint64_t pages = 0;
  for (bool all = false; !all;) {
    stream_->flush_some();
    std::vector<pollfd> entries = stream_->poll_entries();
    net::poll_until(entries, net::Deadline::never());
    while (auto received = stream_->try_receive()) {
      all = received->message.kind == Kind::kAll;
      if (received->message.kind != Kind::kPages) continue;
      EXPECT_EQ(received->message.process, 1u);
      pages += received->message.count;
      stream_->send({Kind::kPlaced, 1, 0, received->pages.size()});
    }
  }
  EXPECT_EQ(pages, kPagesOfEach);
}

TEST_F(PageServerOfTwo, RefusesToGiveWhatIsNobodys) {
  stream_->send({Kind::kWant, 2, start().value(), 1});
  pollfd entry{server_->fd(), POLLIN, 0};
  ASSERT_EQ(net::poll_until({&entry, 1}, net::Deadline::never()), 1);
  ASSERT_TRUE(server_->progress().failure);
  EXPECT_EQ(server_->progress().failure->code(), Code::kCorrupt);
}

}  // namespace
}  // namespace telefork::migrate
