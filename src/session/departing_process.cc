#include "session/departing_process.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <span>
#include <utility>

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_task.h"
#include "session/hollow.h"
#include "tracee/fd_passing.h"

namespace telefork::session {
namespace {

// Two of them.
std::vector<int> lowest_free_numbers(pid_t pid) {
  const std::vector<int> taken = kernel::list_fds(pid);
  std::vector<int> free;
  for (int fd = 0; free.size() < 2; ++fd) {
    if (std::find(taken.begin(), taken.end(), fd) == taken.end()) free.push_back(fd);
  }
  return free;
}

}  // namespace

DepartingProcess::DepartingProcess(tracee::FrozenProcess frozen,
                                   const tracee::ParkedProcess::Options& options)
    : pid_(frozen.pid()), own_pid_(kernel::read_status(frozen.pid()).ns_pids.back()) {
  tracee::ParkedProcess::Options own = options;
  own.caller = pid_;  // who becomes the deputy
  parked_ = std::make_unique<tracee::ParkedProcess>(std::move(frozen), own);
}

DepartingProcess::~DepartingProcess() = default;

void DepartingProcess::write(capture::TreeSurvey& tree, std::size_t member,
                             capture::CaptureSettings settings, image::Writer& writer,
                             const std::function<void()>& on_part) {
  const capture::CommonPart common(tree, member);
  settings = capture::settings_of(tree, member, std::move(settings));
  settings.guests = [this]() -> tracee::GuestStubs& { return parked_->guests(); };
  capture::Capture capture(tree.members[member], parked_->frozen(), parked_->stub(), settings);
  capture.write_metadata(writer, on_part);
  captured_signals_ = capture.pending_signals_of(pid_);
  capture.write_pages(writer);
}

// Nothing of it runs, so that the numbers which it gets are known before.
void DepartingProcess::open_session_socket(const CommonEnd* end) {
  close_on_death(lowest_free_numbers(pid_));
  tracee::SyscallProgram make;
  tracee::Data pair = make.buffer(2 * sizeof(int));
  make.call("making the deputy's socket", SYS_socketpair,
            {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair});
  int numbers[2];
  const tracee::ProgramRun made = parked_->stub().run(make);
  std::memcpy(numbers, made.data(pair).data(), sizeof(numbers));
  their_fds_.push_back(numbers[0]);
  session_socket_ = kernel::take_fd(pid_, numbers[1]);
  tracee::SyscallProgram close;
  close.call("closing our end of the deputy's socket", SYS_close, {numbers[1]});
  parked_->stub().run(close);
  if (!session_socket_) throw Error(Code::kFailed, "the deputy's socket is not there");
  close_on_death({numbers[0]});
  undo_.undo(SYS_close, {numbers[0]});
  if (end != nullptr) {
    const int given[] = {end->fd()};
    const int number =
        tracee::give_fds(parked_->stub(), session_socket_.get(), numbers[0], given).front();
    their_fds_.push_back(number);
    undo_ = CommonEnd::undo(number, own_pid_, parked_->held_process().lease);
    undo_.undo(SYS_close, {numbers[0]});
    parked_->set_undo(undo_);
  }
}

HeldMember DepartingProcess::held() const {
  const bool is_of_several = their_fds_.size() > 1;
  return {parked_->held_process(), is_of_several ? their_fds_.back() : -1};
}

// If this process dies.
void DepartingProcess::close_on_death(const std::vector<int>& fds) {
  tracee::SyscallProgram undo;
  for (const int fd : fds) undo.undo(SYS_close, {fd});
  parked_->set_undo(undo);
}

void DepartingProcess::close_descriptors() {
  if (their_fds_.empty()) return;
  tracee::SyscallProgram close;
  for (const int fd : std::exchange(their_fds_, {})) {
    close.call_any("closing the deputy's socket", SYS_close, {fd});
  }
  parked_->stub().run(close);
}

void DepartingProcess::take_stale_signals() {
  if (captured_signals_.empty()) return;
  tracee::SyscallProgram take;
  tracee::Data at_once = take.object(timespec{});
  for (const siginfo_t& info : captured_signals_) {
    std::uint64_t only = std::uint64_t{1} << (info.si_signo - 1);
    take.call_any("taking a signal that has gone", SYS_rt_sigtimedwait,
                  {take.object(only), 0, at_once, sizeof(only)});
  }
  parked_->stub().run(take);
  taken_signals_ = std::exchange(captured_signals_, {});
}

void DepartingProcess::leave_held() {
  if (std::optional<siginfo_t> last = parked_->end_waiting()) taken_signals_.push_back(*last);
  if (!taken_signals_.empty()) {
    tracee::SyscallProgram undo = undo_;
    for (const siginfo_t& info : taken_signals_) {
      undo.undo(SYS_rt_sigqueueinfo, {own_pid_, info.si_signo, undo.object(info)});
    }
    parked_->set_undo(undo);
  }
  parked_->leave_held();
}

void DepartingProcess::hollow_out(const std::string& deputy_program, bool speaks,
                                  UniqueFd complaints) {
  tracee::TracedThread leader =
      hollow(*parked_, {deputy_program, their_fds_.front(), session_socket_.get(), 0, speaks});
  parked_.reset();
  their_fds_.clear();
  supervisor_.emplace(tracee::StopWatch::adopt(pid_), std::move(session_socket_),
                      std::move(complaints));
  try {
    supervisor_->begin(leader);
  } catch (const Error&) {
    supervisor_.reset();
    throw;
  }
}

bool DepartingProcess::roll_back() noexcept {
  if (!parked_) return true;
  bool alive = true;
  try {
    close_descriptors();
    parked_->roll_back(taken_signals_);
  } catch (const Error&) {
    alive = false;
  }
  parked_.reset();
  return alive;
}

void DepartingProcess::end(int status) noexcept {
  try {
    if (parked_) parked_->end(status);
  } catch (const Error&) {
    // It was killed.
  }
  parked_.reset();
}

}  // namespace telefork::session
