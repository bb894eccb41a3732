#include "app/held.h"

#include <fmt/format.h>

#include "app/places.h"
#include "base/error.h"
#include "session/registry.h"
#include "tracee/held_process.h"

namespace telefork::app {

void refuse_held(pid_t pid) {
  for (const session::SessionInfo& info : session::list_sessions(visible_registries())) {
    if (info.pid != pid || !info.hold || !tracee::is_parked(info.hold->process)) continue;
    throw Error(Code::kRefused,
                fmt::format("refused: process {0}: it is held here, and may run on {1}: `telefork "
                            "resume {0}` takes it up",
                            pid, info.node));
  }
}

}  // namespace telefork::app
