// From another machine, whose clocks differ by days: an image whose clocks are put on says that it
// comes from such a one.
#include <csignal>
#include <ctime>

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/probe_tries.h"
#include "kernel/procfs.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

using image::RecordType;

constexpr std::int64_t kOneSecond = 1'000'000'000;
constexpr std::int64_t kDay = 86'400 * kOneSecond;

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * kOneSecond + time.tv_nsec;
}

// Through the vDSO.
std::int64_t told(clockid_t clock) {
  timespec time{};
  VERIFY(::clock_gettime(clock, &time) == 0);
  return nanoseconds(time);
}

std::int64_t asked_of_the_kernel(clockid_t clock) {
  timespec time{};
  VERIFY(::syscall(SYS_clock_gettime, clock, &time) == 0);
  return nanoseconds(time);
}

// From a machine that had run a day longer; to its own boot, if `same_boot`.
TripOptions from_a_day_ahead(bool same_boot = false) {
  TripOptions options;
  options.edit = [same_boot](RecordType type, ::capnp::MallocMessageBuilder& message) {
    if (type != RecordType::kProcess) return;
    auto clocks = message.getRoot<image::schema::Process>().getClocks();
    clocks.setMonotonic(clocks.getMonotonic() + kDay);
    clocks.setBoottime(clocks.getBoottime() + 2 * kDay);
    clocks.setMonotonicOffset(clocks.getMonotonicOffset() + kDay);
    clocks.setBoottimeOffset(clocks.getBoottimeOffset() + 2 * kDay);
    if (!same_boot) clocks.setBootId("of another machine");
  };
  // The VMA of the vDSO's data has another page, and that is all.
  options.compare_images = false;
  return options;
}

class RoundTripOfClocks : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_PIDS();
    if (!kernel::has_time_namespace()) GTEST_SKIP() << "needs: time_namespace";
  }
};

// `least` is what the clocks must have gone on by.
void verify_clock(clockid_t clock, std::int64_t before, std::int64_t ahead) {
  // The day passes for nobody: it is less than a second day.
  VERIFY(told(clock) >= before + ahead && told(clock) < before + ahead + kDay);
  std::int64_t first = asked_of_the_kernel(clock);
  std::int64_t second = told(clock);
  VERIFY(first <= second && second <= asked_of_the_kernel(clock));
}

TEST_F(RoundTripOfClocks, GoOnFromWhatTheOtherMachinesWere) {
  TripReport report = expect_survives(
      [](Self& self) {
        std::int64_t monotonic = told(CLOCK_MONOTONIC);
        std::int64_t boottime = told(CLOCK_BOOTTIME);
        std::int64_t realtime = told(CLOCK_REALTIME);
        bool moved = self.travel();
        verify_clock(CLOCK_MONOTONIC, monotonic, moved ? kDay : 0);
        verify_clock(CLOCK_BOOTTIME, boottime, moved ? 2 * kDay : 0);
        verify_clock(CLOCK_REALTIME, realtime, 0);
        // Its children have the same.
        pid_t child = ::fork();
        if (child == 0) {
          verify_clock(CLOCK_MONOTONIC, monotonic, moved ? kDay : 0);
          ::_exit(0);
        }
        int status = -1;
        VERIFY(::waitpid(child, &status, 0) == child && status == 0);
      },
      from_a_day_ahead());
  EXPECT_TRUE(report.warnings.empty());
}

TEST_F(RoundTripOfClocks, AreTheSameToTheNanosecondInTheSameBoot) {
  kernel::TimeNamespaceOffsets offsets;
  TripOptions options = from_a_day_ahead(true);
  options.restored = [&](pid_t pid) { offsets = kernel::read_timens_offsets(pid); };
  expect_survives(
      [](Self& self) {
        std::int64_t monotonic = told(CLOCK_MONOTONIC);
        bool moved = self.travel();
        verify_clock(CLOCK_MONOTONIC, monotonic, moved ? kDay : 0);
      },
      options);
  kernel::TimeNamespaceOffsets own = kernel::read_timens_offsets(::getpid());
  EXPECT_EQ(offsets.monotonic.total_nanoseconds() - own.monotonic.total_nanoseconds(), kDay);
  EXPECT_EQ(offsets.boottime.total_nanoseconds() - own.boottime.total_nanoseconds(), 2 * kDay);
}

