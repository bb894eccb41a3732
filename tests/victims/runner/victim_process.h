// A victim that runs, and the process that stands for it after it was moved: the two ends of the
// protocol in ../victim.h.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace victims {

// What a victim has said of itself before it was ready.
struct Declared {
  std::string skip;                  // the feature that is missing, or nothing
  std::vector<std::string> refused;  // in these words
  std::string refused_by_load;       // or nothing
  std::vector<std::string> refused_by_move;
  std::vector<std::string> refused_beside;
  std::vector<std::string> refused_by_fork;
  std::vector<std::string> refused_by_home;
  bool once_stopped = false;       // only then
  std::string loses;               // a sentence of docs/limits.md, or nothing
  std::string loses_in_namespace;  // the same, of who is in a pid namespace of its own
  std::string loses_at_home;       // the same, of who comes home
  std::string clashes;             // in these words, or nothing
  bool clashes_in_files = false;   // which other machines may have too
  std::string clashes_at_home;     // the same, of who comes home from another machine
  std::string stays_near;          // a sentence of docs/limits.md, or nothing
  std::string noted_beside;        // on stderr, of who runs beside itself; or nothing
  std::string ends_with_session;   // a sentence of docs/limits.md, or nothing
  bool ends_as_deputy = true;      // likewise
  bool stops = false;              // by a signal, when it is ready
};

// A command that has ended.
struct Finished {
  int code = -1;  // 128 + N where signal N killed it
  std::string out;
  std::string err;
};

// Starts `arguments` in `folder` with these streams, SIGTERM blocked on request: then it is there
// when the program comes to look at signals, however early it was sent.
struct Launch {
  std::vector<std::string> arguments;
  std::string folder;
  int out = -1;
  int err = -1;
  bool block_sigterm = false;
};
pid_t launch(const Launch& launch);
// A child of another process: returns when it has ended; end_stranger kills it first.
void await_stranger(pid_t pid);
void end_stranger(pid_t pid);
// Ends it with all that has come of it, here as there.
void kill_tree(pid_t pid);

// A command that runs, its streams going to pipes.
class Command {
 public:
  Command(const std::vector<std::string>& arguments, const std::string& folder);
  // It has to be finished.
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  pid_t pid() const { return pid_; }
  bool has_ended() const;
  void await_end() const;
  Finished finish();

 private:
  int out_[2] = {-1, -1};
  int err_[2] = {-1, -1};
  pid_t pid_ = -1;
};
// Runs one to its end.
Finished run_command(const std::vector<std::string>& arguments, const std::string& folder);

class VictimProcess {
 public:
  VictimProcess(const std::string& program, const std::string& folder);
  ~VictimProcess();
  VictimProcess(const VictimProcess&) = delete;
  VictimProcess& operator=(const VictimProcess&) = delete;

  // Reads until it is ready. False: it ended before, which is well where it says what is missing.
  bool await_ready();
  const Declared& declared() const { return declared_; }
  // It goes to another machine, which has the same files and terminals: so it has the pids that it
  // had, and nothing else is in its way.
  void ignore_what_is_near();
  // Its own process, as it was started.
  pid_t pid() const { return pid_; }

  // Its process has ended here: how. 128 + N as above.
  int await_end();
  // From now on this program stands for it: SIGTERM goes to it and its end is the victim's.
  void continue_as(const std::vector<std::string>& arguments);
  // It runs as `guest` from now on; its own pid still stands for it.
  void continue_elsewhere(pid_t guest) { guest_ = guest; }
  // And again as itself.
  void continue_at_home() { guest_ = -1; }

  // It is killed, and its copy stands for it: `home` here, whose parent is somebody else, and
  // `guest` where it went.
  void continue_as_copy(pid_t home, pid_t guest);

  // The first signal, behind the one that continues what is stopped. True when it says `awake`;
  // false: it has said something else.
  bool wake();
  // Where the victim itself is to be seen in /proc: below what stands for it, by the number that it
  // has in its own pid namespace.
  pid_t visible_pid() const;
  // Lets it look at itself, and waits for the end.
  Finished finish();

 private:
  std::optional<std::string> read_line();
  void signal_it() const;
  void continue_it() const;

  std::string folder_;
  pid_t pid_ = -1;
  pid_t stands_for_it_ = -1;  // to be signalled and waited for; -1 when it has been waited for
  pid_t guest_ = -1;          // where it went; -1: nowhere
  bool is_ours_ = true;       // what stands for it is a child of this process
  int out_[2] = {-1, -1};
  int err_[2] = {-1, -1};
  std::string unread_;
  std::string said_;  // lines since the first signal
  Declared declared_;
  bool asleep_ = true;
};

}  // namespace victims
