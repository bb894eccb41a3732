// A guest that is a child of the very process whose pid it uses at home: `telefork load`.
//
//     SignalFd signals(forwarded_signals(ignored));   // before the guest runs: none is lost
//     int status = supervise_own_guest(pid, signals); // as waitpid(2) has it
//
// The two are in one process group, as a shell's jobs are: what the terminal sends reaches both,
// and is not sent on. Every other signal is. When the guest stops this process stops, by the same
// signal, so that its shell sees it.
#pragma once

#include <cstdint>
#include <vector>

#include <sys/types.h>

#include "session/signal_fd.h"

namespace telefork::session {

// Everything but SIGKILL and SIGSTOP, what only a fault of this process itself sends, and what it
// ignores, as `nohup` has it (bit N-1: signal N). SIGCHLD is among them.
std::vector<int> forwarded_signals(std::uint64_t ignored);
// Bit N-1: this process ignores signal N.
std::uint64_t ignored_signals();

int supervise_own_guest(pid_t guest, SignalFd& signals);

}  // namespace telefork::session
