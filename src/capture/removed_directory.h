// Whether the working or the root directory of a thread has been removed: as a place to be it is as
// good as any other that was removed (restore/removed_directory.h).
#pragma once

#include <string>

#include <sys/types.h>

namespace telefork::capture {

// `link`: what /proc says of it, `path`: what it leads to (kernel::cwd_path()). Its st_mode; 0: it
// is there. A running process changes it.
mode_t find_mode_of_removed_directory(const std::string& link, const std::string& path);

}  // namespace telefork::capture
