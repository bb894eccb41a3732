#include "app/foreground.h"

#include <algorithm>

#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"

namespace telefork::app {

namespace {

// `device`: the terminal. One that has another is told nothing by this one: `foreign` then.
bool may_read(pid_t home, dev_t device, bool foreign) {
  try {
    const kernel::Stat stat = kernel::read_stat(home);
    if (static_cast<dev_t>(static_cast<unsigned>(stat.tty_nr)) != device) return foreign;
    return stat.tpgid == stat.pgrp;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::function<bool()> watch_foreground(pid_t home, int input) {
  return watch_foreground_of_all({home}, input);
}

std::function<bool()> watch_foreground_of_all(const std::vector<pid_t>& homes, int input) {
  struct stat terminal {};
  if (::isatty(input) == 0 || ::fstat(input, &terminal) != 0) return {};
  return [homes, device = terminal.st_rdev] {
    return std::any_of(homes.begin(), homes.end(),
                       [&](pid_t home) { return may_read(home, device, home == homes.front()); });
  };
}

}  // namespace telefork::app
