// What a fork over ssh is held against: scp of a file as large as the process, with the same bytes.
//
//     scp_floor --config FILE --host HOST --size 1G --from FILE --to FILE [--cipher NAME]
//               [--trials N]
//
// Makes the file --from, and removes it in the end; both had better lie in memory. The time is that
// of the whole command, its login included: so is one in a fork's. Before each trial a login of its
// own removes --to, and is told as well. --cipher is only passed on to the record.
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "measure.h"

extern char** environ;

namespace telefork::bench {
namespace {

constexpr std::size_t kPiece = 1024 * 1024;

class RandomFile {
 public:
  RandomFile(std::string path, std::size_t size) : path_(std::move(path)) {
    const TouchedMemory memory(size, Pages::kHuge);
    const int fd = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) fail_errno(path_);
    for (std::size_t at = 0; at < size;) {
      const ssize_t n = write(fd, memory.data() + at, std::min(kPiece, size - at));
      if (n <= 0) fail_errno(path_);
      at += static_cast<std::size_t>(n);
    }
    close(fd);
  }
  ~RandomFile() { unlink(path_.c_str()); }
  RandomFile(const RandomFile&) = delete;
  RandomFile& operator=(const RandomFile&) = delete;

 private:
  std::string path_;
};

// How long the command took, in seconds.
double run_command(std::vector<std::string> command) {
  std::vector<char*> arguments;
  for (std::string& one : command) arguments.push_back(one.data());
  arguments.push_back(nullptr);
  const double start = now();
  pid_t pid = 0;
  errno = posix_spawnp(&pid, arguments[0], nullptr, nullptr, arguments.data(), environ);
  if (errno != 0) fail_errno(command[0]);
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || status != 0) fail(command[0] + " failed");
  return now() - start;
}

void run(const Arguments& arguments) {
  const std::vector<std::string> options = {"-q", "-F", arguments.text("config"),
                                            "-oBatchMode=yes"};
  const std::string host = arguments.text("host");
  const std::string from = arguments.text("from");
  const std::string to = arguments.text("to");
  std::vector<std::string> remove = {"ssh"};
  std::vector<std::string> copy = {"scp"};
  for (auto* command : {&remove, &copy}) {
    command->insert(command->end(), options.begin(), options.end());
  }
  remove.insert(remove.end(), {host, "rm -f " + to});
  copy.insert(copy.end(), {from, host + ":" + to});

  const std::size_t size = arguments.size("size");
  const RandomFile file(from, size);
  std::vector<double> logins;
  std::vector<double> samples;
  for (long i = -1; i < arguments.number("trials", 5); ++i) {
    const double login = run_command(remove);
    const double time = run_command(copy);
    if (i < 0) continue;
    logins.push_back(login);
    samples.push_back(time);
  }
  run_command(remove);
  Record record("floor_scp");
  record.number("size", static_cast<double>(size));
  record.text("cipher", arguments.text("cipher"));
  record.samples("login_ms", logins);
  record.samples("carry_ms", samples);
  record.print();
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  telefork::bench::run({argc, argv, {"config", "host", "size", "from", "to", "cipher", "trials"}});
  return 0;
}
