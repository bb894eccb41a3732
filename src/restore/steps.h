// Steps of a program that make what a record says, of a process that is being restored or that
// comes home.
#pragma once

#include <csignal>
#include <cstddef>

#include "image/image.capnp.h"
#include "restore/siginfo.h"
#include "restore/vma_rules.h"
#include "tracee/stub.h"
#include "tracee/syscall_program.h"

namespace telefork::restore {

// Bytes: a program that has grown so large is run.
inline constexpr std::size_t kLongProgram = 128 * 1024;

// Throws kCorrupt where they are of another size.
void copy_exactly(::capnp::Data::Reader from, void* to, std::size_t size, const char* what);
// Throws kCorrupt where it is not this architecture's.
tracee::ThreadState decode_thread_state(image::schema::Thread::Reader thread);

// What a process has once, its files and ids aside.
// Before memory is mapped: it decides what pages that gets.
void add_thp_setting(image::schema::Process::Reader process, tracee::SyscallProgram& program);
void add_process_settings(image::schema::Process::Reader process, tracee::SyscallProgram& program);
// Before any thread is given its xstate; not to be taken back.
void add_permissions(image::schema::Process::Reader process, tracee::SyscallProgram& program);
// Those of the thread that makes them: what the kernel holds pointers to.
void add_registrations(image::schema::Thread::Reader thread, tracee::SyscallProgram& program);
// Name, alternate stack, timer slack, parent death signal.
void add_thread_settings(image::schema::Thread::Reader thread, tracee::SyscallProgram& program);
struct ThreadStart {
  Range stack;                // on top of it stands the address of its StubProgram already
  std::uint32_t tid = 0;      // 0: the kernel's choice
  std::uint64_t pointer = 0;  // to its thread control block; 0: that of whoever makes it
};
// The result is its id.
tracee::Result add_thread_start(const ThreadStart& start, tracee::SyscallProgram& program);

// Those that the record has; `all`: the others become the default.
void add_signal_actions(image::schema::Signals::Reader signals, bool all,
                        tracee::SyscallProgram& program);
// `tid` 0: of the process.
void add_pending(::capnp::List<::capnp::Data>::Reader pending, pid_t pid, pid_t tid,
                 tracee::SyscallProgram& program);

sigevent event_of(image::schema::PosixTimer::Reader timer);
std::string timer_name(image::schema::PosixTimer::Reader timer);
// Of a timer that is there.
void add_arming(image::schema::PosixTimer::Reader timer, tracee::SyscallProgram& program);
void add_arming(image::schema::IntervalTimer::Reader timer, tracee::SyscallProgram& program);

}  // namespace telefork::restore
