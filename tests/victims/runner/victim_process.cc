#include "victim_process.h"

#include <chrono>
#include <csignal>
#include <regex>
#include <stdexcept>
#include <system_error>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"
#include "seen_process.h"

namespace victims {
namespace {

constexpr int kPatienceMs = 90'000;

int exit_code(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void make_pipe(int (&ends)[2]) {
  if (pipe2(ends, O_CLOEXEC) != 0) ADD_FAILURE() << "pipe2: " << strerror(errno);
}

// All that is there now.
std::string drain(int fd) {
  std::string text;
  fcntl(fd, F_SETFL, O_NONBLOCK);
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(n));
  }
  return text;
}

// Those below 1 are many processes, or the runner's own.
void check_number(pid_t pid) {
  if (pid <= 0) throw std::logic_error("no process: " + std::to_string(pid));
}

// Until the child ends. One that does not is killed.
void await_child(pid_t pid) {
  check_number(pid);
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  pollfd end{pidfd, POLLIN, 0};
  if (poll(&end, 1, kPatienceMs) != 1) {
    ADD_FAILURE() << "process " << pid << " does not end\n" << fork_test::describe_descendants();
    kill(pid, SIGKILL);
  }
  close(pidfd);
}

int wait_for(pid_t pid) {
  await_child(pid);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return exit_code(status);
}

// By a signal, whoever traces it.
void await_stopped(pid_t pid) {
  const auto patience = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
  while (std::chrono::steady_clock::now() < patience) {
    const auto seen = fork_test::look_at(pid);
    if (seen && (seen->state == 'T' || seen->state == 't')) return;
    fork_test::pause_between_looks();
  }
  ADD_FAILURE() << "process " << pid << " is not stopped\n" << fork_test::describe_descendants();
}

void become(const Launch& launch) {
  sigset_t mask;
  sigemptyset(&mask);
  if (launch.block_sigterm) sigaddset(&mask, SIGTERM);
  for (int signal = 1; signal < NSIG; ++signal) std::signal(signal, SIG_DFL);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(launch.out < 0 ? null : launch.out, 1);
  dup2(launch.err < 0 ? null : launch.err, 2);
  syscall(SYS_close_range, 3U, ~0U, 0U);
  std::vector<char*> arguments;
  for (const std::string& argument : launch.arguments) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  if (chdir(launch.folder.c_str()) == 0) execv(arguments[0], arguments.data());
  _exit(127);
}

}  // namespace

pid_t launch(const Launch& launch) {
  // Before the fork, or the signal could come before the child has blocked it.
  sigset_t term;
  sigset_t before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, &before);
  const pid_t pid = fork();
  if (pid == 0) become(launch);
  const int error = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  // Nobody may ever signal or await -1.
  if (pid < 0) throw std::system_error(error, std::generic_category(), "fork");
  return pid;
}

void await_stranger(pid_t pid) {
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) return;  // it has ended
  pollfd entry = {pidfd, POLLIN, 0};
  if (poll(&entry, 1, kPatienceMs) <= 0) {
    ADD_FAILURE() << "it does not end\n" << fork_test::describe_descendants();
  }
  close(pidfd);
}

void kill_tree(pid_t pid) {
  check_number(pid);
  std::vector<pid_t> all = fork_test::list_descendants(pid);
  all.insert(all.begin(), pid);
  // None is to say that it misses another one.
  for (const int signal : {SIGSTOP, SIGKILL}) {
    for (const pid_t one : all) kill(one, signal);
  }
}

void end_stranger(pid_t pid) {
  check_number(pid);
  kill(pid, SIGKILL);
  await_stranger(pid);
}

Command::Command(const std::vector<std::string>& arguments, const std::string& folder) {
  make_pipe(out_);
  make_pipe(err_);
  pid_ = launch({arguments, folder, out_[1], err_[1]});
}

Command::~Command() {
  for (int fd : {out_[0], out_[1], err_[0], err_[1]}) close(fd);
}

bool Command::has_ended() const {
  siginfo_t info{};
  const int kLook = WEXITED | WNOHANG | WNOWAIT;
  return waitid(P_PID, static_cast<id_t>(pid_), &info, kLook) == 0 && info.si_pid != 0;
}

void Command::await_end() const { await_child(pid_); }

Finished Command::finish() {
  Finished finished;
  finished.code = wait_for(pid_);
  finished.out = drain(out_[0]);
  finished.err = drain(err_[0]);
  return finished;
}

Finished run_command(const std::vector<std::string>& arguments, const std::string& folder) {
  return Command(arguments, folder).finish();
}

VictimProcess::VictimProcess(const std::string& program, const std::string& folder)
    : folder_(folder) {
  make_pipe(out_);
  make_pipe(err_);
  pid_ = launch({{program}, folder, out_[1], err_[1]});
  stands_for_it_ = pid_;
}

VictimProcess::~VictimProcess() {
  if (stands_for_it_ > 0) {
    kill(stands_for_it_, SIGKILL);
    if (is_ours_) waitpid(stands_for_it_, nullptr, 0);
  }
  for (int fd : {out_[0], out_[1], err_[0], err_[1]}) close(fd);
}

