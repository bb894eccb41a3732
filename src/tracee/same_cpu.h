// A tracer and its tracee on one CPU, as long as they take turns.
//
//     SameCpu turns(pid);
//     ... programs of a stub ...
//
// Each waits for the other, so nothing is lost by it; and to wake another CPU out of its sleep
// costs more than most of what is done in between: of a program of ten system calls, in a virtual
// machine, 40 us of 60. Not for a process that is to outlive its tracer: it would stay bound.
#pragma once

#include <optional>

#include <sched.h>
#include <sys/types.h>

namespace telefork::tracee {

class SameCpu {
 public:
  // Binds thread `tid`, and the calling thread, to the CPU that the latter is on. Where the kernel
  // does not let it (sched_setaffinity(2)), all is as it was.
  explicit SameCpu(pid_t tid);
  // Both may use the CPUs again that they could before. `tid` may have ended.
  ~SameCpu();
  SameCpu(const SameCpu&) = delete;
  SameCpu& operator=(const SameCpu&) = delete;

 private:
  pid_t tid_;
  std::optional<cpu_set_t> theirs_;  // before; empty: they are not bound
  std::optional<cpu_set_t> ours_;
};

}  // namespace telefork::tracee
