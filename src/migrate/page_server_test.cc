// What a page server has a copy of its process drop; whoever receives the pages is this test.
#include "migrate/page_server.h"

#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "kernel/probe.h"
#include "net/fd_stream.h"
#include "tracee/snapshot.h"

namespace telefork::migrate {
namespace {

using Kind = protocol::PageMessage::Kind;

class APageServerThatDrops : public testing::Test {
 protected:
  static constexpr std::uint64_t kHeld = DroppedPages::kLeast / kPageSize;  // pages that it has
  static constexpr std::uint64_t kServed = kHeld + 512;
  static constexpr std::uint64_t kHuge = 512 * kPageSize;
  static constexpr std::uint64_t kSize = kServed * kPageSize + kHuge;

  // A copy, with so many pages.
  void serve(std::uint64_t held) {
    memory_ = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory_, MAP_FAILED);
    start_ = RemotePtr(round_up(reinterpret_cast<std::uintptr_t>(memory_), kHuge));
    // Where huge pages are the rule there is no more than what is written to either.
    ::madvise(memory_, kSize, MADV_NOHUGEPAGE);
    std::memset(reinterpret_cast<void*>(start_.value()), 1, held * kPageSize);
    source_ = ::fork();
    if (source_ == 0) {
      for (;;) ::pause();
    }
    auto [here, there] = net::make_stream_pair();
    stream_.emplace(std::move(here));
    std::tie(control_, dropper_) = make_socket_pair(SOCK_SEQPACKET);
    ServedMemory served;
    served.pid = source_;
    served.pagemap = kernel::pagemap_abi(kernel::probe_features());
    kernel::Vma vma;
    vma.start = start_;
    vma.end = start_ + kServed * kPageSize;
    vma.read = vma.write = true;
    served.mappings = {vma};
    server_ = std::make_unique<PageServer>(std::move(there), std::vector<ServedMemory>{served});
  }
  void TearDown() override {
    server_.reset();
    ::kill(source_, SIGKILL);
    ::waitpid(source_, nullptr, 0);
    ::munmap(memory_, kSize);
  }

  void say(Kind kind, std::uint64_t address, std::uint64_t count) {
    stream_->send({kind, 0, address, count});
  }
  void place(std::uint64_t pages) { say(Kind::kPlaced, 0, pages * kPageSize); }
  protocol::PageMessage receive() {
    for (;;) {
      stream_->flush_some();
      if (auto received = stream_->try_receive()) return received->message;
      std::vector<pollfd> entries = stream_->poll_entries();
      net::poll_until(entries, net::Deadline::never());
    }
  }
  // It has taken whatever was said to it before, and nothing was dropped.
  void expect_nothing_dropped() {
    const RemotePtr empty = start_ + (kHeld + 100 * round_++) * kPageSize;
    say(Kind::kWant, empty.value(), 1);
    while (receive().kind != Kind::kZeros) {
    }
    pollfd entry{dropper_.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, 0), 0);
  }
  void expect_dropped(std::uint64_t pages) const {
    const tracee::MemoryRequest request = receive_request();
    EXPECT_EQ(request.kind, tracee::MemoryRequest::Kind::kDrop);
    EXPECT_EQ(request.address, start_.value());
    EXPECT_EQ(request.size, pages * kPageSize);
  }
  tracee::MemoryRequest receive_request() const {
    tracee::MemoryRequest request{};
    EXPECT_EQ(::recv(dropper_.get(), &request, sizeof(request), 0), ssize_t{sizeof(request)});
    return request;
  }

  void* memory_ = nullptr;
  RemotePtr start_;
  pid_t source_ = -1;
  std::optional<PageStream> stream_;
  UniqueFd control_;
  UniqueFd dropper_;
  std::unique_ptr<PageServer> server_;
  std::uint64_t round_ = 0;
};

TEST_F(APageServerThatDrops, WaitsUntilWhatItSentIsPlaced) {
  serve(kHeld);
  server_->let_drop(0, std::move(control_));
  say(Kind::kBegin, 0, 0);
  for (std::uint64_t sent = 0; sent < kHeld;) {
    const protocol::PageMessage message = receive();
    ASSERT_EQ(message.kind, Kind::kPages);
    sent += message.count;
    place(message.count - (sent == kHeld ? 1 : 0));
  }
  expect_nothing_dropped();
  place(1);
  expect_dropped(kHeld);
}

TEST_F(APageServerThatDrops, WaitsForTheRestUntilAllIsPlaced) {
  constexpr std::uint64_t kFew = 600;
  serve(kFew);
  server_->let_drop(0, std::move(control_));
  say(Kind::kBegin, 0, 0);
  for (std::uint64_t sent = 0; sent < kFew;) {
    const protocol::PageMessage message = receive();
    ASSERT_EQ(message.kind, Kind::kPages);
    sent += message.count;
    place(message.count - (sent == kFew ? 1 : 0));
  }
  ASSERT_EQ(receive().kind, Kind::kAll);
  expect_nothing_dropped();
  place(1);
  expect_dropped(1024);
}

// It has asked for what is next when it sends.
TEST_F(APageServerThatDrops, WaitsUntilWhatIsLentIsPlaced) {
  serve(kHeld);
  auto [pages, lent] = make_pipe();
  server_->borrow(std::move(control_), std::move(pages));
  say(Kind::kBegin, 0, 0);
  std::uint64_t lent_pages = 0;
  std::uint64_t unplaced = 0;
  while (lent_pages < kHeld) {
    place(unplaced);
    stream_->flush_some();
    const tracee::MemoryRequest request = receive_request();
    ASSERT_EQ(request.kind, tracee::MemoryRequest::Kind::kLend);
    ASSERT_EQ(RemotePtr(request.address), start_ + lent_pages * kPageSize);
    // This process has the same there.
    const iovec memory{reinterpret_cast<void*>(request.address), request.size};
    ASSERT_EQ(::vmsplice(lent.get(), &memory, 1, 0), static_cast<ssize_t>(request.size));
    const protocol::PageMessage message = receive();
    ASSERT_EQ(message.kind, Kind::kPages);
    unplaced = message.count;
    lent_pages += message.count;
  }
  expect_nothing_dropped();
  place(unplaced);
  stream_->flush_some();
  expect_dropped(kHeld);
}

TEST_F(APageServerThatDrops, WaitsUntilItRunsThere) {
  serve(kHeld);
  server_->let_drop(0, std::move(control_));
  for (std::uint64_t sent = 0; sent < kHeld;) {
    say(Kind::kWant, (start_ + sent * kPageSize).value(), 1);
    const protocol::PageMessage message = receive();
    ASSERT_EQ(message.kind, Kind::kPages);
    ASSERT_EQ(RemotePtr(message.address), start_ + sent * kPageSize);
    sent += message.count;
    place(message.count);
  }
  expect_nothing_dropped();
  say(Kind::kBegin, 0, 0);
  expect_dropped(kHeld);
}

}  // namespace
}  // namespace telefork::migrate
