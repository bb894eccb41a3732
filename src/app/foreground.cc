#include "app/foreground.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"

namespace telefork::app {

std::function<bool()> watch_foreground(pid_t home, int input) {
  struct stat terminal {};
  if (::isatty(input) == 0 || ::fstat(input, &terminal) != 0) return {};
  return [home, device = terminal.st_rdev] {
    try {
      kernel::Stat stat = kernel::read_stat(home);
      return static_cast<dev_t>(static_cast<unsigned>(stat.tty_nr)) != device ||
             stat.tpgid == stat.pgrp;
    } catch (const Error&) {
      return false;
    }
  };
}

}  // namespace telefork::app
