#include "tracee/registers.h"

#include <cpuid.h>
#include <elf.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

#include <sys/syscall.h>

#include "base/error.h"

namespace telefork::tracee {
namespace {

// include/linux/errno.h: never seen by programs, but by tracers.
constexpr int kErestartsys = 512;
constexpr int kErestartnointr = 513;
constexpr int kErestartnohand = 514;
constexpr int kErestartRestartblock = 516;

constexpr std::uint64_t kSyscallInstructionSize = 2;
constexpr std::uint64_t kUserCode64 = 0x33;

// arch/x86/include/uapi/asm/sigcontext.h and ucontext.h. The kernel's ucontext has a 64-bit mask,
// unlike the C library's.
struct KernelSigcontext {
  std::uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
  std::uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, flags;
  std::uint16_t cs, gs, fs, ss;
  std::uint64_t err, trapno, oldmask, cr2;
  std::uint64_t fpstate;
  std::uint64_t reserved[8];
};
static_assert(sizeof(KernelSigcontext) == 256);

struct KernelSignalFrame {
  std::uint64_t return_address;
  std::uint64_t uc_flags;
  std::uint64_t uc_link;
  std::uint64_t stack_pointer;
  std::int32_t stack_flags;
  std::int32_t stack_padding;
  std::uint64_t stack_size;
  KernelSigcontext context;
  std::uint64_t mask;
  std::array<std::uint8_t, 128> siginfo;
};
static_assert(sizeof(KernelSignalFrame) == 8 + 16 + 24 + 256 + 8 + 128);

constexpr std::size_t kXstateHeaderOffset = 512;
constexpr std::uint64_t kUcFpXstate = 1;
constexpr std::uint64_t kUcSigcontextSs = 2;
constexpr std::uint64_t kUcStrictRestoreSs = 4;

// struct _fpx_sw_bytes, in the last 48 of the 512 bytes that FXSAVE leaves to software.
struct XstateSoftwareBytes {
  std::uint32_t magic1;
  std::uint32_t extended_size;
  std::uint64_t features;
  std::uint32_t xstate_size;
  std::uint32_t padding[7];
};
static_assert(sizeof(XstateSoftwareBytes) == 48);
constexpr std::size_t kSoftwareBytesOffset = 464;
constexpr std::uint32_t kXstateMagic1 = 0x46505853;
constexpr std::uint32_t kXstateMagic2 = 0x46505845;
constexpr std::size_t kXstateAlignment = 64;

}  // namespace

const int kXstateNote = NT_X86_XSTATE;
const std::uint64_t kRedZone = 128;
const std::uint64_t kSignalFrameStackOffset = sizeof(std::uint64_t);

std::uint64_t instruction_pointer(const Registers& registers) { return registers.general.rip; }
void set_instruction_pointer(Registers& registers, std::uint64_t address) {
  registers.general.rip = address;
}
std::uint64_t stack_pointer(const Registers& registers) { return registers.general.rsp; }
void set_stack_pointer(Registers& registers, std::uint64_t address) {
  registers.general.rsp = address;
}
std::uint64_t thread_pointer(const Registers& registers) { return registers.general.fs_base; }
void set_stub_program(Registers& registers, std::uint64_t address) {
  registers.general.rbx = address;
}
std::uint64_t stub_program(const Registers& registers) { return registers.general.rbx; }

void set_system_call(Registers& registers, long number, const std::uint64_t (&arguments)[6]) {
  user_regs_struct& r = registers.general;
  r.orig_rax = static_cast<std::uint64_t>(number);
  r.rax = static_cast<std::uint64_t>(-ENOSYS);
  r.rdi = arguments[0];
  r.rsi = arguments[1];
  r.rdx = arguments[2];
  r.r10 = arguments[3];
  r.r8 = arguments[4];
  r.r9 = arguments[5];
}

std::int64_t system_call_result(const Registers& registers) {
  return static_cast<std::int64_t>(registers.general.rax);
}
void set_system_call_result(Registers& registers, std::int64_t result) {
  registers.general.rax = static_cast<std::uint64_t>(result);
}
long interrupted_system_call(const Registers& registers) {
  return static_cast<long>(registers.general.orig_rax);
}
void forget_system_call(Registers& registers) {
  registers.general.orig_rax = static_cast<std::uint64_t>(-1);
}

bool is_restarted_call(const Registers& registers) {
  return interrupted_system_call(registers) == SYS_restart_syscall &&
         system_call_result(registers) == -kErestartRestartblock;
}

bool will_restart(const Registers& registers) {
  return system_call_result(registers) == -kErestartRestartblock &&
         interrupted_system_call(registers) >= 0 && !is_restarted_call(registers);
}

// mov $number, %eax; system call, in between mostly nothing, else one instruction of four bytes.
void name_restarted_call(std::span<const std::byte, kSystemCallCode> code, Registers& registers) {
  constexpr std::byte kMoveToEax{0xb8};
  constexpr std::size_t kMove = 5;
  for (const std::size_t between : {0, 4}) {
    const std::size_t at = code.size() - kSyscallInstructionSize - between - kMove;
    std::int32_t number;
    std::memcpy(&number, &code[at + 1], sizeof(number));
    const bool restarts = number == SYS_nanosleep || number == SYS_clock_nanosleep ||
                          number == SYS_poll || number == SYS_futex;
    if (code[at] != kMoveToEax || !restarts) continue;
    registers.general.orig_rax = static_cast<std::uint64_t>(number);
    return;
  }
}

bool is_nap_with_rest(const Registers& registers) {
  const user_regs_struct& r = registers.general;
  return interrupted_system_call(registers) == SYS_clock_nanosleep &&
         system_call_result(registers) == -kErestartRestartblock && (r.rsi & TIMER_ABSTIME) == 0 &&
         r.r10 != 0 && r.r10 != r.rdx;
}

void nap_from_rest(std::span<const std::byte, kCodeBehindNap> code, Registers& registers) {
  // neg %eax; ret
  static constexpr std::array<std::uint8_t, 3> kOfOneThread = {0xf7, 0xd8, 0xc3};
  // mov %r8d, %edi; mov %rax, (%rsp); call: the end of a cancellation point.
  static constexpr std::array<std::uint8_t, 8> kOfSeveral = {0x44, 0x89, 0xc7, 0x48,
                                                             0x89, 0x04, 0x24, 0xe8};
  if (std::memcmp(code.data(), kOfOneThread.data(), kOfOneThread.size()) == 0 ||
      std::memcmp(code.data(), kOfSeveral.data(), kOfSeveral.size()) == 0) {
    registers.general.rdx = registers.general.r10;
  }
}

bool is_interrupted_call(const Registers& registers) {
  if (interrupted_system_call(registers) < 0) return false;
  switch (-system_call_result(registers)) {
    case kErestartsys:
    case kErestartnointr:
    case kErestartnohand:
    case kErestartRestartblock:
      return true;
    default:
      return false;
  }
}

Registers settle_system_call(const Registers& registers) {
  Registers settled = registers;
  user_regs_struct& r = settled.general;
  if (interrupted_system_call(registers) < 0) return settled;
  if (is_restarted_call(registers)) {
    set_system_call_result(settled, -EINTR);
    forget_system_call(settled);
    return settled;
  }
  if (is_interrupted_call(registers)) {
    r.rax = r.orig_rax;
    r.rip -= kSyscallInstructionSize;
  }
  forget_system_call(settled);
  return settled;
}

// Without its restart block it is one that any handler ends, and that is made again else.
Registers keep_system_call(const Registers& registers) {
  if (!is_interrupted_call(registers) || is_restarted_call(registers)) {
    return settle_system_call(registers);
  }
  Registers kept = registers;
  if (system_call_result(kept) == -kErestartRestartblock) {
    set_system_call_result(kept, -kErestartnohand);
  }
  return kept;
}

bool is_native_code(const Registers& registers) { return registers.general.cs == kUserCode64; }

std::int64_t find_sigreturn(const std::uint8_t* code, std::size_t size) {
  // mov $15, %rax; syscall      and      mov $15, %eax; syscall
  static constexpr std::array<std::uint8_t, 9> kLong = {0x48, 0xc7, 0xc0, 0x0f, 0,
                                                        0,    0,    0x0f, 0x05};
  static constexpr std::array<std::uint8_t, 7> kShort = {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05};
  const std::uint8_t* end = code + size;
  const std::uint8_t* found = std::search(code, end, kLong.begin(), kLong.end());
  if (found == end) found = std::search(code, end, kShort.begin(), kShort.end());
  return found == end ? -1 : found - code;
}

namespace {

constexpr unsigned kTileData = 18;  // of AMX: the last state, of 8 KB, and mostly an initial one
constexpr std::uint64_t kTileBit = std::uint64_t{1} << kTileData;
constexpr unsigned kXstateLeaf = 0xd;

std::size_t offset_of_tiles() {
  unsigned size = 0, offset = 0, c = 0, d = 0;
  bool known = __get_cpuid_count(kXstateLeaf, kTileData, &size, &offset, &c, &d) != 0;
  return known && size != 0 ? offset : 0;
}

// PTRACE_GETREGSET has room for all states that there are. Of a thread that has not been allowed
// the tiles (arch_prctl(2), ARCH_REQ_XCOMP_PERM) the kernel would take such a frame for one of SSE
// alone: check_xstate_in_sigframe() (arch/x86/kernel/fpu/signal.c).
std::size_t size_in_frame(const std::vector<std::uint8_t>& xstate) {
  static const std::size_t tiles = offset_of_tiles();
  if (tiles == 0 || tiles >= xstate.size()) return xstate.size();
  std::uint64_t in_use = 0;
  std::memcpy(&in_use, xstate.data() + kXstateHeaderOffset, sizeof(in_use));
  return (in_use & kTileBit) != 0 ? xstate.size() : tiles;
}

constexpr std::size_t kXstateOffset =
    (sizeof(KernelSignalFrame) + kXstateAlignment - 1) / kXstateAlignment * kXstateAlignment;

}  // namespace

std::size_t signal_frame_size(const std::vector<std::uint8_t>& xstate) {
  if (xstate.empty()) return sizeof(KernelSignalFrame);
  return kXstateOffset + size_in_frame(xstate) + sizeof(kXstateMagic2);
}

std::vector<std::uint8_t> build_signal_frame(const Registers& registers,
                                             const std::vector<std::uint8_t>& xstate,
                                             std::uint64_t signal_mask, std::uint64_t address) {
  TELEFORK_ASSERT(address % kXstateAlignment == 0);
  const user_regs_struct& r = registers.general;
  constexpr std::size_t xstate_offset = kXstateOffset;

  KernelSignalFrame frame{};
  frame.uc_flags = kUcSigcontextSs | kUcStrictRestoreSs | (xstate.empty() ? 0 : kUcFpXstate);
  // No such flags: the kernel leaves the alternate stack alone (restore_altstack() lets all but a
  // fault pass).
  frame.stack_flags = 0x7fff;
  frame.context = {r.r8,
                   r.r9,
                   r.r10,
                   r.r11,
                   r.r12,
                   r.r13,
                   r.r14,
                   r.r15,
                   r.rdi,
                   r.rsi,
                   r.rbp,
                   r.rbx,
                   r.rdx,
                   r.rax,
                   r.rcx,
                   r.rsp,
                   r.rip,
                   r.eflags,
                   static_cast<std::uint16_t>(r.cs),
                   static_cast<std::uint16_t>(r.gs),
                   static_cast<std::uint16_t>(r.fs),
                   static_cast<std::uint16_t>(r.ss),
                   0,
                   0,
                   0,
                   0,
                   xstate.empty() ? 0 : address + xstate_offset,
                   {}};
  frame.mask = signal_mask;

  std::vector<std::uint8_t> bytes(sizeof(frame));
  std::memcpy(bytes.data(), &frame, sizeof(frame));
  if (xstate.empty()) return bytes;

  std::size_t xstate_size = size_in_frame(xstate);
  bytes.resize(xstate_offset + xstate_size + sizeof(kXstateMagic2));
  std::copy_n(xstate.begin(), xstate_size,
              bytes.begin() + static_cast<std::ptrdiff_t>(xstate_offset));
  XstateSoftwareBytes software{};
  // PTRACE_GETREGSET gives XCR0 where a signal frame has the features.
  std::memcpy(&software.features, xstate.data() + kSoftwareBytesOffset, sizeof(software.features));
  software.magic1 = kXstateMagic1;
  if (xstate_size < xstate.size()) software.features &= ~kTileBit;
  software.xstate_size = static_cast<std::uint32_t>(xstate_size);
  software.extended_size = software.xstate_size + static_cast<std::uint32_t>(sizeof(kXstateMagic2));
  std::memcpy(bytes.data() + xstate_offset + kSoftwareBytesOffset, &software, sizeof(software));
  std::memcpy(bytes.data() + xstate_offset + xstate_size, &kXstateMagic2, sizeof(kXstateMagic2));
  return bytes;
}

}  // namespace telefork::tracee
