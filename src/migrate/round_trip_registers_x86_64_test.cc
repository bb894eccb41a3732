// Every register that x86-64 has, over a capture in the middle of a system call made by hand.
#include <cpuid.h>
#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>

#include <asm/prctl.h>
#include <gtest/gtest.h>
#include <linux/rseq.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "image/memory_stream.h"
#include "image/reader.h"
#include "migrate/round_trip.h"
#include "migrate/testing_tiles.h"

namespace telefork::migrate {
namespace {

class RoundTripOfRegisters : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

// rbx rbp r8 r9 r10 r12 r13 r14 r15 rdi rsi rdx flags
struct GeneralRegisters {
  std::uint64_t values[13];
};

constexpr std::uint64_t kDirection = 0x400;
constexpr std::uint64_t kCarry = 0x1;
constexpr std::uint64_t kFlagsThatStay = kDirection | kCarry;

// read(0, &byte, 1) with all registers set to values; what they are after it. A system call changes
// rax, rcx and r11 only.
void read_with_registers(char* byte, GeneralRegisters* after) {
  asm volatile(
      "push %%rbp\n push %[after]\n"
      "mov $0x1111111111111111, %%rbx\n mov $0x2222222222222222, %%rbp\n"
      "mov $0x3333333333333333, %%r8\n  mov $0x4444444444444444, %%r9\n"
      "mov $0x5555555555555555, %%r10\n mov $0x6666666666666666, %%r12\n"
      "mov $0x7777777777777777, %%r13\n mov $0x8888888888888888, %%r14\n"
      "mov $0x9999999999999999, %%r15\n"
      "mov %[byte], %%rsi\n xor %%edi, %%edi\n mov $1, %%edx\n xor %%eax, %%eax\n"
      "std\n stc\n"
      "syscall\n"
      "pushfq\n cld\n"
      "mov 8(%%rsp), %%rax\n"
      "mov %%rbx, (%%rax)\n mov %%rbp, 8(%%rax)\n mov %%r8, 16(%%rax)\n mov %%r9, 24(%%rax)\n"
      "mov %%r10, 32(%%rax)\n mov %%r12, 40(%%rax)\n mov %%r13, 48(%%rax)\n"
      "mov %%r14, 56(%%rax)\n mov %%r15, 64(%%rax)\n mov %%rdi, 72(%%rax)\n"
      "mov %%rsi, 80(%%rax)\n mov %%rdx, 88(%%rax)\n pop 96(%%rax)\n"
      "pop %%rax\n pop %%rbp\n"
      : [byte] "+c"(byte), [after] "+a"(after)
      :
      : "rbx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
        "memory");
}

TEST_F(RoundTripOfRegisters, KeepsGeneralRegistersAndFlags) {
  expect_survives([](Self& self) {
    char byte = 0;
    GeneralRegisters after{};
    self.say_ready();
    read_with_registers(&byte, &after);
    VERIFY(byte != 0);
    for (unsigned i = 0; i < 9; ++i) VERIFY(after.values[i] == (i + 1) * 0x1111111111111111u);
    VERIFY(after.values[9] == 0);
    VERIFY(after.values[10] == reinterpret_cast<std::uint64_t>(&byte));
    VERIFY(after.values[11] == 1);
    VERIFY((after.values[12] & kFlagsThatStay) == kFlagsThatStay);
  });
}

TEST_F(RoundTripOfRegisters, KeepsX87AndMxcsr) {
  expect_survives([](Self& self) {
    char byte = 0;
    self.say_ready();
    std::uint16_t control = 0x0a7f;  // round up, 53 bits
    std::uint32_t mxcsr = 0x7fa0;    // round to zero, precision exception seen
    std::uint16_t control_after = 0;
    std::uint32_t mxcsr_after = 0;
    long double stack_after[2] = {};
    asm volatile(
        "fninit\n fldcw %[control]\n ldmxcsr %[mxcsr]\n"
        "fldpi\n fldl2e\n"
        "xor %%edi, %%edi\n mov %[byte], %%rsi\n mov $1, %%edx\n xor %%eax, %%eax\n"
        "syscall\n"
        "fstpt %[top]\n fstpt %[next]\n"
        "fnstcw %[control_after]\n stmxcsr %[mxcsr_after]\n"
        "fninit\n"
        : [control_after] "=m"(control_after), [mxcsr_after] "=m"(mxcsr_after),
          [top] "=m"(stack_after[0]), [next] "=m"(stack_after[1])
        : [control] "m"(control), [mxcsr] "m"(mxcsr), [byte] "r"(&byte)
        : "rax", "rcx", "rdx", "rsi", "rdi", "r11", "cc", "memory", "st", "st(1)", "st(2)", "st(3)",
          "st(4)", "st(5)", "st(6)", "st(7)");
    std::uint32_t usual = 0x1f80;
    asm volatile("ldmxcsr %0" : : "m"(usual));
    VERIFY(byte != 0);
    VERIFY(control_after == control);
    VERIFY(mxcsr_after == mxcsr);
    VERIFY(stack_after[0] > 1.4426L && stack_after[0] < 1.4427L);
    VERIFY(stack_after[1] > 3.1415L && stack_after[1] < 3.1416L);
  });
}

constexpr std::size_t kVectors = 32;
struct alignas(64) VectorRegisters {
  std::uint8_t vectors[kVectors][64];
  std::uint64_t masks[8];
};

#define FOR_EACH_OLD_VECTOR(F) \
  F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#define FOR_EACH_NEW_VECTOR(F) \
  F(16) F(17) F(18) F(19) F(20) F(21) F(22) F(23) F(24) F(25) F(26) F(27) F(28) F(29) F(30) F(31)
#define FOR_EACH_VECTOR(F) FOR_EACH_OLD_VECTOR(F) FOR_EACH_NEW_VECTOR(F)
#define FOR_EACH_MASK(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7)

#define READ_ONE_BYTE "xor %%edi, %%edi\n mov $1, %%edx\n xor %%eax, %%eax\n syscall\n"

__attribute__((target("avx512f,avx512bw"))) void read_with_zmm(char* byte,
                                                               const VectorRegisters* before,
                                                               VectorRegisters* after) {
#define LOAD(n) "vmovdqa64 " #n "*64(%[before]), %%zmm" #n "\n"
#define STORE(n) "vmovdqa64 %%zmm" #n ", " #n "*64(%[after])\n"
#define LOAD_MASK(n) "kmovq 2048+" #n "*8(%[before]), %%k" #n "\n"
#define STORE_MASK(n) "kmovq %%k" #n ", 2048+" #n "*8(%[after])\n"
  asm volatile(FOR_EACH_VECTOR(LOAD) FOR_EACH_MASK(LOAD_MASK) READ_ONE_BYTE FOR_EACH_VECTOR(STORE)
                   FOR_EACH_MASK(STORE_MASK)
               :
               : [before] "r"(before), [after] "r"(after), "S"(byte)
               : "rax", "rcx", "rdx", "rdi", "r11", "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3",
                 "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                 "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
                 "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31",
                 "k1", "k2", "k3", "k4", "k5", "k6", "k7");
#undef LOAD
#undef STORE
}

__attribute__((target("avx"))) void read_with_ymm(char* byte, const VectorRegisters* before,
                                                  VectorRegisters* after) {
#define LOAD(n) "vmovdqa " #n "*64(%[before]), %%ymm" #n "\n"
#define STORE(n) "vmovdqa %%ymm" #n ", " #n "*64(%[after])\n"
  asm volatile(FOR_EACH_OLD_VECTOR(LOAD) READ_ONE_BYTE FOR_EACH_OLD_VECTOR(STORE)
               :
               : [before] "r"(before), [after] "r"(after), "S"(byte)
               : "rax", "rcx", "rdx", "rdi", "r11", "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3",
                 "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                 "xmm14", "xmm15");
#undef LOAD
#undef STORE
}

void fill(VectorRegisters& registers, unsigned seed) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(&registers);
  for (std::size_t i = 0; i < sizeof(registers); ++i) {
    bytes[i] = static_cast<std::uint8_t>((i + seed) * 2654435761u >> 24);
  }
}

TEST_F(RoundTripOfRegisters, KeepsAvx) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "needs: avx";
  expect_survives([](Self& self) {
    static VectorRegisters before, after;
    fill(before, 1);
    char byte = 0;
    self.say_ready();
    read_with_ymm(&byte, &before, &after);
    VERIFY(byte != 0);
    for (unsigned i = 0; i < 16; ++i) {
      VERIFY(std::memcmp(before.vectors[i], after.vectors[i], 32) == 0);
    }
  });
}

// In two threads, so that neither has the other's. One of them gets the only byte, the other one
// the end of the pipe.
TEST_F(RoundTripOfRegisters, KeepsAvx512OfEachThread) {
  if (!__builtin_cpu_supports("avx512bw")) GTEST_SKIP() << "needs: avx512bw";
  expect_survives([](Self& self) {
    auto check = [](unsigned seed) {
      static thread_local VectorRegisters before, after;
      fill(before, seed);
      char byte = 0;
      read_with_zmm(&byte, &before, &after);
      VERIFY(std::memcmp(before.vectors, after.vectors, sizeof(before.vectors)) == 0);
      VERIFY(std::memcmp(before.masks + 1, after.masks + 1, 7 * sizeof(std::uint64_t)) == 0);
    };
    std::thread other([&] { check(2); });
    self.say_ready();
    check(3);
    other.join();
  });
}

// Of each thread too: one has no room for tiles in the kernel, though the process may use them.
TEST_F(RoundTripOfRegisters, KeepsTilesOfEachThread) {
  if (!has_tiles()) GTEST_SKIP() << "needs: amx_tile";
  expect_survives([](Self& self) {
    VERIFY(ask_for_tiles());
    auto check = [](std::uint8_t seed) {
      Tile before = make_tile(seed);
      Tile after{};
      char byte = 0;
      load_tile(before);
      asm volatile(READ_ONE_BYTE : : "S"(&byte) : "rax", "rcx", "rdx", "rdi", "r11", "memory");
      store_tile(after);
      VERIFY(before == after);
    };
    std::thread other([&] { check(2); });
    std::thread without([] {
      char byte = 0;
      VERIFY(::read(0, &byte, 1) >= 0);
    });
    self.say_ready();
    check(3);
    other.join();
    without.join();
  });
}

TEST_F(RoundTripOfRegisters, KeepsThePermissionToUseTiles) {
  if (!has_tiles()) GTEST_SKIP() << "needs: amx_tile";
  expect_survives([](Self& self) {
    VERIFY(ask_for_tiles());
    self.travel();
    Tile before = make_tile(7);
    Tile after{};
    load_tile(before);
    store_tile(after);
    VERIFY(before == after);
  });
}

TEST_F(RoundTripOfRegisters, NamesAComponentThatMayNotBeUsedHere) {
  Traveller traveller([](Self& self) { self.travel(); });
  TripOptions options;
  options.edit = [](image::RecordType type, ::capnp::MallocMessageBuilder& message) {
    if (type != image::RecordType::kProcess) return;
    message.getRoot<image::schema::Process>().setXstatePermissions(std::uint64_t{1} << 62);
  };
  traveller.save(options);
  try {
    traveller.load(options);
    FAIL() << "it was restored";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find("asking for the use of xstate component 62"), std::string::npos)
        << error.text();
  }
}

