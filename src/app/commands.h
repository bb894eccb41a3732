// The commands of `telefork`: what each was asked for, as cli_main.cc has read it from the command
// line, and the function that does it and gives the exit code. What goes wrong is thrown, but by
// run and load, whose exit code is the program's: those say it themselves and give 125.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "net/compression.h"
#include "session/laziness.h"

namespace telefork::app {

// How run and load fail themselves.
inline constexpr int kOwnFailure = 125;

struct RunCommand {
  std::string node;
  std::vector<std::string> arguments;
  bool cpu_force = false;
  bool json = false;
  std::string json_file;
  std::uint64_t ignored_signals = 0;  // when this program began; bit n-1: signal n
};
int run_command(const RunCommand& command);

// Of a process by its pid.
struct DepartCommand {
  pid_t pid = 0;
  std::string node;
  session::Mode mode = session::Mode::kAutomatic;
  bool copy_shared = false;
  bool cpu_force = false;
  bool libc_force = false;
  bool json = false;
  std::uint64_t bandwidth = 0;                  // bytes a second; 0: what there is
  std::optional<net::Compression> compression;  // nothing: as the settings say
  std::string stop_at;                          // a step; empty: none
};

struct MoveCommand : DepartCommand {
  bool detach = false;
  bool tree = false;  // said outright; it goes so in any case
};
int move_command(const MoveCommand& command);

struct ForkCommand : DepartCommand {
  bool leave_fds = false;  // descriptors of what cannot be copied stay at home
};
int fork_command(const ForkCommand& command);
struct HomeCommand {
  pid_t pid = 0;
  bool json = false;
  std::string stop_at;  // a step of the session process; empty: none
};
int home_command(const HomeCommand& command);
struct ResumeCommand {
  pid_t pid = 0;
  bool json = false;
};
int resume_command(const ResumeCommand& command);

struct SaveCommand {
  pid_t pid = 0;
  std::string file;
  bool keep = false;
  bool embed_files = false;
  bool copy_shared = false;
  bool json = false;
};
int save_command(const SaveCommand& command);

struct LoadCommand {
  std::string file;
  bool cpu_force = false;
  bool libc_force = false;
  bool json = false;
  std::string json_file;
};
int load_command(const LoadCommand& command);

struct ShowCommand {
  std::string file;
  bool json = false;
};
int show_command(const ShowCommand& command);

struct CheckCommand {
  pid_t pid = 0;  // 0: none was given
  std::string node;
  std::string purpose;     // "fork", "run_on", "move", "copy" or "save"; of a PID
  bool leave_fds = false;  // descriptors of what cannot move stay at home
  bool copy_shared = false;
  bool cpu_force = false;
  bool detach = false;  // of a move: nothing of it stays here
  bool json = false;
};
int check_command(const CheckCommand& command);

struct KeygenCommand {
  bool telepad = false;  // of the telepad of this user, not of this user
  std::string keys;      // another folder; empty: none
  bool force = false;
  bool json = false;
};
int keygen_command(const KeygenCommand& command);

struct TrustCommand {
  std::vector<std::string> what;  // KEY, or NODE KEY
  std::string user;
  std::string keys;    // another folder; empty: none
  std::string remove;  // a key or node
  bool list = false;
  bool json = false;
};
int trust_command(const TrustCommand& command);

struct PsCommand {
  bool json = false;
};
int ps_command(const PsCommand& command);

}  // namespace telefork::app
