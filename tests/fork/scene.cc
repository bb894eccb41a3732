#include "scene.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fork_test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(180);

// As app/places.cc has it for root, and for a plain user who has an XDG_RUNTIME_DIR.
std::string registry() {
  const char* own = std::getenv("XDG_RUNTIME_DIR");
  const bool plain = geteuid() != 0 && own != nullptr;
  return (plain ? std::string(own) : "/run") + "/telefork/sessions";
}

// What the environment says, or that.
std::string setting(const char* name, const char* otherwise) {
  const char* given = std::getenv(name);
  return given != nullptr ? given : otherwise;
}

int left_ms(Clock::time_point deadline) {
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::max<long>(0, left.count()));
}

// A child has changed its state, or the time is over.
bool await_sigchld(Clock::time_point deadline) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  const int ms = left_ms(deadline);
  const timespec patience{ms / 1000, (ms % 1000) * 1'000'000L};
  return sigtimedwait(&set, nullptr, &patience) == SIGCHLD;
}

bool is_listening(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path.c_str(), sizeof address.sun_path - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected =
      connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return connected;
}

// As a shell's foreground job has them. Not sigaction(3), which keeps 32 and 33 for itself.
void reset_signals() {
  const unsigned long by_default[4] = {};
  for (int signal = 1; signal <= 64; ++signal) {
    syscall(SYS_rt_sigaction, signal, by_default, nullptr, 8UL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// What a program may have more than before: the library's socket to its agent.
void require_no_descriptor_left(const std::vector<int>& before) {
  std::vector<int> now = open_descriptors();
  std::vector<int> more;
  std::set_difference(now.begin(), now.end(), before.begin(), before.end(),
                      std::back_inserter(more));
  for (std::size_t i = 0; i < more.size(); ++i) {
    struct stat status {};
    fstat(more[i], &status);
    if (i == 0 && S_ISSOCK(status.st_mode)) continue;
    fail_here("fd " + std::to_string(more[i]) + " was left open", Where::current());
  }
}

[[noreturn]] void run_body(const Body& body, const ProgramSettings& settings, int out, int err) {
  // Not in an orphaned group, where the terminal's signals stop nobody, however we were started.
  if (settings.own_session) {
    setsid();
  } else {
    setpgid(0, 0);
  }
  reset_signals();
  dup2(settings.standard_input >= 0 ? settings.standard_input : open("/dev/null", O_RDONLY), 0);
  dup2(out, 1);
  dup2(err, 2);
  syscall(SYS_close_range, 3U, ~0U, 0U);
  const std::vector<int> before = open_descriptors();
  // An exception must not bring this copy of the test back into GoogleTest.
  [&body]() noexcept { body(); }();
  require_no_descriptor_left(before);
  _exit(0);
}

// Both streams, as long as either is open.
void read_both(const Program& program, Outcome& outcome, Clock::time_point deadline) {
  pollfd entries[] = {{program.out, POLLIN, 0}, {program.err, POLLIN, 0}};
  std::string* texts[] = {&outcome.out, &outcome.err};
  while (entries[0].fd >= 0 || entries[1].fd >= 0) {
    const int ready = poll(entries, 2, left_ms(deadline));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) {
      ADD_FAILURE() << "the program's output does not end\n" << describe_descendants();
      return;
    }
    for (int i = 0; i < 2; ++i) {
      if (entries[i].fd < 0 || entries[i].revents == 0) continue;
      char buffer[65536];
      const ssize_t n = read(entries[i].fd, buffer, sizeof buffer);
      if (n <= 0) entries[i].fd = -1;
      if (n > 0) texts[i]->append(buffer, static_cast<std::size_t>(n));
    }
  }
}

}  // namespace

std::vector<std::string> nodes_under_test(const std::vector<std::string>& usual) {
  std::string given = setting("TELEFORK_TEST_NODE", "");
  if (given.empty()) return usual;
  return {given};
}

std::string name_of_node(const testing::TestParamInfo<std::string>& info) {
  bool is_word = std::all_of(info.param.begin(), info.param.end(),
                             [](unsigned char c) { return std::isalpha(c) != 0; });
  return is_word ? info.param : "machine";
}

std::string slurp(const std::string& path) {
  // This way a process that ends meanwhile (ESRCH) cuts the text short, and throws nothing.
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

namespace {

void add_children(pid_t parent, std::vector<pid_t>& found) {
  std::error_code gone;
  fs::directory_iterator task("/proc/" + std::to_string(parent) + "/task", gone);
  for (; !gone && task != fs::directory_iterator(); task.increment(gone)) {
    std::istringstream children(slurp(task->path() / "children"));
    for (pid_t child = 0; children >> child;) {
      found.push_back(child);
      add_children(child, found);
    }
  }
}

}  // namespace

// The kernel leaves one out when a sibling before it is reaped meanwhile (proc(5), "children"), and
// an orphan that has just changed its parent is missed too: so until two walks agree.
std::vector<pid_t> list_descendants(pid_t ancestor) {
  std::vector<pid_t> before;
  std::vector<pid_t> found;
  do {
    before.swap(found);
    found.clear();
    add_children(ancestor, found);
  } while (found != before);
  return found;
}

std::vector<pid_t> list_keepers(pid_t telepad) {
  std::vector<pid_t> keepers = list_descendants(telepad);
  std::erase_if(keepers, [](pid_t pid) {
    return slurp("/proc/" + std::to_string(pid) + "/comm") != "telefork-keeper\n";
  });
  return keepers;
}

std::vector<std::string> descriptors_of(pid_t pid) {
  std::vector<std::string> found;
  std::error_code gone;
  fs::directory_iterator fd("/proc/" + std::to_string(pid) + "/fd", gone);
  for (; !gone && fd != fs::directory_iterator(); fd.increment(gone)) {
    const fs::path target = fs::read_symlink(fd->path(), gone);
    if (!target.empty()) found.push_back(target);
  }
  std::sort(found.begin(), found.end());
  return found;
}

long count_sockets(const std::vector<std::string>& descriptors) {
  return std::count_if(descriptors.begin(), descriptors.end(),
                       [](const std::string& name) { return name.starts_with("socket:"); });
}

void AFork::SetUp() {
  std::string pattern = testing::TempDir() + "telefork-test.XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  folder_ = pattern;
  mounts_ = slurp("/proc/self/mounts");
  setenv("TELEFORK_SOCKET", setting("TELEFORK_TEST_SOCKET", "").c_str(), 1);
  node_ = kind_of_node();
  if (node_ != "unix" && node_ != "tls") return;
  // The agent comes from the same telepad: the whole way through the daemon.
  socket_ = path("telepad.sock");
  setenv("TELEFORK_SOCKET", socket_.c_str(), 1);
  if (node_ == "unix") {
    node_ = "unix:" + socket_;
    start_telepad();
    return;
  }
  setenv("XDG_CONFIG_HOME", path("config").c_str(), 1);
  listens_at_ = "127.0.0.1:0";
  const std::string key = telefork("keygen --keys " + path("keys"));
  start_telepad();
  node_ = lay_cable(listens_at_);
  telefork("trust " + node_ + " " + key);
  telefork("trust " + telefork("keygen") + " --keys " + path("keys") +
           (geteuid() == 0 ? " --as root" : ""));
}

std::string AFork::telefork(const std::string& arguments) const {
  const fs::path program = fs::path(telepad_program()).parent_path() / "telefork";
  FILE* output = popen((program.string() + " " + arguments).c_str(), "re");
  char line[4096] = "";
  EXPECT_NE(std::fgets(line, sizeof line, output), nullptr) << arguments;
  EXPECT_EQ(pclose(output), 0) << arguments;
  return std::string(line).substr(0, std::string(line).find('\n'));
}

void AFork::TearDown() {
  if (telepad_ > 0) {
    expect_telepad_as_it_was();
    stop_telepad(SIGTERM);
  }
  EXPECT_TRUE(all_processes_end());
  EXPECT_EQ(slurp("/proc/self/mounts"), mounts_);
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(registry(), missing)) {
    // Without a world of our own other programs' sessions are there too, each with its lock.
    const int file = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    // One that was replaced since has no name any more: the new one is its session's.
    struct stat status {};
    const bool free = file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0 &&
                      fstat(file, &status) == 0 && status.st_nlink != 0;
    close(file);
    if (!free) continue;
    if (!forget_killed_sessions_) ADD_FAILURE() << "left behind: " << entry.path();
    fs::remove(entry.path());
  }
  if (HasFailure() && fs::exists(path("telepad.log"))) {
    std::cerr << "telepad said:\n" << slurp(path("telepad.log"));
  }
  fs::remove_all(folder_);
}

std::string AFork::telepad_program() const {
  return setting("TELEFORK_TEST_TELEPAD", TELEFORK_TELEPAD);
}

void AFork::start_telepad(const Body& before_exec) {
  telepad_ = ::fork();
  ASSERT_GE(telepad_, 0);
  if (telepad_ == 0) {
    reset_signals();
    const int log = open(path("telepad.log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(open("/dev/null", O_RDWR), 0);
    dup2(log, 1);
    dup2(log, 2);
    syscall(SYS_close_range, 3U, ~0U, 0U);
    if (before_exec) before_exec();
    const std::string keys = path("keys");
    const char* listen = listens_at_.empty() ? nullptr : "--listen";
    execl(telepad_program().c_str(), "telepad", "--socket", socket_.c_str(), listen,
          listens_at_.c_str(), "--keys", keys.c_str(), nullptr);
    _exit(127);
  }
  const auto deadline = Clock::now() + kPatience;
  while (!is_listening(socket_)) {
    ASSERT_LT(Clock::now(), deadline) << "telepad does not listen";
    ASSERT_FALSE(await_sigchld(Clock::now() + std::chrono::milliseconds(5)) &&
                 waitpid(telepad_, nullptr, WNOHANG) == telepad_)
        << "telepad ended: " << slurp(path("telepad.log"));
  }
  const long listening = listens_at_.empty() ? 1 : 2;
  do {  // until what asked whether it listens is gone: those are left that listen
    telepad_descriptors_ = descriptors_of(telepad_);
  } while (count_sockets(telepad_descriptors_) > listening && Clock::now() < deadline);
  if (listens_at_ != "127.0.0.1:0") return;
  // The next one has the same port.
  const std::string said = slurp(path("telepad.log"));
  const std::size_t begin = said.find("127.0.0.1:");
  ASSERT_NE(begin, std::string::npos) << said;
  listens_at_ = said.substr(begin, said.find('\n', begin) - begin);
}

// A session's end takes a moment to come there, and is no event here.
void AFork::expect_telepad_as_it_was() const {
  const auto deadline = Clock::now() + kPatience;
  std::vector<std::string> more;
  do {
    const std::vector<std::string> now = descriptors_of(telepad_);
    more.clear();
    std::set_difference(now.begin(), now.end(), telepad_descriptors_.begin(),
                        telepad_descriptors_.end(), std::back_inserter(more));
    // What is kept of a run_on stays for a while.
    more.erase(std::remove_if(more.begin(), more.end(),
                              [](const std::string& open) {
                                return open.find("memfd:telefork-kept") != std::string::npos;
                              }),
               more.end());
  } while (!more.empty() &&
           (await_sigchld(Clock::now() + std::chrono::milliseconds(5)) || Clock::now() < deadline));
  EXPECT_EQ(more, std::vector<std::string>()) << "the telepad has more open than before";
}

void AFork::stop_telepad(int signal) {
  kill(telepad_, signal);
  int status = 0;
  const auto deadline = Clock::now() + kPatience;
  while (waitpid(telepad_, &status, WNOHANG) == 0) {
    if (await_sigchld(deadline)) continue;
    ADD_FAILURE() << "telepad does not end\n" << describe_descendants();
    break;
  }
  if (signal == SIGTERM) {
    EXPECT_EQ(describe_status(status), exited(0));
  }
  telepad_ = -1;
}

Program AFork::start(const Body& body, const ProgramSettings& settings) const {
  int out[2];
  int err[2];
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(err, O_CLOEXEC), 0);
  Program program{::fork(), out[0], err[0]};
  if (program.pid == 0) run_body(body, settings, out[1], err[1]);
  close(out[1]);
  close(err[1]);
  return program;
}

Outcome AFork::finish(const Program& program) const {
  Outcome outcome;
  const auto deadline = Clock::now() + patience_;
  read_both(program, outcome, deadline);
  close(program.out);
  close(program.err);
  int status = 0;
  while (waitpid(program.pid, &status, WNOHANG) == 0) {
    if (await_sigchld(deadline)) continue;
    ADD_FAILURE() << "the program does not end\n" << describe_descendants();
    kill(program.pid, SIGKILL);
  }
  outcome.end = describe_status(status);
  return outcome;
}

Outcome AFork::run(const Body& body, const ProgramSettings& settings) const {
  return finish(start(body, settings));
}

testing::AssertionResult went_well(const Outcome& outcome) {
  if (outcome.end == exited(0) && outcome.err.empty()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "the program " << outcome.end << "; it said:\n"
                                     << outcome.err;
}

testing::AssertionResult all_processes_end(pid_t but) {
  const auto deadline = Clock::now() + kPatience;
  for (;;) {
    const pid_t pid = waitpid(-1, nullptr, WNOHANG | __WALL);
    if (pid > 0) continue;
    if (pid < 0 && errno == ECHILD) return testing::AssertionSuccess();
    if (but > 0 && list_descendants(getpid()) == std::vector<pid_t>{but}) {
      return testing::AssertionSuccess();
    }
    if (await_sigchld(deadline) || Clock::now() < deadline) continue;
    auto failure = testing::AssertionFailure() << "left behind:\n" << describe_descendants();
    for (;;) {
      for (pid_t left : list_descendants(getpid())) kill(left, SIGKILL);
      if (waitpid(-1, nullptr, __WALL) < 0 && errno == ECHILD) return failure;
    }
  }
}

namespace {

// Of a thread, by its folder in /proc.
std::string describe_thread(const std::string& thread) {
  std::ostringstream text;
  std::istringstream status(slurp(thread + "/status"));
  for (std::string line; std::getline(status, line);) {
    for (const char* key : {"Name:", "State:", "PPid:", "TracerPid:", "SigPnd:", "SigBlk:"}) {
      if (line.starts_with(key)) text << "    " << line << "\n";
    }
  }
  text << "    wchan: " << slurp(thread + "/wchan")
       << "\n    syscall: " << slurp(thread + "/syscall") << slurp(thread + "/stack");
  return text.str();
}

}  // namespace

std::string describe_descendants() {
  std::ostringstream text;
  for (pid_t pid : list_descendants(getpid())) {
    const std::string process = "/proc/" + std::to_string(pid);
    std::string command = slurp(process + "/cmdline");
    std::replace(command.begin(), command.end(), '\0', ' ');
    text << pid << " " << command << "\n";
    std::error_code ended;
    for (fs::directory_iterator each(process + "/task", ended); !ended && each != end(each);
         each.increment(ended)) {
      text << "  thread " << each->path().filename().string() << "\n"
           << describe_thread(each->path().string());
    }
  }
  return text.str();
}

namespace {

// Once, first thing in main(): closes what was inherited, becomes a subreaper in a mount namespace
// with a registry of its own.
void enter_own_world() {
  syscall(SYS_close_range, 3U, ~0U, 0U);
  for (const char* name : {"TELEFORK_AGENT", "TELEFORK_SOCKET"}) unsetenv(name);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) return;
  mkdir("/run/telefork", 0755);
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0) {
    mount("tmpfs", "/run/telefork", "tmpfs", 0, "mode=755");
  }
}

}  // namespace
}  // namespace fork_test

int main(int argc, char** argv) {
  fork_test::enter_own_world();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
