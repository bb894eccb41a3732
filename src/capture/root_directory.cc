#include "capture/root_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/removed_directory.h"
#include "kernel/procfs.h"

namespace telefork::capture {

RootDirectory find_root_directory(pid_t thread) {
  RootDirectory root{RootKind::kOurs, kernel::read_root_link(thread)};
  const std::string path = kernel::root_path(thread);
  struct stat open, named;
  if (::stat(path.c_str(), &open) != 0) throw_errno("looking at " + path);
  const bool is_named = ::stat(root.path.c_str(), &named) == 0 && open.st_dev == named.st_dev &&
                        open.st_ino == named.st_ino;
  if (find_mode_of_removed_directory(root.path, path) != 0) {
    root.kind = RootKind::kRemoved;
  } else if (root.path != "/") {
    root.kind = is_named ? RootKind::kOther : RootKind::kHidden;
  } else if (!is_named &&
             kernel::read_ns_link(thread, "mnt") == kernel::read_ns_link(::getpid(), "mnt")) {
    root.kind = RootKind::kHidden;
  }
  return root;
}

}  // namespace telefork::capture
