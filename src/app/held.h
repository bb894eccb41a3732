// What a move has left here whole (session/resume.h) may run elsewhere: until it is known that it
// does not, no command may take it, and so nothing of it is to be captured.
#pragma once

#include <optional>
#include <string>

#include <sys/types.h>

namespace telefork::app {

// Throws kRefused for one that is held, or is away, and for one of which such a one has come: it
// would go along. `waits`: one that is away may be asked for, also one whose memory still follows
// it by a session that lives.
void refuse_held(pid_t pid, bool waits = false);

// Where the memory of `pid`, which is away, still follows it to.
std::optional<std::string> find_node_waiting_for_memory(pid_t pid);

}  // namespace telefork::app
