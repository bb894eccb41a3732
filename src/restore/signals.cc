// What signals do to the process, and those that wait for it.
#include <csignal>

#include "base/error.h"
#include "restore/restorer.h"
#include "restore/steps.h"

namespace telefork::restore {

image::schema::Signals::Reader Restorer::signals() const {
  if (!signals_) throw Error(Code::kCorrupt, "the image lacks its signals");
  return signals_->get<image::schema::Signals>();
}

void Restorer::restore_signals() {
  const image::schema::Signals::Reader signals = this->signals();
  tracee::SyscallProgram program;
  // In this order: to ignore a signal drops those that are pending.
  add_signal_actions(signals, false, program);
  add_pending(signals.getPending(), blank_->guest_pid(), 0, program);
  run_if_large(program, true);
}

}  // namespace telefork::restore
