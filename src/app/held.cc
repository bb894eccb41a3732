#include "app/held.h"

#include <fmt/format.h>

#include "app/places.h"
#include "base/error.h"
#include "kernel/procfs_task.h"
#include "session/registry.h"
#include "tracee/held_process.h"

namespace telefork::app {
namespace {

// Or is it itself.
bool descends_from(pid_t ancestor, pid_t pid) {
  try {
    while (pid != ancestor && pid > 1) pid = kernel::read_stat(pid).ppid;
  } catch (const Error&) {
    return false;  // one of them has ended
  }
  return pid == ancestor;
}

}  // namespace

void refuse_held(pid_t pid) {
  for (const session::SessionInfo& info : session::list_sessions(visible_registries())) {
    if (!info.hold) continue;
    for (const session::HeldMember& member : info.hold->members) {
      const pid_t held = member.process.process.pid;
      if (!tracee::is_parked(member.process) || !descends_from(pid, held)) continue;
      throw Error(
          Code::kRefused,
          fmt::format("refused: process {0}: it is held here, and may run on {1}: `telefork "
                      "resume {0}` takes it up",
                      held, info.node));
    }
  }
}

}  // namespace telefork::app
