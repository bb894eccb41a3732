// Whether a terminal may be read on behalf of a process: only while that is in its foreground.
#pragma once

#include <functional>
#include <vector>

#include <sys/types.h>

namespace telefork::app {

// The session process has no controlling terminal, so that it may read and write the user's
// whatever group is in the foreground there; whether to is decided here, for the process `home`.
// Empty where `input`, which is only looked at now, is no terminal: always.
std::function<bool()> watch_foreground(pid_t home, int input);
// The same for several of one terminal: while any of them is in its foreground.
std::function<bool()> watch_foreground_of_all(const std::vector<pid_t>& homes, int input);

}  // namespace telefork::app
