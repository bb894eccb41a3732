// To a kernel whose vDSO is another build: what the program called before it travelled, it calls
// through the same pointers afterwards.
#include <sched.h>
#include <algorithm>
#include <ctime>

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/probe_tries.h"
#include "kernel/procfs.h"
#include "migrate/round_trip.h"
#include "restore/vdso_sample.h"

namespace telefork::migrate {
namespace {

using image::RecordType;
using restore::VdsoSample;

class RoundTripToAnotherVdso : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

// The image's vDSO becomes `code`: as if it came from a kernel that has that one.
TripOptions from_vdso(const std::vector<std::byte>& code) {
  TripOptions options;
  options.edit = [code](RecordType type, ::capnp::MallocMessageBuilder& message) {
    if (type != RecordType::kProcess) return;
    message.getRoot<image::schema::Process>().getVdso().setCode(
        ::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(code.data()), code.size()));
  };
  options.compare = false;  // the vDSO lies elsewhere
  return options;
}

// Another build id, and nothing else.
std::vector<std::byte> another_build(std::vector<std::byte> code) {
  // n_type NT_GNU_BUILD_ID, and the name.
  constexpr char kNote[] = {3, 0, 0, 0, 'G', 'N', 'U', 0};
  const auto* pattern = reinterpret_cast<const std::byte*>(kNote);
  auto note = std::search(code.begin(), code.end(), pattern, pattern + sizeof(kNote));
  if (note == code.end()) throw Error(Code::kFailed, "the vDSO has no build id");
  for (int i = 0; i < 20; ++i) note[sizeof(kNote) + i] ^= std::byte{0xff};
  return code;
}

// What libc has of a vDSO.
struct Functions {
  int (*clock_gettime)(clockid_t, timespec*);
  int (*gettimeofday)(timeval*, void*);
  time_t (*time)(time_t*);
  int (*getcpu)(unsigned*, unsigned*, void*);

  static Functions at(RemotePtr start, restore::VdsoSymbols symbols) {
    Functions f{};
    auto set = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::decay_t<decltype(function)>>((start + symbols.at(name)).value());
    };
    set(f.clock_gettime, "__vdso_clock_gettime");
    set(f.gettimeofday, "__vdso_gettimeofday");
    set(f.time, "__vdso_time");
    set(f.getcpu, "__vdso_getcpu");
    return f;
  }
  static Functions of_libc() {
    return {[](clockid_t clock, timespec* to) { return ::clock_gettime(clock, to); },
            [](timeval* to, void*) { return ::gettimeofday(to, nullptr); },
            [](time_t* to) { return ::time(to); },
            [](unsigned* cpu, unsigned* node, void*) { return ::getcpu(cpu, node); }};
  }
};

std::int64_t microseconds(const timeval& time) { return time.tv_sec * 1'000'000 + time.tv_usec; }
std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// The system calls tell what is right.
void verify_functions(const Functions& f) {
  for (clockid_t clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME}) {
    timespec times[3];
    VERIFY(::syscall(SYS_clock_gettime, clock, &times[0]) == 0);
    VERIFY(f.clock_gettime(clock, &times[1]) == 0);
    VERIFY(::syscall(SYS_clock_gettime, clock, &times[2]) == 0);
    VERIFY(nanoseconds(times[0]) <= nanoseconds(times[1]));
    VERIFY(nanoseconds(times[1]) <= nanoseconds(times[2]));
  }
  timeval of_day[3];
  VERIFY(::syscall(SYS_gettimeofday, &of_day[0], nullptr) == 0);
  VERIFY(f.gettimeofday(&of_day[1], nullptr) == 0);
  VERIFY(::syscall(SYS_gettimeofday, &of_day[2], nullptr) == 0);
  VERIFY(microseconds(of_day[0]) <= microseconds(of_day[1]));
  VERIFY(microseconds(of_day[1]) <= microseconds(of_day[2]));
  time_t first = ::syscall(SYS_time, nullptr);
  time_t second = f.time(nullptr);
  VERIFY(first <= second && second <= ::syscall(SYS_time, nullptr));
}

// On one CPU there is one answer.
void verify_getcpu(const Functions& f) {
  cpu_set_t all;
  VERIFY(::sched_getaffinity(0, sizeof(all), &all) == 0);
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    VERIFY(::sched_setaffinity(0, sizeof(one), &one) == 0);
    unsigned told = ~0u;
    unsigned node = ~0u;
    VERIFY(f.getcpu(&told, &node, nullptr) == 0);
    VERIFY(told == cpu);
  }
}

