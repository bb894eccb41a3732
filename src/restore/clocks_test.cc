#include "restore/clocks.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::restore {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kDay = 86'400 * kSecond;

HostClocks host_clocks() {
  HostClocks host;
  host.boot_id = "this boot";
  host.monotonic = 1000 * kSecond + 7;
  host.boottime = 3000 * kSecond + 9;
  return host;
}

class GuestClocks {
 public:
  explicit GuestClocks(const char* boot_id) : clocks_(message_.initRoot<image::schema::Clocks>()) {
    clocks_.setBootId(boot_id);
  }
  GuestClocks& say(std::int64_t monotonic, std::int64_t boottime) {
    clocks_.setMonotonic(monotonic);
    clocks_.setBoottime(boottime);
    return *this;
  }
  GuestClocks& shift(std::int64_t monotonic, std::int64_t boottime) {
    clocks_.setMonotonicOffset(monotonic);
    clocks_.setBoottimeOffset(boottime);
    return *this;
  }
  std::optional<ClockChange> plan(const HostClocks& host = host_clocks()) const {
    return plan_clocks(clocks_.asReader(), host);
  }

 private:
  ::capnp::MallocMessageBuilder message_;
  image::schema::Clocks::Builder clocks_;
};

TEST(PlanClocks, ChangesNothingInTheSameBoot) {
  EXPECT_FALSE(GuestClocks("this boot").say(5, 6).plan());
}

TEST(PlanClocks, KeepsTheOffsetsExactlyInTheSameBoot) {
  auto change = GuestClocks("this boot").say(5, 6).shift(kDay + 1, -3).plan();
  ASSERT_TRUE(change);
  EXPECT_EQ(change->offsets.monotonic, (kernel::TimeOffset{86'400, 1}));
  EXPECT_EQ(change->offsets.boottime, (kernel::TimeOffset{-1, kSecond - 3}));
}

TEST(PlanClocks, NeedsNoNamespaceWhereTheKeepersIsTheSame) {
  HostClocks host = host_clocks();
  host.offsets.monotonic = {86'400, 1};
  EXPECT_FALSE(GuestClocks("this boot").say(5, 6).shift(kDay + 1, 0).plan(host));
}

TEST(PlanClocks, GoesHomeFromTheNamespaceOfTheKeeper) {
  HostClocks host = host_clocks();
  host.offsets.monotonic = {50, 0};
  auto change = GuestClocks("this boot").say(5, 6).plan(host);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->offsets, kernel::TimeNamespaceOffsets());
  EXPECT_EQ(change->monotonic_jump, 50 * kSecond);
}

TEST(PlanClocks, GoesOnFromWhatTheyWereElsewhere) {
  auto change = GuestClocks("other").say(kDay, 2 * kDay).shift(77, 78).plan();
  ASSERT_TRUE(change);
  EXPECT_EQ(change->offsets.monotonic.total_nanoseconds(), kDay - 1000 * kSecond - 7);
  EXPECT_EQ(change->offsets.boottime.total_nanoseconds(), 2 * kDay - 3000 * kSecond - 9);
  EXPECT_EQ(change->monotonic_jump, -(kDay - 1000 * kSecond - 7));
}

// What the keeper's own clocks say has its namespace's offset in it, which the new one has not.
TEST(PlanClocks, CountsTheKeepersOwnOffsetOnce) {
  HostClocks host = host_clocks();
  host.offsets.monotonic = {600, 0};
  auto change = GuestClocks("other").say(kDay, 0).plan(host);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->offsets.monotonic.total_nanoseconds(), kDay - 400 * kSecond - 7);
  EXPECT_EQ(change->monotonic_jump, 1000 * kSecond + 7 - kDay);
}

TEST(PlanClocks, GoesOnWhereTheOffsetsAreNotTold) {
  EXPECT_TRUE(GuestClocks("").say(kDay, kDay).plan());
  HostClocks host = host_clocks();
  host.boot_id = "";
  EXPECT_TRUE(GuestClocks("").say(kDay, kDay).plan(host));
}

TEST(PlanClocks, RefusesWhatNoClockCanSay) {
  auto code_of = [](const GuestClocks& clocks) {
    try {
      static_cast<void>(clocks.plan());
    } catch (const Error& error) {
      return error.code();
    }
    return Code::kFailed;
  };
  EXPECT_EQ(code_of(GuestClocks("other").say(-1, 0)), Code::kCorrupt);
  EXPECT_EQ(code_of(GuestClocks("other").say(0, INT64_MAX)), Code::kCorrupt);
  EXPECT_EQ(code_of(GuestClocks("this boot").shift(INT64_MIN, 0)), Code::kCorrupt);
  EXPECT_EQ(code_of(GuestClocks("this boot").shift(0, INT64_MAX)), Code::kCorrupt);
}

TEST(DescribeJump, NamesTheSeconds) {
  ClockChange change;
  change.monotonic_jump = -kDay;
  change.boottime_jump = 3 * kSecond;
  EXPECT_EQ(describe_jump(change),
            "its CLOCK_MONOTONIC jumps by -86400 s, its CLOCK_BOOTTIME by +3 s");
}

}  // namespace
}  // namespace telefork::restore
