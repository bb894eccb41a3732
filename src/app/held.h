// What a move has left here whole (session/resume.h) may run elsewhere: until it is known that it
// does not, no command may take it, and so nothing of it is to be captured.
#pragma once

#include <sys/types.h>

namespace telefork::app {

// Throws kRefused for one that is held, and for one of which such a one has come: it would go
// along.
void refuse_held(pid_t pid);

}  // namespace telefork::app