TEST_F(RoundTripOfRegisters, AsksForNoTilesThatNobodyAskedFor) {
  if (!has_tiles()) GTEST_SKIP() << "needs: amx_tile";
  expect_survives([](Self& self) {
    self.travel();
    VERIFY(!may_use_tiles());
  });
}

TEST_F(RoundTripOfRegisters, KeepsSegmentBases) {
  expect_survives([](Self& self) {
    static char area[64] = "at gs";
    VERIFY(::syscall(SYS_arch_prctl, ARCH_SET_GS, area) == 0);
    self.travel();
    char c = 0;
    asm volatile("movb %%gs:3, %0" : "=r"(c));
    VERIFY(c == 'g');
  });
}

// A restartable sequence that never ends by itself; its abort handler begins it again.
extern "C" const char telefork_test_sequence_start[], telefork_test_sequence_end[],
    telefork_test_sequence_abort[];

void spin_in_sequence(volatile int* stop, volatile long* aborts) {
  auto* area = reinterpret_cast<struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                              __rseq_offset);
  static struct rseq_cs section = {};
  section.start_ip = reinterpret_cast<std::uint64_t>(telefork_test_sequence_start);
  section.post_commit_offset =
      static_cast<std::uint64_t>(telefork_test_sequence_end - telefork_test_sequence_start);
  section.abort_ip = reinterpret_cast<std::uint64_t>(telefork_test_sequence_abort);
  asm volatile(
      "1: mov %[section], 8(%[area])\n"  // struct rseq, rseq_cs
      ".globl telefork_test_sequence_start, telefork_test_sequence_end\n"
      ".globl telefork_test_sequence_abort\n"
      "telefork_test_sequence_start:\n"
      "2: cmpl $0, (%[stop])\n je 2b\n"
      "telefork_test_sequence_end:\n"
      "jmp 3f\n"
      ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"  // ud1 with the signature
      "telefork_test_sequence_abort:\n"
      "incq (%[aborts])\n jmp 1b\n"
      "3:\n"
      :
      : [section] "r"(&section), [area] "r"(area), [stop] "r"(stop), [aborts] "r"(aborts)
      : "memory", "cc");
}

