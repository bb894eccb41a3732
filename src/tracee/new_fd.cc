#include "tracee/new_fd.h"

#include <cerrno>

#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/pidfd.h"

namespace telefork::tracee {

UniqueFd take_new_fd(Stub& stub, const std::string& name, long number,
                     std::initializer_list<Argument> arguments) {
  SyscallProgram make;
  const Result made = make.call_any(name, number, arguments);
  const std::int64_t fd = stub.run(make).result(made);
  if (fd < 0) {
    errno = static_cast<int>(-fd);
    return UniqueFd();
  }
  UniqueFd taken = kernel::take_fd(stub.pid(), static_cast<int>(fd));
  if (!taken) throw Error(Code::kFailed, name + ": it is not there");
  SyscallProgram close;
  close.call("closing it", SYS_close, {fd});
  stub.run(close);
  return taken;
}

}  // namespace telefork::tracee
