// For tests linked with --wrap=ptrace,process_vm_writev: makes a tracer die right before any call
// by which it acts on its tracee.
//
//     pid_t tracer = fork();
//     if (tracer == 0) {
//       tracer_death() = {.die_at = 7};
//       ...
//
// Or has the tracee killed right after it, by as many signals as are said.
#pragma once

#include <cerrno>
#include <csignal>

#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

namespace telefork::tracee {

struct TracerDeath {
  long die_at = -1;
  long calls = 0;
  long resumes = 0;         // by which the tracee runs on
  int kills_of_tracee = 0;  // 0: it is the tracer who dies
};

inline TracerDeath& tracer_death() {
  static TracerDeath death;
  return death;
}

inline void count_tracer_call() {
  TracerDeath& death = tracer_death();
  if (death.calls++ == death.die_at && death.kills_of_tracee == 0) ::raise(SIGKILL);
}

inline void count_tracer_return(pid_t tracee) {
  TracerDeath& death = tracer_death();
  if (death.calls != death.die_at + 1) return;
  for (int i = 0; i < death.kills_of_tracee; ++i) ::kill(tracee, SIGKILL);
}

}  // namespace telefork::tracee

extern "C" {
long __real_ptrace(unsigned request, pid_t pid, void* address, void* data);
[[gnu::used]] inline long __wrap_ptrace(unsigned request, pid_t pid, void* address, void* data) {
  telefork::tracee::count_tracer_call();
  if (request == PTRACE_CONT || request == PTRACE_SYSCALL || request == PTRACE_SINGLESTEP) {
    ++telefork::tracee::tracer_death().resumes;
  }
  long result = __real_ptrace(request, pid, address, data);
  int error = errno;
  telefork::tracee::count_tracer_return(pid);
  errno = error;
  return result;
}
ssize_t __real_process_vm_writev(pid_t, const iovec*, unsigned long, const iovec*, unsigned long,
                                 unsigned long);
[[gnu::used]] inline ssize_t __wrap_process_vm_writev(pid_t pid, const iovec* local,
                                                      unsigned long local_count,
                                                      const iovec* remote,
                                                      unsigned long remote_count,
                                                      unsigned long flags) {
  telefork::tracee::count_tracer_call();
  ssize_t result = __real_process_vm_writev(pid, local, local_count, remote, remote_count, flags);
  int error = errno;
  telefork::tracee::count_tracer_return(pid);
  errno = error;
  return result;
}
}
