// Who has an id that somebody else wants, for messages.
#pragma once

#include <string>

#include <sys/types.h>

namespace telefork::restore {

// " by sleep", the process or thread of that id; empty: there is none.
std::string describe_holder(pid_t id);
// The same, or of an id that no process has: " by the process group of sleep (43)".
std::string describe_holder_or_group(pid_t id);

}  // namespace telefork::restore
