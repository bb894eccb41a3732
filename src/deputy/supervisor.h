// The session process's side of one deputy: what happens to the pid at home, for the guest; what
// happens to the guest, for the pid at home.
//
//     Supervisor supervisor(StopWatch::seize(pid), std::move(socket), std::move(standard_error));
//     // readable supervisor.socket_fd(): supervisor.on_readable()
//     // every SIGCHLD:                   supervisor.on_sigchld()
//     while (auto event = supervisor.next_event()) ...
//     supervisor.exit_with(3);                 // the guest has ended so
//
//   at home                                            with the guest
//   kill(), ^C, SIGCONT -> signalfd -> kSignal      -> the same signal
//   SIGSTOP, SIGTSTP's stop          -> kStopped    -> stop it
//   parent dead (die_with_parent)    -> kParentDied -> kill it
//   SIGKILL                          -> kKilled     -> kill it
//   exit_with(), die(), stop(), resume()                <-  exited, killed, stopped, continued
//
// A stopped deputy does not read: SIGTERM waits until SIGCONT, as it would in the program itself.
// Where stops and continues of the two ends cross each other both finish in the same state. For
// that the deputy acknowledges each command, in the same stream as the signals: a stop that is seen
// while a CONTINUE is on its way is one that has been taken back, and is ended by SIGCONT at once.
// Destroying a Supervisor before the end closes the socket, and the deputy ends with 125.
// Owned by one thread, the one that traces the deputy. Nothing here blocks, but tell() and
// fail() for a second.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "abi/deputy.h"
#include "base/unique_fd.h"
#include "tracee/stop_watch.h"

namespace telefork::deputy {

struct Event {
  enum class Kind {
    kReady,       // the deputy is in place: from now on no signal is lost
    kSignal,      // `info` is for the guest
    kStopped,     // stopped by `signal`, and not by stop()
    kParentDied,  // once; only where the deputy was told to watch for it
    kKilled,      // it ended, `wait_status`, and nobody here has said so: the guest must end
    kEnded,       // it ended as it was told to; this or kKilled is the last event
  };
  Kind kind;
  signalfd_siginfo info{};
  // Sent by the kernel, as the terminal's signals are: for the guest's whole process group.
  bool from_terminal = false;
  int signal = 0;
  int wait_status = 0;
};

// "telefork: TEXT" on a program's stderr, where it takes it at once or within a second. Nothing
// where it is empty.
void tell_on(const UniqueFd& standard_error, std::string_view text);

class Supervisor {
 public:
  // Of a process that is the deputy or is about to be exec'ed as it. `standard_error` is the
  // program's; empty where it has none.
  Supervisor(tracee::StopWatch watch, UniqueFd socket, UniqueFd standard_error);

  // Lets it begin, which stands at its exec; `watch` adopts it. Where a signal had stopped it
  // before it was the deputy it first comes so far that it ends when this process dies. Then it is
  // stopped as it was: its parent hears nothing of that. kGone: it was killed, and nothing is
  // watched.
  void begin(tracee::TracedThread& leader);

  // -1 once the deputy has closed its end.
  int socket_fd() const { return socket_.get(); }
  // Throws kCorrupt when what it reads is no event.
  void on_readable();
  void on_sigchld();
  std::optional<Event> next_event();
  // Told of each change of the deputy itself that on_sigchld() sees, as waitpid(2) has it.
  void on_change(std::function<void(int status)> tell) { tell_change_ = std::move(tell); }

  // These say how the guest fares. After the deputy's end they do nothing.
  void exit_with(int status);
  void die(int signal);
  // By this very signal where the kernel lets a process be stopped by it, else by SIGSTOP.
  void stop(int signal);
  void resume();
  // What is pending at the deputy now comes as events before is_asked() is false again.
  void ask_for_signals();
  // Not of one that is stopped: it does not read, and its signals wait as well.
  bool is_asked() const { return unanswered_ > 0 && socket_ && watch_.pid() != 0 && !stopped(); }
  // Both ends are stopped, or will be when they have heard of it.
  bool held() const { return held_; }
  // 0: its end was seen, or somebody else traces it.
  pid_t pid() const { return watch_.pid(); }
  // Its end was not seen yet.
  bool is_watching() const { return watch_.pid() != 0; }
  // It was seen to be stopped, and not to go on since.
  bool stopped() const { return watch_.stopped(); }
  // It has read all that it was told.
  bool settled() const { return unacknowledged_ == 0 && !ending_; }
  // The deputy is the caller's to trace from now on, in this thread; until take_back(), which has
  // to find it running, only on_readable() and next_event() may be called.
  pid_t release() { return watch_.release(); }
  void take_back(pid_t pid) { watch_.take_back(pid); }
  // Nothing more will be told there.
  void forget_standard_error() { standard_error_.reset(); }
  void tell(std::string_view text) { tell_on(standard_error_, text); }
  // The fork has failed after the call had returned: "telefork: TEXT" on the program's stderr, 125.
  void fail(std::string_view text);

 private:
  void send(telefork_deputy_command_kind kind, int value, int fd = -1);
  void end(telefork_deputy_command_kind kind, int value);
  void wake();
  void on_event(const telefork_deputy_event& event);
  void on_stopped(int signal);
  void on_continued();

  tracee::StopWatch watch_;
  UniqueFd socket_;
  UniqueFd standard_error_;
  UniqueFd lifeline_;
  std::vector<std::byte> received_;  // the beginning of an event
  std::deque<Event> events_;
  std::function<void(int)> tell_change_;
  int unacknowledged_ = 0;  // STOPs and CONTINUEs
  int unanswered_ = 0;      // ECHOs
  bool held_ = false;       // both ends are stopped, or will be when they have heard of it
  bool ending_ = false;     // exit_with() or die() was called
};

}  // namespace telefork::deputy
