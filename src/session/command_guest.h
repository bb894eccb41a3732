// A guest that is no process yet: the command of `telefork run`, looked up and exec'ed here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "image/reader.h"

namespace telefork::session {

class CommandGuest {
 public:
  // Its standard streams; an empty one is closed for it, as it is at home.
  explicit CommandGuest(UniqueFd (&streams)[3]);
  // Kills and reaps it, unless it was started.
  ~CommandGuest();
  CommandGuest(const CommandGuest&) = delete;
  CommandGuest& operator=(const CommandGuest&) = delete;

  // Takes the image and forks a child that waits. Throws kRefused where its directory is not here.
  void receive(image::RecordSource& source);
  // The child goes on to exec: 127 and 126 as a shell would have it, the reason on its stderr.
  void start();
  pid_t pid() const { return pid_; }

 private:
  void decode(image::schema::Command::Reader command);
  [[noreturn]] void run_child(int gate);

  UniqueFd streams_[3];
  UniqueFd gate_;
  pid_t pid_ = 0;
  bool started_ = false;
  std::vector<std::string> arguments_;
  std::vector<std::string> environment_;
  std::string cwd_;
  unsigned umask_ = 022;
  int nice_ = 0;
  std::uint64_t ignored_signals_ = 0;
};

}  // namespace telefork::session
