#include "session/owed_signals.h"

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <set>
#include <utility>

namespace telefork::session {
namespace {

// A value that is queued is one process's alone.
bool is_of_one(const OwedSignals::Signal& signal) {
  return signal.group == 0 || !signal.info || signal.info->ssi_code == SI_QUEUE;
}

bool are_same(const OwedSignals::Signal& one, const OwedSignals::Signal& other) {
  return one.group == other.group && one.number == other.number && one.to_group == other.to_group;
}

}  // namespace

bool OwedSignals::add(const Signal& signal) {
  const bool is_first = !is_of_one(signal) &&
                        std::none_of(signals_.begin(), signals_.end(), [&](const Signal& earlier) {
                          return !is_of_one(earlier) && are_same(earlier, signal);
                        });
  signals_.push_back(signal);
  return is_first;
}

std::vector<OwedSignals::Batch> OwedSignals::take() {
  std::vector<Batch> batches;
  std::vector<Signal> left = std::exchange(signals_, {});
  while (!left.empty()) {
    Batch batch{left.front(), {}};
    std::vector<Signal> later;
    std::set<pid_t> passed = {batch.signal.guest_pid};  // nothing of theirs goes before that
    for (std::size_t i = 1; i < left.size(); ++i) {
      const Signal& signal = left[i];
      const bool joins = !is_of_one(batch.signal) && !is_of_one(signal) &&
                         are_same(batch.signal, signal) && passed.count(signal.guest_pid) == 0;
      passed.insert(signal.guest_pid);
      if (joins) {
        batch.others.push_back(signal.guest_pid);
      } else {
        later.push_back(signal);
      }
    }
    batches.push_back(std::move(batch));
    left = std::move(later);
  }
  return batches;
}

void send_signals(OwedSignals& owed, protocol::Link& link) {
  for (const OwedSignals::Batch& batch : owed.take()) {
    link.send([&](protocol::schema::Message::Builder message) {
      auto signal = message.initSignal();
      signal.setNumber(static_cast<std::uint32_t>(batch.signal.number));
      signal.setFromTerminal(batch.signal.to_group);
      signal.setPid(static_cast<std::uint32_t>(batch.signal.guest_pid));
      auto others = signal.initOthers(static_cast<unsigned>(batch.others.size()));
      for (unsigned i = 0; i < others.size(); ++i) {
        others.set(i, static_cast<std::uint32_t>(batch.others[i]));
      }
      const std::optional<signalfd_siginfo>& info = batch.signal.info;
      if (!info || info->ssi_code != SI_QUEUE) return;
      siginfo_t raw{};
      raw.si_signo = batch.signal.number;
      raw.si_code = SI_QUEUE;
      raw.si_pid = static_cast<pid_t>(info->ssi_pid);
      raw.si_uid = info->ssi_uid;
      raw.si_value.sival_ptr = reinterpret_cast<void*>(info->ssi_ptr);
      signal.setSiginfo(
          ::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(&raw), sizeof(raw)));
    });
  }
}

}  // namespace telefork::session
