#include "restore/become.h"

#include <optional>

#include <sys/ptrace.h>

#include "base/error.h"
#include "restore/restorer.h"

namespace telefork::restore {

tracee::TracedThread become(Blank& blank, const MakeProgram& make,
                            const std::function<void()>& reap_others) {
  if (!blank.has_stub()) blank.install_stub({});
  const tracee::SyscallProgram program = make(blank);
  blank.thread().set_options(PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC);
  std::optional<tracee::ProgramRun> failed;
  if (!blank.stub().run_to_exec(program, &failed, reap_others)) {
    failed->check(program);
    throw Error(Code::kFailed, "the other program did not start");
  }
  blank.thread().set_options(0);
  tracee::TracedThread thread = std::move(blank.thread());
  blank.release();
  return thread;
}

tracee::TracedThread Restorer::become(const MakeProgram& make) {
  TELEFORK_ASSERT(settings_.find_blank && blank_);
  tracee::TracedThread thread = restore::become(*blank_, make, [this] {
    for (tracee::TracedThread& other : other_threads_) {
      if (!other.attached()) continue;
      std::optional<tracee::WaitStatus> status = other.try_wait();
      if (status && status->ended()) other.forget();
    }
  });
  other_threads_.clear();
  blank_.reset();
  return thread;
}

}  // namespace telefork::restore
