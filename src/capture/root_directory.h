// Which root directory a thread has (chroot(2)), as this process sees it.
#pragma once

#include <string>

#include <sys/types.h>

namespace telefork::capture {

enum class RootKind {
  kOurs,     // this process's, or that of another mount namespace
  kOther,    // chroot(2)
  kRemoved,  // likewise, and the directory has been removed since (removed_directory.h)
  kHidden,   // it has no path here: this process has another root itself, or it is mounted over
};

struct RootDirectory {
  RootKind kind = RootKind::kOurs;
  std::string path = "/";  // as /proc says it
};

// Throws where it may not be looked at, or is too deep: ENAMETOOLONG.
RootDirectory find_root_directory(pid_t thread);

}  // namespace telefork::capture
