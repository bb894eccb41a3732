// What signals do to the process, and those that wait for it.
#include <csignal>
#include <cstring>

#include <sys/syscall.h>

#include "capture/capture.h"
#include "kernel/abi.h"

namespace telefork::capture {
namespace {

constexpr int kSignals = 64;

}  // namespace

void Capture::write_signals(image::RecordSink& sink) {
  tracee::SyscallProgram program;
  std::vector<tracee::Data> answers;
  for (int signal = 1; signal <= kSignals; ++signal) {
    answers.push_back(program.buffer(sizeof(kernel::Sigaction)));
    program.call("asking for a signal's action", SYS_rt_sigaction,
                 {signal, 0, answers.back(), sizeof(std::uint64_t)});
  }
  tracee::ProgramRun run = stub_.run(program);

  std::vector<std::pair<int, kernel::Sigaction>> actions;
  for (int signal = 1; signal <= kSignals; ++signal) {
    auto action = run.object<kernel::Sigaction>(answers[static_cast<std::size_t>(signal) - 1]);
    if (action.handler != 0 || action.flags != 0) actions.emplace_back(signal, action);
  }
  ::capnp::MallocMessageBuilder message;
  auto signals = message.initRoot<image::schema::Signals>();
  auto list = signals.initActions(static_cast<unsigned>(actions.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setSignal(static_cast<std::uint32_t>(actions[i].first));
    list[i].setHandler(actions[i].second.handler);
    list[i].setFlags(actions[i].second.flags);
    list[i].setRestorer(actions[i].second.restorer);
    list[i].setMask(actions[i].second.mask);
  }
  auto waiting = signals.initPending(static_cast<unsigned>(pending_.size()));
  for (unsigned i = 0; i < waiting.size(); ++i) waiting.set(i, as_data(pending_[i]));
  sink.write(image::RecordType::kSignals, message);
}

std::vector<siginfo_t> Capture::pending_signals_of(pid_t tid) const {
  std::vector<siginfo_t> signals;
  auto own = pending_of_threads_.find(tid);
  if (own != pending_of_threads_.end()) signals = own->second;
  signals.insert(signals.end(), pending_.begin(), pending_.end());
  return signals;
}

}  // namespace telefork::capture
