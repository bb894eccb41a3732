// What signals do to the process, and those that wait for it.
#include <csignal>

#include "base/error.h"
#include "restore/restorer.h"
#include "restore/steps.h"

namespace telefork::restore {
void Restorer::restore_signals() {
  if (!signals_) throw Error(Code::kCorrupt, "the image lacks its signals");
  auto signals = signals_->get<image::schema::Signals>();
  tracee::SyscallProgram program;
  // In this order: to ignore a signal drops those that are pending.
  add_signal_actions(signals, false, program);
  add_pending(signals.getPending(), blank_->guest_pid(), 0, program);
  run_if_large(program, true);
}

}  // namespace telefork::restore
