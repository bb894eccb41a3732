// What signals do to the process, and those that wait for it.
#include <csignal>

#include <fmt/format.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "restore/restorer.h"
#include "restore/siginfo.h"

namespace telefork::restore {
namespace {

// The kernel's struct sigaction (include/linux/signal_types.h).
struct KernelSigaction {
  std::uint64_t handler;
  std::uint64_t flags;
  std::uint64_t restorer;
  std::uint64_t mask;
};

}  // namespace

void Restorer::restore_signals() {
  if (!signals_) throw Error(Code::kCorrupt, "the image lacks its signals");
  auto signals = signals_->get<image::schema::Signals>();
  tracee::SyscallProgram program;
  // In the order of pending: actions first, since to ignore a signal drops it.
  for (image::schema::SignalAction::Reader action : signals.getActions()) {
    KernelSigaction raw{action.getHandler(), action.getFlags(), action.getRestorer(),
                        action.getMask()};
    if (action.getSignal() == SIGKILL || action.getSignal() == SIGSTOP) continue;
    program.call(fmt::format("restoring the action of signal {}", action.getSignal()),
                 SYS_rt_sigaction,
                 {action.getSignal(), program.object(raw), 0, sizeof(std::uint64_t)});
  }
  for (::capnp::Data::Reader bytes : signals.getPending()) {
    siginfo_t info = decode_siginfo(bytes);
    program.call(fmt::format("queueing signal {}", info.si_signo), SYS_rt_sigqueueinfo,
                 {blank_->guest_pid(), info.si_signo, program.object(info)});
  }
  run_if_large(program, true);
}

}  // namespace telefork::restore
