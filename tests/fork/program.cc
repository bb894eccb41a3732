// What runs inside the programs: plain system calls, and complaints on stderr.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {

void fail_here(const std::string& what, const Where& where) {
  const char* file = std::strrchr(where.file_name(), '/');
  std::string line = std::string(file != nullptr ? file + 1 : where.file_name()) + ":" +
                     std::to_string(where.line()) + ": " + what + "\n";
  write_all(STDERR_FILENO, line);
  _exit(kRequirementFailed);
}

void require(bool condition, const Where& where) {
  const int error = errno;
  if (!condition) fail_here(std::string("does not hold; errno: ") + std::strerror(error), where);
}

pid_t fork_child(const std::string& node, const Child& child, const telefork::Options& options) {
  pid_t pid = -1;
  try {
    pid = telefork::fork(node, options);
  } catch (const telefork::Error& error) {
    fail_here(std::string("telefork::fork: ") + error.what(), Where::current());
  }
  if (pid == 0) _exit(child());
  return pid;
}

std::string describe_status(int status) {
  if (WIFEXITED(status)) return exited(WEXITSTATUS(status));
  if (WIFSIGNALED(status)) return killed(WTERMSIG(status));
  if (WIFSTOPPED(status)) return "stopped by " + std::to_string(WSTOPSIG(status));
  return WIFCONTINUED(status) ? "continued" : "no status";
}

std::string exited(int code) { return "exited " + std::to_string(code); }
std::string killed(int signal) { return "killed by " + std::to_string(signal); }

std::string status_of(pid_t pid, int flags) {
  int status = 0;
  pid_t changed;
  do {
    changed = waitpid(pid, &status, flags);
  } while (changed < 0 && errno == EINTR);
  require_equal(changed, pid);
  return describe_status(status);
}

std::string end_of(pid_t pid) { return status_of(pid, 0); }

std::string read_all(int fd) {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    require(n >= 0);
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
  }
}

std::string read_file(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_here(path + ": " + std::strerror(errno), Where::current());
  std::string text = read_all(fd);
  close(fd);
  return text;
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(kRequirementFailed);
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

void make_file(const std::string& path, std::string_view text) {
  const std::string unfinished = path + ".unfinished";
  const int fd = open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  require(fd >= 0);
  write_all(fd, text);
  close(fd);
  require(rename(unfinished.c_str(), path.c_str()) == 0);
}

bool file_comes(const std::string& path) {
  constexpr int kPatienceMs = 180'000;
  const int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  const std::string folder = path.substr(0, path.rfind('/'));
  bool waiting = inotify_add_watch(watch, folder.c_str(), IN_CREATE | IN_MOVED_TO) >= 0;
  while (waiting && access(path.c_str(), F_OK) != 0) {
    pollfd entry{watch, POLLIN, 0};
    waiting = poll(&entry, 1, kPatienceMs) != 0;
    char events[4096];
    [[maybe_unused]] const ssize_t n = read(watch, events, sizeof events);
  }
  close(watch);
  return waiting;
}

void await_file(const std::string& path) {
  if (!file_comes(path)) fail_here("waited too long for " + path, Where::current());
}

void listen_to_children() {
  int ends[2];
  require(pipe(ends) == 0);
  require(dup2(ends[0], 0) == 0 && dup2(ends[1], 1) == 1);
  close(ends[0]);
  close(ends[1]);
}

std::string read_line(int fd) {
  std::string line;
  for (char c = 0;;) {
    const ssize_t n = read(fd, &c, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0 || c == '\n') return line;
    line += c;
  }
}

namespace {

// The state of a process: 0 when it is gone.
char state_of(pid_t pid) {
  const int fd = open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[512] = {};
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  const char* name_end = n > 0 ? std::strrchr(text, ')') : nullptr;
  return name_end == nullptr ? 0 : name_end[2];
}

// There is no event for what happens to somebody else's child.
void await_any_state(pid_t pid, std::string_view states) {
  constexpr timespec kPause{0, 2'000'000};
  for (int tries = 0; tries < 30'000; ++tries) {
    if (states.find(state_of(pid)) != std::string_view::npos) return;
    nanosleep(&kPause, nullptr);
  }
  fail_here("process " + std::to_string(pid) + " is in state " + state_of(pid), Where::current());
}

}  // namespace

void await_gone(pid_t pid) { await_any_state(pid, std::string_view("\0ZX", 3)); }
void await_state(pid_t pid, char state) { await_any_state(pid, std::string_view(&state, 1)); }

std::vector<int> open_descriptors() {
  std::vector<int> found;
  DIR* folder = opendir("/proc/self/fd");
  require(folder != nullptr);
  while (const dirent* entry = readdir(folder)) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != dirfd(folder)) found.push_back(fd);
  }
  closedir(folder);
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace fork_test
