// What only processes of one architecture have, once each, and only the process itself can ask the
// kernel for. What is behind the names is in one file an architecture.
//
//     SyscallProgram program;
//     MachineQuestion question = ask_machine_state(program);
//     MachineState state = machine_state(stub.run(program), question);
//
// For some extended state the kernel has to be asked before it is used: on x86-64 the tiles of AMX
// (Documentation/arch/x86/xstate.rst). The process asks once. A thread gets room for it at its
// first use, and until then neither ptrace(2) nor rt_sigreturn(2) can give it any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tracee/stub.h"
#include "tracee/syscall_program.h"

namespace telefork::tracee {

struct MachineQuestion {
  Result components_answer;
  Data components;
  Result segments;
};

struct MachineState {
  std::uint64_t xstate_permissions = 0;  // components that were asked for, as bits of XCR0
  bool has_segments = false;             // modify_ldt(2)
};

// The table of modify_ldt(2), as that reads it; empty: there is none.
std::vector<std::byte> read_segments(Stub& stub);
void add_segments(std::span<const std::byte> table, SyscallProgram& program);

MachineQuestion ask_machine_state(SyscallProgram& program);
MachineState machine_state(const ProgramRun& run, const MachineQuestion& question);

// A step fails where the machine has not got them.
void add_xstate_permissions(std::uint64_t permissions, SyscallProgram& program);
// By the thread that is to be given this xstate: room for all of it.
void add_xstate_room(const std::vector<std::uint8_t>& xstate, SyscallProgram& program);

}  // namespace telefork::tracee