TEST_F(RoundTripToAnotherVdso, CallsAnotherBuildThroughTheLibrarysPointers) {
  VdsoSample own = VdsoSample::own();
  expect_survives(
      [](Self& self) {
        verify_functions(Functions::of_libc());
        bool moved = self.travel();
        verify_functions(Functions::of_libc());
        verify_getcpu(Functions::of_libc());
        // It lies beside what it stands in for now.
        RemotePtr told(::getauxval(AT_SYSINFO_EHDR));
        VERIFY((VdsoSample::own().start != told) == moved);
      },
      from_vdso(another_build(own.code)));
}

TEST_F(RoundTripToAnotherVdso, CallsFunctionsThatLieElsewhereThroughTheOldPointers) {
  VdsoSample own = VdsoSample::own();
  restore::VdsoSymbols elsewhere = {{"__vdso_clock_gettime", own.code.size() - 16},
                                    {"__vdso_gettimeofday", own.code.size() - 64},
                                    {"__vdso_time", own.code.size() - 32},
                                    {"__vdso_getcpu", own.code.size() - 128}};
  expect_survives(
      [&](Self& self) {
        // What its library had found there. This machine's vDSO has no functions at these places.
        Functions f = Functions::at(own.start, elsewhere);
        if (!self.travel()) return;
        verify_functions(f);
        verify_getcpu(f);
      },
      from_vdso(restore::make_vdso(own.code.size(), elsewhere)));
}

// Both have to do with the pages that the kernel's functions read.
TEST_F(RoundTripToAnotherVdso, TellsTheTimeOfItsTimeNamespace) {
  if (!kernel::has_time_namespace()) GTEST_SKIP() << "needs: time_namespace";
  TripOptions options = from_vdso(another_build(VdsoSample::own().code));
  options.edit = [put_vdso = options.edit](RecordType type,
                                           ::capnp::MallocMessageBuilder& message) {
    put_vdso(type, message);
    if (type != RecordType::kProcess) return;
    auto clocks = message.getRoot<image::schema::Process>().getClocks();
    clocks.setMonotonic(clocks.getMonotonic() + 86'400'000'000'000);
    clocks.setBootId("of another machine");
  };
  expect_survives(
      [](Self& self) {
        timespec before{};
        VERIFY(::clock_gettime(CLOCK_MONOTONIC, &before) == 0);
        std::int64_t ahead = self.travel() ? 86'400'000'000'000 : 0;
        timespec after{};
        VERIFY(::clock_gettime(CLOCK_MONOTONIC, &after) == 0);
        VERIFY(nanoseconds(after) >= nanoseconds(before) + ahead);
        verify_functions(Functions::of_libc());
      },
      options);
}

TEST_F(RoundTripToAnotherVdso, MakesTheSystemCallForAFunctionThatIsGone) {
  VdsoSample own = VdsoSample::own();
  // x86 has it with a prefix only (arch/x86/entry/vdso/vdso.lds.S), like getcpu of old.
  restore::VdsoSymbols gone = {{"getrandom", own.code.size() - 16}};
  expect_survives(
      [&](Self& self) {
        using Getrandom = ssize_t(void*, std::size_t, unsigned, void*, std::size_t);
        auto* getrandom = reinterpret_cast<Getrandom*>((own.start + own.code.size() - 16).value());
        if (!self.travel()) return;
        char random[16] = {};
        VERIFY(getrandom(random, sizeof(random), 0, nullptr, 0) == sizeof(random));
      },
      from_vdso(restore::make_vdso(own.code.size(), gone)));
}

TEST_F(RoundTripToAnotherVdso, IsRefusedWithAFunctionThatNothingStandsInFor) {
  VdsoSample own = VdsoSample::own();
  Traveller traveller([](Self& self) { self.travel(); });
  TripOptions options = from_vdso(
      restore::make_vdso(own.code.size(), {{"__vdso_of_tomorrow", own.code.size() - 16}}));
  traveller.save(options);
  try {
    traveller.load(options);
    FAIL() << "it was restored";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    EXPECT_NE(error.text().find("__vdso_of_tomorrow"), std::string::npos);
  }
}

TEST_F(RoundTripToAnotherVdso, RefusesADamagedOne) {
  VdsoSample own = VdsoSample::own();
  for (std::size_t size : {std::size_t{0}, std::size_t{63}, own.code.size() / 2}) {
    Traveller traveller([](Self& self) { self.travel(); });
    std::vector<std::byte> cut(own.code.begin(),
                               own.code.begin() + static_cast<std::ptrdiff_t>(size));
    if (size > 63) std::fill(cut.begin() + 64, cut.end(), std::byte{0xff});
    TripOptions options = from_vdso(cut);
    traveller.save(options);
    try {
      traveller.load(options);
      ADD_FAILURE() << "it was restored";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt) << error.text();
    }
  }
}

}  // namespace
}  // namespace telefork::migrate
