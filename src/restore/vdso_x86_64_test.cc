#include "restore/vdso.h"

#include <cerrno>
#include <ctime>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mapped_region.h"
#include "restore/vdso_jump.h"
#include "restore/vdso_sample.h"

namespace telefork::restore {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kSize = 0x2000;
constexpr RemotePtr kOld(0x7000'0000'0000);
constexpr RemotePtr kNew(0x7000'1000'0000);

std::vector<std::byte> part(const std::vector<std::byte>& image, std::uint64_t offset,
                            std::size_t size) {
  auto from = image.begin() + static_cast<std::ptrdiff_t>(offset);
  return {from, from + static_cast<std::ptrdiff_t>(size)};
}

template <class F>
std::string corrupt_text(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt) << error.text();
    return error.text();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

// Where a redirected function can be called.
class Executable {
 public:
  explicit Executable(std::size_t size) : region_(size) {}
  RemotePtr start() const { return RemotePtr(reinterpret_cast<std::uint64_t>(region_.data())); }
  void fill(const std::vector<std::byte>& code) {
    std::memcpy(region_.data(), code.data(), code.size());
    ASSERT_EQ(::mprotect(region_.data(), code.size(), PROT_READ | PROT_EXEC), 0);
  }
  template <class F>
  F* function(std::uint64_t offset) const {
    return reinterpret_cast<F*>((start() + offset).value());
  }

 private:
  MappedRegion region_;
};

using ClockGettime = int(clockid_t, timespec*);
using Gettimeofday = int(timeval*, void*);
using Time = time_t(time_t*);
using Getcpu = long(unsigned*, unsigned*, void*);

bool not_after(const timespec& a, const timespec& b) {
  return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec <= b.tv_nsec);
}

TEST(VdsoSymbols, AreThoseOfTheRunningKernel) {
  VdsoSample own = VdsoSample::own();
  ASSERT_FALSE(own.code.empty());
  VdsoSymbols symbols = vdso_symbols(own.code);
  for (const char* name : {"__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time",
                           "__vdso_getcpu", "clock_gettime"}) {
    EXPECT_EQ(symbols.count(name), 1u) << name;
  }
  EXPECT_EQ(symbols.count("LINUX_2.6"), 0u) << "a version is no function";
}

TEST(VdsoSymbols, AreThoseThatWereMade) {
  VdsoSymbols symbols = {{"__vdso_time", 0x1800}, {"clock_gettime", 0x1010}};
  EXPECT_EQ(vdso_symbols(make_vdso(kSize, symbols)), symbols);
}

TEST(RedirectVdso, PutsAJumpToTheNewFunctionAtEveryOldOne) {
  auto old_image = make_vdso(kSize, {{"__vdso_time", 0x1800}, {"__vdso_getcpu", 0x1000}});
  auto new_image = make_vdso(kSize, {{"__vdso_time", 0x1100}, {"__vdso_getcpu", 0x1900}});
  auto patched = redirect_vdso(old_image, kOld, new_image, kNew);
  ASSERT_EQ(patched.size(), kSize);
  auto time = encode_jump(kOld + 0x1800, kNew + 0x1100);
  auto getcpu = encode_jump(kOld + 0x1000, kNew + 0x1900);
  EXPECT_EQ(part(patched, 0x1800, time.size()), time);
  EXPECT_EQ(part(patched, 0x1000, getcpu.size()), getcpu);
  // And nothing else is changed.
  std::copy_n(old_image.begin() + 0x1800, time.size(), patched.begin() + 0x1800);
  std::copy_n(old_image.begin() + 0x1000, getcpu.size(), patched.begin() + 0x1000);
  EXPECT_EQ(patched, old_image);
}

TEST(RedirectVdso, LeadsOldEntryPointsToTheFunctionsOfTheRunningKernel) {
  VdsoSample own = VdsoSample::own();
  auto old_image = make_vdso(kSize, {{"__vdso_clock_gettime", 0x1ff0},
                                     {"__vdso_gettimeofday", 0x1fe0},
                                     {"__vdso_time", 0x1000},
                                     {"__vdso_getcpu", 0x1010}});
  Executable at(kSize);
  at.fill(redirect_vdso(old_image, at.start(), own.code, own.start));
  timespec before{};
  timespec between{};
  timespec after{};
  ASSERT_EQ(::syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before), 0);
  ASSERT_EQ(at.function<ClockGettime>(0x1ff0)(CLOCK_MONOTONIC, &between), 0);
  ASSERT_EQ(::syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after), 0);
  EXPECT_TRUE(not_after(before, between) && not_after(between, after));
  timeval now{};
  EXPECT_EQ(at.function<Gettimeofday>(0x1fe0)(&now, nullptr), 0);
  EXPECT_GT(now.tv_sec, 0);
  time_t first = ::syscall(SYS_time, nullptr);
  time_t second = at.function<Time>(0x1000)(nullptr);
  EXPECT_LE(first, second);
  EXPECT_LE(second, ::syscall(SYS_time, nullptr));
  unsigned cpu = ~0u;
  EXPECT_EQ(at.function<Getcpu>(0x1010)(&cpu, nullptr, nullptr), 0);
  EXPECT_LT(cpu, static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_CONF)));
}

