// The registers of a stopped thread as the kernel gives them (NT_PRSTATUS and NT_X86_XSTATE or
// their like), and the few of them that telefork touches, by meaning. What is behind the names is
// in one file an architecture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <sys/user.h>

namespace telefork::tracee {

// The note type (elf.h) of the extended state as PTRACE_GETREGSET gives it.
extern const int kXstateNote;

struct Registers {
  user_regs_struct general;
};

std::uint64_t instruction_pointer(const Registers& registers);
void set_instruction_pointer(Registers& registers, std::uint64_t address);
std::uint64_t stack_pointer(const Registers& registers);
void set_stack_pointer(Registers& registers, std::uint64_t address);
// Where the thread control block lies.
std::uint64_t thread_pointer(const Registers& registers);
// What the stub expects in its program register (rbx).
void set_stub_program(Registers& registers, std::uint64_t address);
std::uint64_t stub_program(const Registers& registers);

// Of a thread at the entry to, inside or at the exit from a system call.
void set_system_call(Registers& registers, long number, const std::uint64_t (&arguments)[6]);
std::int64_t system_call_result(const Registers& registers);
void set_system_call_result(Registers& registers, std::int64_t result);
// The number of the call that was interrupted, or -1 where the thread is not in one.
long interrupted_system_call(const Registers& registers);
// No call is under way: the kernel restarts nothing when the thread goes on.
void forget_system_call(Registers& registers);

// The registers as the kernel would leave them on the way back to the program from a call that a
// stop interrupted (arch/x86/kernel/signal.c, arch_do_signal_or_restart): -ERESTARTSYS and its like
// mean that the call is made again. -ERESTART_RESTARTBLOCK cannot be continued once the registers
// leave the kernel's hands (rt_sigreturn and another machine alike forget the restart block): that
// call is made again too, a nap from what is left of it where the kernel writes that over the
// request, or nap_from_rest() has seen to it, all else from its beginning. A poll() or futex wait
// with a timeout may last longer than asked, but is never interrupted for no reason that the
// program knows. A restart_syscall(2) that name_restarted_call() has not named ends as interrupted
// (EINTR).
Registers settle_system_call(const Registers& registers);
// The same for whoever can let the thread go on from a stop at which the kernel looks at an
// interrupted call again (get_signal() of kernel/signal.c: an event stop, a group stop): it stays
// interrupted, and so a signal that comes before the thread has run is seen by it as ever
// (signal(7), "Interruption of system calls and library functions by signal handlers"): pause(2)
// ends.
Registers keep_system_call(const Registers& registers);
// One that keep_system_call() has kept, or that the kernel would make again.
bool is_interrupted_call(const Registers& registers);

// A call with -ERESTART_RESTARTBLOCK goes on, when the thread does, as restart_syscall(2), which
// makes another process continue what the kernel keeps of that one's last call. If it is
// interrupted again only the program's code tells which call it was: `code` is the last of it up to
// where the thread is, of that size.
constexpr std::size_t kSystemCallCode = 11;
bool is_restarted_call(const Registers& registers);
// One that would go on so, and is known: it is not yet, or was named.
bool will_restart(const Registers& registers);
void name_restarted_call(std::span<const std::byte, kSystemCallCode> code, Registers& registers);

// A clock_nanosleep(2) that a stop has interrupted and that has its rest written elsewhere than
// over its request: nap_from_rest() lets it be made again from there, by its argument, where
// `code`, what is behind the call, is the C library's and known not to look at that argument again.
constexpr std::size_t kCodeBehindNap = 8;
bool is_nap_with_rest(const Registers& registers);
void nap_from_rest(std::span<const std::byte, kCodeBehindNap> code, Registers& registers);

// False for a thread in 32-bit code, which telefork refuses.
bool is_native_code(const Registers& registers);

// What is below the stack pointer and still the program's (x86-64 psABI: the red zone).
extern const std::uint64_t kRedZone;

// "mov $__NR_rt_sigreturn; system call": the instructions that every libc has for the return from a
// signal handler. `code` is executable memory of a process; the offset of the first find, or -1.
std::int64_t find_sigreturn(const std::uint8_t* code, std::size_t size);

// What rt_sigreturn(2) reads: general registers, xstate, signal mask. The frame is built to lie at
// `address` (64-byte aligned) of the process; the thread makes the call with its stack pointer at
// `address` + kSignalFrameStackOffset. The alternate signal stack stays as it is.
std::vector<std::uint8_t> build_signal_frame(const Registers& registers,
                                             const std::vector<std::uint8_t>& xstate,
                                             std::uint64_t signal_mask, std::uint64_t address);
extern const std::uint64_t kSignalFrameStackOffset;
// How many bytes it has.
std::size_t signal_frame_size(const std::vector<std::uint8_t>& xstate);

}  // namespace telefork::tracee
