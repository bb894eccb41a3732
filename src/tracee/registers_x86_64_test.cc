#include "tracee/registers.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <span>

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracee/stub.h"
#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

// Nothing but the kernel runs between the first and the last of these instructions.
__attribute__((target("avx"))) int hold_ymm(int stop_fd, int ready_fd) {
  alignas(32) const std::uint64_t before[4] = {1, 2, 3, 4};
  alignas(32) std::uint64_t after[4] = {};
  char byte = 1;
  if (::write(ready_fd, "", 1) != 1) return 9;
  long count = SYS_read;
  asm volatile(
      "vmovdqa %[before], %%ymm15\n\t"
      "syscall\n\t"
      "vmovdqa %%ymm15, %[after]\n\t"
      : "+a"(count), [after] "=m"(after)
      : [before] "m"(before), "D"(stop_fd), "S"(&byte), "d"(1)
      : "rcx", "r11", "xmm15", "memory");
  return count == 1 && std::memcmp(before, after, sizeof(after)) == 0 ? 0 : 1;
}

TEST(SignalFrame, HasAllVectorRegistersWhenTheTracerDies) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "needs: avx";
  Victim victim(hold_ymm);
  pid_t tracer = ::fork();
  if (tracer == 0) {
    TracedThread thread = TracedThread::seize(victim.pid(), 0);
    thread.interrupt();
    Stub stub(thread, victim.pid(), {});
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_EQ(victim.finish(), 0);
}

constexpr std::uint64_t kRestarts = static_cast<std::uint64_t>(-516);  // -ERESTART_RESTARTBLOCK

Registers restarted() {
  Registers registers{};
  registers.general.orig_rax = SYS_restart_syscall;
  registers.general.rax = kRestarts;
  registers.general.rip = 0x1000;
  return registers;
}

Registers interrupted(long number, std::int64_t result) {
  Registers registers{};
  registers.general.orig_rax = static_cast<std::uint64_t>(number);
  registers.general.rax = static_cast<std::uint64_t>(result);
  registers.general.rip = 0x1000;
  return registers;
}

TEST(InterruptedCall, IsKeptForTheKernelToSettle) {
  for (const std::int64_t result : {-512, -513, -514}) {
    const Registers kept = keep_system_call(interrupted(SYS_read, result));
    EXPECT_TRUE(is_interrupted_call(kept));
    EXPECT_EQ(system_call_result(kept), result);
    EXPECT_EQ(kept.general.rip, 0x1000u);
    EXPECT_EQ(interrupted_system_call(kept), SYS_read);
  }
}

TEST(InterruptedCall, IsKeptWithoutARestartBlock) {
  const Registers kept = keep_system_call(interrupted(SYS_poll, -516));
  EXPECT_EQ(system_call_result(kept), -514);
  EXPECT_EQ(interrupted_system_call(kept), SYS_poll);
  const Registers settled = settle_system_call(kept);
  EXPECT_EQ(settled.general.rax, SYS_poll);
  EXPECT_EQ(settled.general.rip, 0xffeu);
}

TEST(InterruptedCall, IsNoneThatHasAResultOrCannotGoOn) {
  for (const Registers& registers : {interrupted(SYS_read, 7), interrupted(SYS_read, -EINTR),
                                     interrupted(-1, -512), restarted()}) {
    const Registers kept = keep_system_call(registers);
    EXPECT_FALSE(is_interrupted_call(kept));
    EXPECT_EQ(interrupted_system_call(kept), -1);
    EXPECT_EQ(kept.general.rax, settle_system_call(registers).general.rax);
    EXPECT_EQ(kept.general.rip, 0x1000u);
  }
}

TEST(RestartedCall, IsMadeAgainWhereTheCodeNamesIt) {
  constexpr std::array<std::array<unsigned char, kSystemCallCode>, 2> kCodes = {
      {{0x90, 0x90, 0x90, 0x90, 0xb8, SYS_poll, 0, 0, 0, 0x0f, 0x05},
       {0xb8, SYS_poll, 0, 0, 0, 0x40, 0x80, 0xf6, 0x80, 0x0f, 0x05}}};
  for (const auto& code : kCodes) {
    Registers registers = restarted();
    ASSERT_TRUE(is_restarted_call(registers));
    name_restarted_call(std::as_bytes(std::span(code)), registers);
    const Registers settled = settle_system_call(registers);
    EXPECT_EQ(settled.general.rax, SYS_poll);
    EXPECT_EQ(settled.general.rip, 0xffeu);
    EXPECT_EQ(interrupted_system_call(settled), -1);
  }
}

TEST(RestartedCall, IsInterruptedWhereNothingNamesIt) {
  constexpr std::array<unsigned char, kSystemCallCode> kOther = {
      0x90, 0x90, 0x90, 0x90, 0xb8, SYS_read, 0, 0, 0, 0x0f, 0x05};
  Registers registers = restarted();
  name_restarted_call(std::as_bytes(std::span(kOther)), registers);
  const Registers settled = settle_system_call(registers);
  EXPECT_EQ(system_call_result(settled), -EINTR);
  EXPECT_EQ(settled.general.rip, 0x1000u);
  EXPECT_EQ(interrupted_system_call(settled), -1);
}

constexpr std::uint64_t kRequest = 0x2000;
constexpr std::uint64_t kRest = 0x3000;

Registers napping() {
  Registers registers{};
  registers.general.orig_rax = SYS_clock_nanosleep;
  registers.general.rax = kRestarts;
  registers.general.rdx = kRequest;
  registers.general.r10 = kRest;
  return registers;
}

std::uint64_t request_made_again(std::array<unsigned char, kCodeBehindNap> code) {
  Registers registers = napping();
  nap_from_rest(std::as_bytes(std::span(code)), registers);
  return settle_system_call(registers).general.rdx;
}

TEST(Nap, GoesOnFromItsRestInTheCodeOfAKnownLibc) {
  EXPECT_EQ(request_made_again({0xf7, 0xd8, 0xc3, 0x66, 0x2e, 0x0f, 0x1f, 0x84}), kRest);
  EXPECT_EQ(request_made_again({0x44, 0x89, 0xc7, 0x48, 0x89, 0x04, 0x24, 0xe8}), kRest);
  // It may look at its argument once more.
  EXPECT_EQ(request_made_again({0xf7, 0xd8, 0xeb, 0x66, 0x2e, 0x0f, 0x1f, 0x84}), kRequest);
}

TEST(Nap, BeginsAnewWhereItsRestIsNowhereElse) {
  EXPECT_TRUE(is_nap_with_rest(napping()));
  Registers registers = napping();
  registers.general.r10 = 0;
  EXPECT_FALSE(is_nap_with_rest(registers));
  registers.general.r10 = kRequest;
  EXPECT_FALSE(is_nap_with_rest(registers));
  registers = napping();
  registers.general.rsi = TIMER_ABSTIME;
  EXPECT_FALSE(is_nap_with_rest(registers));
  registers = napping();
  registers.general.rax = 0;
  EXPECT_FALSE(is_nap_with_rest(registers));
}

}  // namespace
}  // namespace telefork::tracee
