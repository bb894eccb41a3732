#include "seen_process.h"

#include <csignal>
#include <sstream>

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {

std::optional<SeenProcess> look_at(pid_t pid) {
  const std::string text = slurp("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t open = text.find('(');
  const std::size_t close = text.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  SeenProcess process{pid, 0, 0, text.substr(open + 1, close - open - 1)};
  std::istringstream rest(text.substr(close + 1));
  rest >> process.state >> process.parent;
  return process;
}

std::vector<SeenProcess> all_descendants() {
  std::vector<SeenProcess> found;
  for (pid_t pid : list_descendants(getpid())) {
    if (auto process = look_at(pid)) found.push_back(*process);
  }
  return found;
}

void pause_between_looks() { usleep(1000); }

void kill_and_await(pid_t pid) {
  const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (process < 0) return;  // reaped already
  kill(pid, SIGKILL);
  pollfd ended{process, POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 60'000), 1) << pid << " does not die";
  close(process);
}

}  // namespace fork_test
