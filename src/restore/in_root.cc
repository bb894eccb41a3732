#include "restore/in_root.h"

#include <cerrno>

#include <sched.h>
#include <unistd.h>

#include "base/beside.h"

namespace telefork::restore {

int run_in_root(const std::string& root, const std::function<int()>& act) {
  if (root.empty()) return act();
  int error = 0;
  const pid_t caller = ::gettid();
  Beside thread([&] {
    if (::gettid() == caller) {
      error = EAGAIN;  // no thread could be had
    } else if (::unshare(CLONE_FS) != 0 || ::chdir(root.c_str()) != 0 || ::chroot(".") != 0) {
      error = errno;
    } else {
      error = act();
    }
  });
  thread.finish();
  return error;
}

}  // namespace telefork::restore