TEST(RedirectVdso, MakesTheSystemCallWhereTheNewOneLacksAFunction) {
  auto old_image = make_vdso(kSize, {{"__vdso_clock_gettime", 0x1000},
                                     {"__vdso_time", 0x1100},
                                     {"getcpu", 0x1200},
                                     {"__vdso_getrandom", 0x1300}});
  Executable at(kSize);
  at.fill(redirect_vdso(old_image, at.start(), make_vdso(kSize, {}), kNew));
  timespec before{};
  timespec between{};
  ASSERT_EQ(::clock_gettime(CLOCK_MONOTONIC, &before), 0);
  ASSERT_EQ(at.function<ClockGettime>(0x1000)(CLOCK_MONOTONIC, &between), 0);
  EXPECT_TRUE(not_after(before, between));
  // As a vDSO does, and not as the C library: an error is the result.
  EXPECT_EQ(at.function<ClockGettime>(0x1000)(12345, &between), -EINVAL);
  EXPECT_GT(at.function<Time>(0x1100)(nullptr), 0);
  unsigned cpu = ~0u;
  EXPECT_EQ(at.function<Getcpu>(0x1200)(&cpu, nullptr, nullptr), 0);
  EXPECT_NE(cpu, ~0u);
  // The state that the caller keeps for the function is of no use to the call.
  char random[16] = {};
  using Getrandom = ssize_t(void*, std::size_t, unsigned, void*, std::size_t);
  EXPECT_EQ(at.function<Getrandom>(0x1300)(random, sizeof(random), 0, random, 1), 16);
}

TEST(RedirectVdso, RefusesWhereAMissingFunctionHasNoSystemCall) {
  auto old_image = make_vdso(kSize, {{"__vdso_sgx_enter_enclave", 0x1000}});
  try {
    redirect_vdso(old_image, kOld, make_vdso(kSize, {}), kNew);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    EXPECT_THAT(error.text(), HasSubstr("__vdso_sgx_enter_enclave"));
  }
}

TEST(RedirectVdso, TakesTwoNamesOfOneFunction) {
  auto old_image = make_vdso(kSize, {{"__vdso_time", 0x1000}, {"time", 0x1000}});
  auto new_image = make_vdso(kSize, {{"__vdso_time", 0x1100}, {"time", 0x1100}});
  auto patched = redirect_vdso(old_image, kOld, new_image, kNew);
  auto jump = encode_jump(kOld + 0x1000, kNew + 0x1100);
  EXPECT_EQ(part(patched, 0x1000, jump.size()), jump);
}

// The code of the one would lie in the other's first instructions.
TEST(RedirectVdso, RefusesFunctionsThatAreShorterThanAJump) {
  auto old_image = make_vdso(kSize, {{"__vdso_time", 0x1000}, {"__vdso_getcpu", 0x1008}});
  auto new_image = make_vdso(kSize, {{"__vdso_time", 0x1000}, {"__vdso_getcpu", 0x1100}});
  try {
    redirect_vdso(old_image, kOld, new_image, kNew);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
  }
}

TEST(RedirectVdso, RefusesAFunctionAtTheVeryEnd) {
  auto old_image = make_vdso(kSize, {{"__vdso_time", kSize - 4}});
  corrupt_text([&] { redirect_vdso(old_image, kOld, old_image, kNew); });
}

TEST(VdsoSymbols, LeavesOutWhatLiesOutsideOfTheImage) {
  auto image = make_vdso(kSize, {{"__vdso_time", kSize}, {"time", ~std::uint64_t{0}}});
  EXPECT_TRUE(vdso_symbols(image).empty());
}

TEST(VdsoSymbols, RefusesWhatIsNoElfFile) {
  EXPECT_THAT(corrupt_text([] { vdso_symbols({}); }), HasSubstr("damaged"));
  std::vector<std::byte> zeros(kSize);
  EXPECT_THAT(corrupt_text([&] { vdso_symbols(zeros); }), HasSubstr("no ELF file"));
}

// Every prefix, and every number in its tables made absurd: an answer, or kCorrupt, and no read
// outside of the image (which the sanitizers see).
TEST(VdsoSymbols, SurvivesDamageOfEveryKind) {
  std::vector<std::byte> image = make_vdso(0x400, {{"__vdso_time", 0x300}, {"getcpu", 0x380}});
  unsigned refused = 0;
  auto attempt = [&](std::span<const std::byte> damaged) {
    // On the heap and of this very size.
    std::vector<std::byte> exact(damaged.begin(), damaged.end());
    try {
      vdso_symbols(exact);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt);
      ++refused;
    }
  };
  std::span<const std::byte> whole(image);
  for (std::size_t size = 0; size < image.size(); ++size) attempt(whole.first(size));
  EXPECT_GT(refused, VdsoMaker::kTables);
  refused = 0;
  for (std::size_t at = 0; at + 8 <= image.size(); at += 4) {
    for (std::uint64_t value :
         {std::uint64_t{0}, std::uint64_t{0x3ff}, std::uint64_t{0x400}, ~std::uint64_t{0},
          ~std::uint64_t{0} - 55, std::uint64_t{1} << 63}) {
      std::vector<std::byte> damaged = image;
      std::memcpy(damaged.data() + at, &value, sizeof(value));
      attempt(damaged);
    }
  }
  EXPECT_GT(refused, 0u);
}

}  // namespace
}  // namespace telefork::restore
