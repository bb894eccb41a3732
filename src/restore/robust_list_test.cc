#include "restore/robust_list.h"

#include <map>

#include <gtest/gtest.h>
#include <linux/futex.h>

namespace telefork::restore {
namespace {

constexpr std::uint32_t kTid = 4711;
constexpr std::uint64_t kHead = 0x1000;
constexpr std::uint64_t kNull = 0;

// Words of memory: a list whose locks have their word 32 bytes ahead of their entry, as glibc's.
class ARobustList : public ::testing::Test {
 protected:
  ARobustList() {
    words_[kHead] = kHead;
    words_[kHead + 8] = static_cast<std::uint64_t>(-32);
    words_[kHead + 16] = kNull;
  }
  // Ahead of the others.
  void add(std::uint64_t entry, std::uint64_t word, std::uint64_t flag = 0) {
    words_[entry] = words_[kHead];
    words_[kHead] = entry | flag;
    words_[entry - 32] = word;
  }
  std::vector<std::uint64_t> held() const {
    std::vector<std::uint64_t> at;
    for (const HeldLock& lock : locks()) at.push_back(lock.word.value());
    return at;
  }
  std::vector<HeldLock> locks() const {
    return find_held_locks(RemotePtr(kHead), kTid, [this](RemotePtr at) {
      auto word = words_.find(at.value());
      return word == words_.end() ? std::nullopt : std::optional(word->second);
    });
  }

  std::map<std::uint64_t, std::uint64_t> words_;
};

using Addresses = std::vector<std::uint64_t>;

TEST_F(ARobustList, MayBeEmpty) {
  EXPECT_EQ(held(), Addresses{});
  EXPECT_TRUE(find_held_locks(RemotePtr(), kTid, {}).empty());
}

TEST_F(ARobustList, HasTheLocksThatTheThreadHolds) {
  add(0x2020, kTid);
  add(0x3020, kTid + 1);
  add(0x4020, kTid | FUTEX_WAITERS, 1);
  EXPECT_EQ(held(), (Addresses{0x4000, 0x2000}));
  EXPECT_EQ(locks()[0].value_for(17), 17 | FUTEX_WAITERS);
  EXPECT_EQ(locks()[1].value_for(17), 17U);
}

TEST_F(ARobustList, HasOneThatIsBeingTakenOnce) {
  words_[0x5000] = kTid;
  words_[kHead + 16] = 0x5020;
  EXPECT_EQ(held(), Addresses{0x5000});
  add(0x5020, kTid);
  EXPECT_EQ(held(), Addresses{0x5000});
}

TEST_F(ARobustList, HasWordsThatAreAHalf) {
  words_[kHead + 8] = static_cast<std::uint64_t>(-28);
  add(0x2020, std::uint64_t{kTid} << 32);
  words_[0x2000] = std::uint64_t{kTid} << 32;
  EXPECT_EQ(held(), Addresses{0x2004});
  EXPECT_EQ(locks()[0].value, kTid);
}

TEST_F(ARobustList, EndsWhereItLeadsNowhere) {
  add(0x2020, kTid);
  words_[0x2020] = 0x9000;
  EXPECT_EQ(held(), Addresses{0x2000});
  words_[0x2020] = 0x9001 + 3;
  EXPECT_EQ(held(), Addresses{0x2000});
  words_[kHead + 8] = 3;
  EXPECT_EQ(held(), Addresses{});
  words_.erase(kHead + 8);
  EXPECT_EQ(held(), Addresses{});
}

TEST_F(ARobustList, ThatIsARingEnds) {
  add(0x2020, kTid);
  words_[0x2020] = 0x2020;
  EXPECT_EQ(held().size(), std::size_t{ROBUST_LIST_LIMIT});
}

}  // namespace
}  // namespace telefork::restore