// A guest that travels on takes its offsets along, or leaves them where they are not needed.
TEST_F(RoundTripOfClocks, AreKeptOnASecondJourney) {
  Traveller traveller([](Self& self) {
    std::int64_t monotonic = told(CLOCK_MONOTONIC);
    self.travel();
    verify_clock(CLOCK_MONOTONIC, monotonic, kDay);
  });
  TripOptions options = from_a_day_ahead();
  traveller.save(options);
  traveller.load(options);
  kernel::TimeNamespaceOffsets before = kernel::read_timens_offsets(traveller.pid());
  // It has not run yet, and waits where it waited.
  traveller.save({});
  traveller.load({});
  EXPECT_EQ(kernel::read_timens_offsets(traveller.pid()), before);
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

TEST_F(RoundTripOfClocks, LeaveTheKeepersOwnAlone) {
  auto namespaces = [] {
    return kernel::read_ns_link(::getpid(), "time") + " " +
           kernel::read_ns_link(::getpid(), "time_for_children");
  };
  std::string before = namespaces();
  std::string of_guest;
  TripOptions options = from_a_day_ahead();
  options.restored = [&](pid_t pid) {
    of_guest =
        kernel::read_ns_link(pid, "time") + " " + kernel::read_ns_link(pid, "time_for_children");
  };
  expect_survives([](Self& self) { self.travel(); }, options);
  EXPECT_EQ(namespaces(), before);
  EXPECT_NE(of_guest, before);
}

TEST_F(RoundTripOfClocks, MakeNoNamespaceWhereNothingDiffers) {
  std::string of_guest;
  TripOptions options;
  options.restored = [&](pid_t pid) { of_guest = kernel::read_ns_link(pid, "time"); };
  expect_survives([](Self& self) { self.travel(); }, options);
  EXPECT_EQ(of_guest, kernel::read_ns_link(::getpid(), "time"));
}

// The deadline is one of the old clock.
TEST_F(RoundTripOfClocks, FireATimerAtItsAbsoluteTime) {
  TripOptions options = from_a_day_ahead();
  options.compare = false;
  expect_survives(
      [](Self& self) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        pthread_sigmask(SIG_BLOCK, &set, nullptr);
        sigevent event{};
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGRTMIN;
        int id = -1;
        VERIFY(::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) == 0);
        // Not before it is on its way, however busy the machine is.
        std::int64_t deadline = told(CLOCK_MONOTONIC) + 4 * kOneSecond;
        itimerspec value{{0, 0}, {deadline / kOneSecond, deadline % kOneSecond}};
        VERIFY(::syscall(SYS_timer_settime, id, TIMER_ABSTIME, &value, nullptr) == 0);
        if (self.travel()) deadline += kDay;
        timespec patience = {20, 0};
        VERIFY(::sigtimedwait(&set, nullptr, &patience) == SIGRTMIN);
        VERIFY(told(CLOCK_MONOTONIC) >= deadline);
      },
      options);
}

// Computed after the journey from what the clock says: the kernel's timers know the namespace.
TEST_F(RoundTripOfClocks, SleepUntilAnAbsoluteTime) {
  expect_survives(
      [](Self& self) {
        std::int64_t before = told(CLOCK_MONOTONIC);
        bool moved = self.travel();
        std::int64_t until = before + (moved ? kDay : 0);
        timespec passed{until / kOneSecond, until % kOneSecond};
        VERIFY(::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &passed, nullptr) == 0);
        until = told(CLOCK_MONOTONIC) + kOneSecond / 50;
        timespec soon{until / kOneSecond, until % kOneSecond};
        VERIFY(::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &soon, nullptr) == 0);
        VERIFY(told(CLOCK_MONOTONIC) >= until);
      },
      from_a_day_ahead());
}

class RoundTripWithoutTimeNamespace : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

TEST_F(RoundTripWithoutTimeNamespace, JumpsAndSaysByHowMuch) {
  TripOptions options = from_a_day_ahead(true);
  options.settings = [](restore::RestoreSettings& settings) { settings.time_namespace = false; };
  TripReport report = expect_survives(
      [](Self& self) {
        std::int64_t monotonic = told(CLOCK_MONOTONIC);
        self.travel();
        verify_clock(CLOCK_MONOTONIC, monotonic, 0);
      },
      options);
  ASSERT_EQ(report.warnings.size(), 1u);
  EXPECT_NE(report.warnings[0].find("CLOCK_MONOTONIC jumps by -86400 s"), std::string::npos)
      << report.warnings[0];
}

// What the kernel will not have: the guest runs all the same, and why is told.
TEST_F(RoundTripWithoutTimeNamespace, TellsWhatTheKernelSays) {
  TripOptions options;
  options.edit = [](RecordType type, ::capnp::MallocMessageBuilder& message) {
    if (type != RecordType::kProcess) return;
    auto clocks = message.getRoot<image::schema::Process>().getClocks();
    clocks.setMonotonicOffset(-1000 * kDay);  // before the machine's start
  };
  options.compare_images = false;
  TripReport report = expect_survives([](Self& self) { self.travel(); }, options);
  ASSERT_EQ(report.warnings.size(), 1u);
  EXPECT_NE(report.warnings[0].find("CLOCK_MONOTONIC jumps by +86400000 s"), std::string::npos)
      << report.warnings[0];
}

}  // namespace
}  // namespace telefork::migrate
