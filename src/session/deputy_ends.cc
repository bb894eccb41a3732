#include "session/deputy_ends.h"

namespace telefork::session {

void DeputyEnds::add(deputy::Supervisor& supervisor, DeputyEnd end) {
  waiting_.emplace_back(&supervisor, end);
  end_next();
}

void DeputyEnds::on_gone(const deputy::Supervisor& supervisor) {
  std::erase_if(waiting_, [&](const auto& entry) { return entry.first == &supervisor; });
  if (ending_ == &supervisor) ending_ = nullptr;
  end_next();
}

void DeputyEnds::end_next() {
  if (ending_ != nullptr || waiting_.empty()) return;
  auto [supervisor, end] = waiting_.front();
  waiting_.pop_front();
  ending_ = supervisor;
  if (end.killed) {
    supervisor->die(end.value);
  } else {
    supervisor->exit_with(end.value);
  }
}

}  // namespace telefork::session
