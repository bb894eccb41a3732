// Signals that were taken from a process and that it is to have again.
//
//     taken before:    a b            a b c   what the program finds then
//     waits still:     c      --->
//
// The kernel puts a signal that is queued behind all others of its number, and of those that are no
// real-time ones it keeps only the first. So what waits is taken too, and queued again behind what
// came before it. Only what comes in the very instant of that may change its place.
#pragma once

#include <csignal>
#include <span>

#include "tracee/stub.h"

namespace telefork::tracee {

// So many at most are taken and queued again; where more wait, all of them stay ahead.
inline constexpr std::size_t kMostRequeued = 1000;

// Adds steps that queue them for the stub's process, ahead of what waits for it now; those of
// tgkill(2) for the stub's thread. The thread is stopped, with every signal blocked; the program is
// for it to run, and next.
void add_queueing_ahead(std::span<const siginfo_t> signals, Stub& stub, SyscallProgram& program);

}  // namespace telefork::tracee