// Nothing when the process ends first, or nothing comes.
std::optional<std::string> VictimProcess::read_line() {
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, stands_for_it_, 0));
  for (;;) {
    if (auto end = unread_.find('\n'); end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      close(pidfd);
      return line;
    }
    pollfd entries[2] = {{out_[0], POLLIN, 0}, {pidfd, POLLIN, 0}};
    if (poll(entries, 2, kPatienceMs) <= 0) {
      ADD_FAILURE() << "it says nothing\n" << fork_test::describe_descendants();
      break;
    }
    if (entries[0].revents == 0) break;
    char buffer[4096];
    const ssize_t n = read(out_[0], buffer, sizeof buffer);
    if (n > 0) unread_.append(buffer, static_cast<std::size_t>(n));
  }
  close(pidfd);
  return std::nullopt;
}

bool VictimProcess::await_ready() {
  while (auto line = read_line()) {
    const std::string name = line->substr(0, line->find(": "));
    const std::string text = line->substr(std::min(line->size(), name.size() + 2));
    if (*line == "ready") {
      if (declared_.stops) await_stopped(pid_);
      return true;
    }
    if (name == "stops") {
      declared_.stops = true;
    } else if (name == "skip") {
      declared_.skip = text;
    } else if (name == "refused" || name == "refused once stopped") {
      declared_.refused.push_back(text);
      declared_.once_stopped = name != "refused";
    } else if (name == "refused by load") {
      declared_.refused_by_load = text;
    } else if (name == "refused by move") {
      declared_.refused_by_move.push_back(text);
    } else if (name == "refused beside") {
      declared_.refused_beside.push_back(text);
    } else if (name == "refused by fork") {
      declared_.refused_by_fork.push_back(text);
    } else if (name == "refused by home") {
      declared_.refused_by_home.push_back(text);
    } else if (name == "loses at home") {
      declared_.loses_at_home = text;
    } else if (name == "loses") {
      declared_.loses = text;
    } else if (name == "loses in a namespace") {
      declared_.loses_in_namespace = text;
    } else if (name == "ends with its session") {
      declared_.ends_with_session = text;
    } else if (name == "ends with its session here") {
      declared_.ends_with_session = text;
      declared_.ends_as_deputy = false;
    } else if (name == "noted beside") {
      declared_.noted_beside = text;
    } else if (name == "clashes" || name == "clashes in files") {
      declared_.clashes = text;
      declared_.clashes_in_files = name != "clashes";
    } else if (name == "clashes at home") {
      declared_.clashes_at_home = text;
    } else if (name == "stays near") {
      declared_.stays_near = text;
    } else {
      ADD_FAILURE() << "it says: " << *line;
    }
  }
  return false;
}

void VictimProcess::ignore_what_is_near() {
  if (!declared_.clashes_in_files) declared_.clashes.clear();
  declared_.refused_beside.clear();
  declared_.loses_in_namespace.clear();
}

// Of another one's child nobody here hears the status: what it has said is all there is.
int VictimProcess::await_end() {
  int code = 0;
  if (is_ours_) {
    code = wait_for(stands_for_it_);
  } else {
    await_stranger(stands_for_it_);
  }
  stands_for_it_ = -1;
  return code;
}

void VictimProcess::continue_as(const std::vector<std::string>& arguments) {
  stands_for_it_ = launch({arguments, folder_, out_[1], err_[1], true});
}

void VictimProcess::continue_as_copy(pid_t home, pid_t guest) {
  check_number(home);
  kill_tree(pid_);
  wait_for(pid_);
  stands_for_it_ = home;
  guest_ = guest;
  is_ours_ = false;
}

void VictimProcess::signal_it() const {
  check_number(stands_for_it_);
  kill(stands_for_it_, SIGTERM);
}

// What stands for it stops when it hears of it.
void VictimProcess::continue_it() const {
  await_stopped(stands_for_it_);
  await_stopped(visible_pid());
  kill(stands_for_it_, SIGCONT);
}

bool VictimProcess::wake() {
  asleep_ = false;
  if (declared_.stops) continue_it();
  signal_it();
  auto line = read_line();
  if (line == "awake") return true;
  if (line) said_ += *line + "\n";
  return false;
}

pid_t VictimProcess::visible_pid() const {
  if (guest_ > 0) return guest_;
  if (stands_for_it_ == pid_) return pid_;
  const std::regex ids("\nNSpid:(.*\\s)?" + std::to_string(pid_) + "\n");
  for (pid_t pid : fork_test::list_descendants(stands_for_it_)) {
    const std::string status = fork_test::slurp("/proc/" + std::to_string(pid) + "/status");
    if (std::regex_search(status, ids)) return pid;
  }
  ADD_FAILURE() << "process " << pid_ << " is nowhere\n" << fork_test::describe_descendants();
  return -1;
}

Finished VictimProcess::finish() {
  // One that has said something else than `awake` is at its end, and needs no more.
  if (said_.empty()) signal_it();
  Finished finished;
  finished.code = await_end();
  finished.out = said_ + unread_ + drain(out_[0]);
  finished.err = drain(err_[0]);
  return finished;
}

}  // namespace victims
