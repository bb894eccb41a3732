#include "tracee/same_cpu.h"

namespace telefork::tracee {
namespace {

constexpr pid_t kCaller = 0;

// What it could use before; nothing: it cannot be bound.
std::optional<cpu_set_t> bind(pid_t tid, const cpu_set_t& to) {
  cpu_set_t before;
  if (::sched_getaffinity(tid, sizeof(before), &before) != 0) return std::nullopt;
  if (::sched_setaffinity(tid, sizeof(to), &to) != 0) return std::nullopt;
  return before;
}

}  // namespace

SameCpu::SameCpu(pid_t tid) : tid_(tid) {
  int cpu = ::sched_getcpu();
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  theirs_ = bind(tid, one);
  if (theirs_) ours_ = bind(kCaller, one);
}

SameCpu::~SameCpu() {
  if (ours_) ::sched_setaffinity(kCaller, sizeof(*ours_), &*ours_);
  if (theirs_) ::sched_setaffinity(tid_, sizeof(*theirs_), &*theirs_);
}

}  // namespace telefork::tracee
