#include "app/held.h"

#include <fmt/format.h>

#include "app/places.h"
#include "base/error.h"
#include "session/registry.h"
#include "tracee/held_process.h"

namespace telefork::app {

void refuse_held(pid_t pid) {
  for (const session::SessionInfo& info : session::list_sessions(visible_registries())) {
    const session::HeldMember* member = info.hold ? session::find_member(*info.hold, pid) : nullptr;
    if (member == nullptr || !tracee::is_parked(member->process)) continue;
    throw Error(Code::kRefused,
                fmt::format("refused: process {0}: it is held here, and may run on {1}: `telefork "
                            "resume {0}` takes it up",
                            pid, info.node));
  }
}

}  // namespace telefork::app
