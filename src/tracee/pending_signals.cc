#include "tracee/pending_signals.h"

#include <ctime>
#include <vector>

#include <fmt/format.h>
#include <sys/syscall.h>

#include "base/error.h"

namespace telefork::tracee {
namespace {

std::uint64_t bit_of(int signal) { return std::uint64_t{1} << (signal - 1); }

void add_queueing(const siginfo_t& info, Stub& stub, SyscallProgram& program) {
  std::string name = fmt::format("queueing signal {}", info.si_signo);
  Data data = program.object(info);
  if (info.si_code == SI_TKILL) {
    program.call(name, SYS_rt_tgsigqueueinfo,
                 {stub.own_pid(), stub.own_tid(), info.si_signo, data});
  } else {
    program.call(name, SYS_rt_sigqueueinfo, {stub.own_pid(), info.si_signo, data});
  }
}

std::size_t count_waiting(Stub& stub, bool shared, std::uint64_t numbers) {
  std::size_t count = 0;
  for (const siginfo_t& info : stub.thread().pending_signals(shared)) {
    count += (numbers & bit_of(info.si_signo)) != 0 ? 1 : 0;
  }
  return count;
}

struct Waiting {
  std::size_t of_thread = 0;
  std::size_t of_process = 0;
};

// None where they are too many.
Waiting find_waiting(Stub& stub, std::uint64_t numbers) {
  try {
    Waiting waiting{count_waiting(stub, false, numbers), count_waiting(stub, true, numbers)};
    if (waiting.of_thread + waiting.of_process <= kMostRequeued) return waiting;
  } catch (const Error& error) {
    if (error.code() != Code::kRefused) throw;
  }
  return {};
}

struct Taken {
  Result number;  // an errno where somebody else was faster
  Data info;
  bool of_thread;
};

}  // namespace

// Steps on what was taken may fail: of what is not there nothing is queued.
void add_queueing_ahead(std::span<const siginfo_t> signals, Stub& stub, SyscallProgram& program) {
  std::uint64_t numbers = 0;
  for (const siginfo_t& info : signals) numbers |= bit_of(info.si_signo);
  if (numbers == 0) return;
  const Waiting waiting = find_waiting(stub, numbers);
  const std::size_t count = waiting.of_thread + waiting.of_process;
  std::vector<Taken> taken;
  Data set = program.object(numbers);
  Data no_time = program.object(timespec{});
  // The thread's own come first (kernel/signal.c: dequeue_signal).
  for (std::size_t i = 0; i < count; ++i) {
    Data info = program.buffer(sizeof(siginfo_t));
    Result number = program.call_any("taking a signal that waits", SYS_rt_sigtimedwait,
                                     {set, info, no_time, sizeof(std::uint64_t)});
    taken.push_back({number, info, i < waiting.of_thread});
  }
  for (const siginfo_t& info : signals) add_queueing(info, stub, program);
  for (const Taken& one : taken) {
    const char* name = "queueing a signal again";
    if (one.of_thread) {
      program.call_any(name, SYS_rt_tgsigqueueinfo,
                       {stub.own_pid(), stub.own_tid(), one.number, one.info});
    } else {
      program.call_any(name, SYS_rt_sigqueueinfo, {stub.own_pid(), one.number, one.info});
    }
  }
}

}  // namespace telefork::tracee
