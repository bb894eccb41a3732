// What the stub and the code that compiles programs for it agree on. Plain numbers and structs:
// the stub is assembly (stub_x86_64.S repeats the offsets, stub.cc asserts them).
//
//   code page (r-x)   stub_begin ... stub_end
//   data pages (rw-)  StubProgram | StubStep[count] | StubStep[undo_count] | signal frame | stack
//
// The stub runs the steps of one program in one resume. A step is a system call, whose arguments
// may be results of earlier steps, or one of the operations on memory below. It stops at the first
// step whose result is not what the step calls success.
//
// At the end it makes itself known to its tracer by a signal to its own thread that is ignored by
// default (StubProgram::stop_signal): a tracer sees it as a signal-delivery-stop, and where there
// is no tracer any more it does nothing. A tracer that wants another program run sets the
// registers anew. A plain resume, such as the kernel's when a tracer dies, runs the undo steps and
// then rt_sigreturn from the frame, which gives every register, the xstate and the signal mask
// back: the program goes on as if nothing had been.
#pragma once

#include <cstdint>

namespace telefork::tracee {

enum class StepSuccess : std::uint32_t {
  kNoError = 0,  // the result is not in [-4095, -1]
  kEquals = 1,   // the result is `expected`
  kAny = 2,      // whatever it is
};

// Numbers above every system call: operations on memory, by which threads of one restore meet and
// steps name what a system call has written.
constexpr std::uint32_t kOpAdd = 0x10000;   // *(u32*)args[0] += args[1], then wake all waiters
constexpr std::uint32_t kOpWait = 0x10001;  // sleep until *(u32*)args[0] == args[1]
constexpr std::uint32_t kOpLoad = 0x10002;  // the result is *(i32*)args[0]
constexpr std::uint32_t kOpCopy = 0x10003;  // args[2] bytes from args[1] to args[0]
// Where args[1] == args[2] goes on with the step that is args[0] behind this one (before it, where
// that is negative).
constexpr std::uint32_t kOpJump = 0x10005;
// x86-64 with AMX, asked for: uses a tile as args[0] configures it, and gives it up.
constexpr std::uint32_t kOpUseTile = 0x10004;
constexpr std::uint32_t kOpLoadLong = 0x10006;  // the result is *(i64*)args[0]

struct StubStep {
  std::uint32_t number;   // the system call, or kOp...
  std::uint32_t success;  // StepSuccess
  // Bit i: args[i] is (index of an earlier step) + (addend << 16). The undo steps are counted on
  // from the steps.
  std::uint32_t from_result;
  std::uint32_t reserved;
  std::uint64_t args[6];
  std::int64_t expected;
  std::int64_t result;  // written by the stub
};
static_assert(sizeof(StubStep) == 80);

constexpr std::uint32_t kStubDone = 0xffffffff;

struct StubProgram {
  std::uint64_t steps;  // address of the first step
  std::uint64_t undo_steps;
  std::uint32_t count;
  std::uint32_t undo_count;
  std::uint32_t failed;       // index of the step that failed; kStubDone: none; written by the stub
  std::uint32_t stop_signal;  // 0: makes system call -1 instead, for a tracer of system calls
  std::uint32_t pid;          // thread group and thread that the stop signal goes to
  std::uint32_t tid;
  std::uint64_t done_counter;  // not 0: += 1 at the end, whether all steps worked or not
  std::uint64_t gate;          // not 0: then sleeps until this u32 is not 0
  std::uint64_t frame;         // what rsp is when rt_sigreturn is made
  std::uint64_t hold;          // as gate, but behind the end's signal
};
static_assert(sizeof(StubProgram) == 72);

// Position-independent code, to be copied to the start of a page.
extern "C" const std::uint8_t telefork_stub_begin[];
extern "C" const std::uint8_t telefork_stub_stop[];  // where it is after the end's signal
extern "C" const std::uint8_t telefork_stub_end[];

}  // namespace telefork::tracee
