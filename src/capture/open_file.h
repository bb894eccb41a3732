// An open descriptor of a process as /proc shows it.
#pragma once

#include <string>

#include <sys/stat.h>
#include <sys/types.h>

#include "kernel/procfs_file.h"

namespace telefork::capture {

struct OpenFile {
  int fd;
  std::string link;
  kernel::FdInfo info;
  struct stat stat;
};

// "fd 36 -> /dev/gdrdrv (char 506:0)"
std::string describe(const OpenFile& open);

}  // namespace telefork::capture
