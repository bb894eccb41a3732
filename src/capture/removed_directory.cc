#include "capture/removed_directory.h"

#include <sys/stat.h>

namespace telefork::capture {

// Where there is a directory of that very name, the end of the link is a part of it.
mode_t find_mode_of_removed_directory(const std::string& link, const std::string& path) {
  struct stat open, named;
  if (!link.ends_with(" (deleted)") || ::stat(path.c_str(), &open) != 0) return 0;
  const bool is_named = ::stat(link.c_str(), &named) == 0 && open.st_dev == named.st_dev &&
                        open.st_ino == named.st_ino;
  return is_named ? 0 : open.st_mode;
}

}  // namespace telefork::capture
