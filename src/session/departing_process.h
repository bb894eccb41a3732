// One process of a move (move_session.h), from the stop on to its deputy.
//
//     DepartingProcess process(std::move(frozen), lease);
//     process.write(tree, i, settings, writer);     // its records, its pages
//     process.hold();                               // from here on it waits
//     process.open_session_socket(end);
//     process.take_stale_signals();
//     process.hollow_out(deputy_program, complaints);      // supervisor() from now on
//     ... or process.roll_back(); or process.end(status)
//
// What is done to it is undone by roll_back(). Owned by the thread that froze it.
#pragma once

#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "capture/tree.h"
#include "deputy/supervisor.h"
#include "image/writer.h"
#include "session/common_end.h"
#include "session/registry.h"
#include "tracee/parked_process.h"

namespace telefork::session {

class DepartingProcess {
 public:
  DepartingProcess(tracee::FrozenProcess frozen, const tracee::ParkedProcess::Options& options);
  DepartingProcess(const DepartingProcess&) = delete;
  DepartingProcess& operator=(const DepartingProcess&) = delete;
  ~DepartingProcess();

  pid_t pid() const { return pid_; }
  pid_t own_pid() const { return own_pid_; }  // as it sees itself
  tracee::ParkedProcess& parked() { return *parked_; }
  bool is_parked() const { return parked_ != nullptr; }

  // `on_part` as Capture has it.
  void write(capture::TreeSurvey& tree, std::size_t member, capture::CaptureSettings settings,
             image::Writer& writer, const std::function<void()>& on_part);
  // The deputy's way to hear of its guest: made while the process can still go on as it was. `end`:
  // of several; see there.
  void open_session_socket(const CommonEnd* end);
  // For whoever finds it without its tracer.
  HeldMember held() const;
  // What was pending has gone with it; the deputy is not to send it after. What came since it is
  // to.
  void take_stale_signals();
  // Whoever takes it up finds it as it was.
  void leave_held();
  // `speaks`: for all of them, on the stderr that it has; `complaints` is that too, where there is
  // one.
  void hollow_out(const std::string& deputy_program, bool speaks, UniqueFd complaints);
  // It goes on as it was. False: it was killed, and its parked state goes with it.
  bool roll_back() noexcept;
  void end(int status) noexcept;

  // Of the deputy, once it is there.
  std::optional<deputy::Supervisor>& supervisor() { return supervisor_; }

 private:
  void close_on_death(const std::vector<int>& fds);
  void close_descriptors();

  pid_t pid_;
  pid_t own_pid_;
  std::unique_ptr<tracee::ParkedProcess> parked_;
  std::vector<siginfo_t> captured_signals_;  // pending ones that have gone with it
  std::vector<siginfo_t> taken_signals_;     // of them, to be given back if it goes on here
  UniqueFd session_socket_;                  // our end
  std::vector<int> their_fds_;   // the socket's number in the process first, then what is beside it
  tracee::SyscallProgram undo_;  // of these
  std::optional<deputy::Supervisor> supervisor_;
};

}  // namespace telefork::session
