// Makes a deputy of the process that went away: its memory and descriptors go, its pid, its parent
// and its pending signals stay.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "tracee/parked_process.h"
#include "tracee/snapshot.h"

namespace telefork::session {

struct HollowSettings {
  std::string deputy_program;
  int session_fd = -1;        // the number of the deputy's socket in the process
  int session_socket = -1;    // our end of it
  pid_t die_with_parent = 0;  // not 0: the parent whose end is the guest's
  bool speaks = true;         // keeps stderr, to say there what nobody else can
  // Its memory is needed still: a process that has it stays, until whoever traces it ends it.
  bool keeps_memory = false;
};

// What becomes of a process by its last step, an execve(2) of `program_fd`: it has no other
// descriptors then than stderr and `session_fd`.
struct DeputyStart {
  int program_fd = -1;
  int session_fd = -1;
  std::vector<std::string> arguments;
  std::string name;  // as /proc/PID/comm has it
  pid_t die_with_parent = 0;
  bool speaks = true;
};
tracee::SyscallProgram become_deputy(const DeputyStart& start);

struct KeptMemory {
  std::unique_ptr<tracee::Snapshot> keeper;
  // It lends its pages, where it could be made to.
  std::optional<tracee::Lending> lending;
};

// `pid` is single-threaded and waits, untraced, with every signal blocked. Afterwards it is the
// deputy, seized by this thread with no options and running (StopWatch::adopt). Throws where that
// cannot be; the process then waits as before, or has ended. Gives who keeps its memory, if
// anybody.
KeptMemory hollow(pid_t pid, const HollowSettings& settings);
// The same of one that is held, of however many threads: its caller is its first thread. It stands
// at its exec: Supervisor::begin lets it run.
tracee::TracedThread hollow(tracee::ParkedProcess& parked, const HollowSettings& settings);

}  // namespace telefork::session
