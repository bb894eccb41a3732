#include "tracee/held_process.h"

#include <cerrno>
#include <ctime>

#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "tracee/memory.h"
#include "tracee/registers.h"
#include "tracee/thread.h"

namespace telefork::tracee {

bool is_parked(const HeldProcess& held) {
  if (!kernel::is_alive(held.process)) return false;
  try {
    return read_object<std::uint32_t>(held.process.pid, held.gate) == 0;
  } catch (const Error& error) {
    return error.error() == EPERM && kernel::is_alive(held.process);
  }
}

// The kernel has read the lease when the sleep began: so it is the one or the other that ends it.
bool try_release(const HeldProcess& held) {
  const pid_t pid = held.process.pid;
  if (kernel::read_status(pid).tracer_pid != 0) return false;
  TracedThread caller = TracedThread::seize(held.caller, 0);
  caller.interrupt();
  if (!is_parked(held)) return true;
  write_object(pid, held.lease, timespec{});
  Registers registers = caller.registers();
  if (interrupted_system_call(registers) == SYS_clock_nanosleep) {
    set_system_call_result(registers, 0);
    forget_system_call(registers);
    caller.set_registers(registers);
  }
  return true;
}

}  // namespace telefork::tracee
