#include "migrate/page_rounds.h"

#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/probe.h"
#include "kernel/procfs_maps.h"

namespace telefork::migrate {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr std::size_t kTrackedPages = 2000;  // more than are read at once

// The first byte of each page that came, by its number in the area.
class Came final : public image::RecordSink {
 public:
  explicit Came(RemotePtr start) : start_(start) {}

  void write(image::RecordType, ::capnp::MessageBuilder&) override { FAIL(); }
  void begin_payload_record(image::RecordType type, ::capnp::MessageBuilder& message,
                            std::uint64_t payload_bytes) override {
    EXPECT_EQ(type, image::RecordType::kPages);
    std::uint64_t bytes = 0;
    for (auto run : message.getRoot<image::schema::Pages>().getRuns()) {
      for (std::uint64_t page = 0; page < run.getPages(); ++page) {
        coming_.push_back((RemotePtr(run.getStart()) - start_) / kPageSize + page);
      }
      bytes += run.getPages() * kPageSize;
    }
    EXPECT_EQ(bytes, payload_bytes);
  }
  void payload(std::span<const std::byte> bytes) override {
    ASSERT_EQ(bytes.size(), coming_.size() * kPageSize);
    for (std::size_t i = 0; i < coming_.size(); ++i) {
      pages[coming_[i]] = std::to_integer<int>(bytes[i * kPageSize]);
    }
    coming_.clear();
  }

  std::map<std::uint64_t, int> pages;

 private:
  RemotePtr start_;
  std::vector<std::uint64_t> coming_;
};

// Of this very process.
class Rounds : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kernel::probe_features().uffd_wp_async) GTEST_SKIP() << "needs: uffd_wp_async";
    void* at = ::mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<std::byte*>(at);
    kernel::Vma area;
    area.start = start();
    area.end = start() + size();
    area.read = area.write = true;
    UniqueFd watch(static_cast<int>(::syscall(SYS_userfaultfd, kernel::WriteWatch::flags())));
    ASSERT_TRUE(watch);
    rounds_.emplace(::getpid(), kernel::pagemap_abi(kernel::probe_features()), std::move(watch),
                    std::vector{area});
  }
  void TearDown() override {
    rounds_.reset();
    if (memory_ != nullptr) ::munmap(memory_, size());
  }

  static constexpr std::size_t size() { return kTrackedPages * kPageSize; }
  RemotePtr start() const { return RemotePtr(reinterpret_cast<std::uint64_t>(memory_)); }
  std::byte* page(std::size_t number) { return memory_ + number * kPageSize; }
  PageRounds::Round send(Came& came) {
    return rounds_->send(came, [this] { ++pieces_; });
  }
  std::map<std::uint64_t, int> next_round() {
    Came came(start());
    send(came);
    return came.pages;
  }

  std::byte* memory_ = nullptr;
  std::optional<PageRounds> rounds_;
  int pieces_ = 0;
};

TEST_F(Rounds, AllThatHoldsSomethingIsOfTheFirst) {
  std::memset(page(5), 1, (kTrackedPages - 10) * kPageSize);
  std::memset(page(9), 0, kPageSize);
  Came came(start());
  const PageRounds::Round round = send(came);
  EXPECT_EQ(round.pages, kTrackedPages - 10);
  EXPECT_EQ(round.sent, kTrackedPages - 11);
  EXPECT_EQ(came.pages.size(), kTrackedPages - 11);
  EXPECT_EQ(came.pages.count(9), 0u);
  EXPECT_GT(pieces_, 0);
}

TEST_F(Rounds, WhatIsWrittenIsOfTheNext) {
  std::memset(page(0), 1, kTrackedPages * kPageSize);
  next_round();
  EXPECT_THAT(next_round(), IsEmpty());
  *page(3) = std::byte{3};
  *page(4) = std::byte{4};
  *page(1999) = std::byte{5};
  EXPECT_THAT(next_round(), ElementsAre(Pair(3, 3), Pair(4, 4), Pair(1999, 5)));
  *page(4) = std::byte{6};
  EXPECT_THAT(next_round(), ElementsAre(Pair(4, 6)));
  EXPECT_THAT(next_round(), IsEmpty());
}

TEST_F(Rounds, WhatWasNotThereBeforeIsOfTheNext) {
  next_round();
  *page(7) = std::byte{7};
  EXPECT_THAT(next_round(), ElementsAre(Pair(7, 7)));
}

TEST_F(Rounds, WhatIsDroppedOrZeroOrGoneIsNotSent) {
  std::memset(page(0), 1, kTrackedPages * kPageSize);
  next_round();
  ASSERT_EQ(::madvise(page(10), kPageSize, MADV_DONTNEED), 0);
  std::memset(page(11), 0, kPageSize);
  *page(12) = std::byte{12};
  ASSERT_EQ(::mprotect(page(12), kPageSize, PROT_NONE), 0);
  *page(14) = std::byte{14};
  ASSERT_EQ(::munmap(page(14), 2 * kPageSize), 0);
  *page(20) = std::byte{20};
  const auto came = next_round();
  EXPECT_EQ(came.count(10), 0u);
  EXPECT_EQ(came.count(11), 0u);
  EXPECT_EQ(came.count(14), 0u);
  EXPECT_EQ(came.at(20), 20);
}

}  // namespace
}  // namespace telefork::migrate
