// The way back of a blank process that was found: it becomes what it was before.
#include <optional>

#include <sys/ptrace.h>

#include "base/error.h"
#include "restore/restorer.h"

namespace telefork::restore {

tracee::TracedThread Restorer::become(const std::function<tracee::SyscallProgram(Blank&)>& make) {
  TELEFORK_ASSERT(settings_.find_blank && blank_);
  if (!blank_->has_stub()) blank_->install_stub({});
  const tracee::SyscallProgram program = make(*blank_);
  blank_->thread().set_options(PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC);
  auto reap_others = [this] {
    for (tracee::TracedThread& thread : other_threads_) {
      if (!thread.attached()) continue;
      std::optional<tracee::WaitStatus> status = thread.try_wait();
      if (status && status->ended()) thread.forget();
    }
  };
  std::optional<tracee::ProgramRun> failed;
  if (!blank_->stub().run_to_exec(program, &failed, reap_others)) {
    failed->check(program);
    throw Error(Code::kFailed, "the other program did not start");
  }
  other_threads_.clear();
  blank_->thread().set_options(0);
  tracee::TracedThread thread = std::move(blank_->thread());
  blank_->release();
  blank_.reset();
  return thread;
}

}  // namespace telefork::restore
