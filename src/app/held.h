// What a move has left here whole (session/resume.h) may run elsewhere: until it is known that it
// does not, no command may take it, and so nothing of it is to be captured.
#pragma once

#include <optional>
#include <string>

#include <sys/types.h>

namespace telefork::app {

enum class Wish {
  kTake,    // a copy of it, or all of it
  kMoveOn,  // all of it: its keeper lets go of it, where it is a guest here
  kHome,    // one that is away, also one whose memory still follows it by a session that lives
};
// Throws kRefused for one that is held, or is away, and for one of which such a one has come: it
// would go along.
void refuse_held(pid_t pid, Wish wish = Wish::kTake);

// Where the memory of `pid`, which is away, still follows it to.
std::optional<std::string> find_node_waiting_for_memory(pid_t pid);

}  // namespace telefork::app