TEST_F(RoundTripOfRegisters, PutsAThreadInACriticalSectionAtItsAbortHandler) {
  TripOptions options;
  options.wait_for_sleep = false;
  options.compare = false;
  auto victim = [](Self& self) {
    volatile int stop = 0;
    volatile long aborts = 0;
    std::thread spinner([&] { spin_in_sequence(&stop, &aborts); });
    // An abort was counted: it is inside.
    while (aborts == 0) ::sched_yield();
    self.travel();
    stop = 1;
    spinner.join();
    VERIFY(aborts > 0);
  };
  bool seen = false;
  options.edit = [&](image::RecordType type, ::capnp::MallocMessageBuilder& message) {
    if (type != image::RecordType::kThreads) return;
    auto thread = message.getRoot<image::schema::Thread>().asReader();
    user_regs_struct registers{};
    std::memcpy(&registers, thread.getRegisters().begin(), sizeof(registers));
    auto start = reinterpret_cast<std::uint64_t>(telefork_test_sequence_start);
    auto end = reinterpret_cast<std::uint64_t>(telefork_test_sequence_end);
    auto abort = reinterpret_cast<std::uint64_t>(telefork_test_sequence_abort);
    EXPECT_FALSE(registers.rip >= start && registers.rip < end);
    if (registers.rip == abort) seen = true;
  };
  expect_survives(victim, options);
  EXPECT_TRUE(seen);
}

}  // namespace
}  // namespace telefork::migrate
