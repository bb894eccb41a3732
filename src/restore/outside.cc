#include "restore/outside.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_file.h"

namespace telefork::restore {

Outside::Outside(Blank& blank) : base_(AT_FDCWD) {
  if (!has_other_root(blank)) return;
  const UniqueFd root = open_file("/", O_PATH | O_DIRECTORY);
  const int given[] = {root.get()};
  base_ = blank.give_fds(given).front();
}

std::string Outside::path_of(const std::string& path) const {
  return base_ == AT_FDCWD ? path : "." + path;
}

void Outside::add_end(tracee::SyscallProgram& program) const {
  if (base_ != AT_FDCWD) program.call("closing the way out of its root", SYS_close, {base_});
}

bool has_other_root(const Blank& blank) { return kernel::read_root_link(blank.pid()) != "/"; }

}  // namespace telefork::restore
