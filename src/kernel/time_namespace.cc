#include "kernel/time_namespace.h"

#include <cerrno>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "kernel/abi.h"

namespace telefork::kernel {

// unshare(2) makes it for the children alone. Its offsets can be set until the first process is in
// it; the maker enters by setns(2), or since Linux 6.2 at its next exec (fs/exec.c,
// exec_task_namespaces).
int enter_time_namespace(std::string_view offsets) {
  constexpr int kNewTime = static_cast<int>(kCloneNewTime);
  if (::unshare(kNewTime) != 0) return errno;
  UniqueFd file(::open(kOwnTimeOffsetsPath, O_WRONLY | O_CLOEXEC));
  if (!file) return errno;
  if (::write(file.get(), offsets.data(), offsets.size()) != static_cast<ssize_t>(offsets.size())) {
    return errno;
  }
  UniqueFd space(::open(kChildrensTimeNamespacePath, O_RDONLY | O_CLOEXEC));
  if (!space) return errno;
  return ::setns(space.get(), kNewTime) == 0 ? 0 : errno;
}

}  // namespace telefork::kernel
