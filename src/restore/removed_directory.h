// A directory that has been removed and that a process is in, or has open still. There is nothing
// in it, and nothing can be made in it: so another one, removed likewise, is as good.
#pragma once

#include <string>

#include <sys/types.h>

#include "base/unique_fd.h"

namespace telefork::restore {

// It is made under `path`, so that /proc says of it what it said, and removed again at once; where
// that cannot be, in /tmp. `mode`: of it the permissions. Open for reading. Throws kRefused where
// neither can be.
UniqueFd make_removed_directory(const std::string& path, mode_t mode);

// As /proc has it of one that was removed: without the mark behind it.
std::string name_of_removed(const std::string& link);

}  // namespace telefork::restore
