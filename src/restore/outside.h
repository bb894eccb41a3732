// A way to the machine's files for a blank process that has another root directory (chroot(2)): one
// at home, under the pid that has stood for such a process. It may be nobody who could change that.
//
//     Outside outside(blank);
//     Result file = program.call("opening " + path, SYS_openat,
//                                {outside.base(), program.text(outside.path_of(path)), flags});
//     outside.add_end(program);
#pragma once

#include <string>

#include "restore/blank.h"
#include "tracee/syscall_program.h"

namespace telefork::restore {

class Outside {
 public:
  // Gives it this process's root directory, if it has another one.
  explicit Outside(Blank& blank);
  // For openat(2): what it opens by, and the path from there.
  int base() const { return base_; }
  std::string path_of(const std::string& path) const;
  void add_end(tracee::SyscallProgram& program) const;

 private:
  int base_;
};

bool has_other_root(const Blank& blank);

}  // namespace telefork::restore
