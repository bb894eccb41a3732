// The library's calls, and its socket to the agent.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/agent.h"
#include "library/testing_program.h"
#include "library/testing_telepad.h"
#include "telefork/telefork.h"
#include "telefork/telefork.hpp"

namespace library_test {
namespace {

TEST(TeleforkFork, ReturnsTwiceAndTheParentWaitsAsForAnyChild) {
  FakeTelepad telepad;
  const pid_t pid = telefork_fork("node7");
  if (pid == 0) _exit(42);
  ASSERT_GT(pid, 0) << telefork_error();
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 42);
  EXPECT_STREQ(telepad.request.node, "node7");
  EXPECT_EQ(telepad.request.op, TELEFORK_OP_FORK);
  EXPECT_EQ(telepad.request.tid, gettid());
}

TEST(TeleforkFork, SnapshotSaysWhatTheSessionCannotSee) {
  FakeTelepad telepad;
  telefork_snapshot seen{};
  telepad.on_snapshot = [&](int session, const telefork_snapshot& snapshot) {
    seen = snapshot;
    FakeTelepad::resume(session, snapshot);
  };
  sigset_t usr2, old;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  sigprocmask(SIG_BLOCK, &usr2, &old);
  const pid_t pid = telefork_fork("node7");
  if (pid == 0) _exit(0);
  sigset_t after;
  sigprocmask(SIG_SETMASK, &old, &after);
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 0);
  EXPECT_EQ(seen.header.magic, unsigned{TELEFORK_MAGIC_SNAPSHOT});
  EXPECT_EQ(seen.pid, pid);
  EXPECT_EQ(seen.tid, pid);
  EXPECT_EQ(seen.signal_mask, std::uint64_t{1} << (SIGUSR2 - 1));
  EXPECT_EQ(seen.agent_fd, telepad.request.agent_fd);
  EXPECT_NE(seen.session_fd, seen.agent_fd);
  EXPECT_EQ(seen.verdict_size, sizeof(telefork_verdict));
  EXPECT_EQ(sigismember(&after, SIGUSR2), 1);
  EXPECT_EQ(sigismember(&after, SIGUSR1), 0) << "the parent's mask is as it was";
}

TEST(TeleforkFork, SignalToTheSnapshotWaitsForTheGuestAndRunsNoHandlerBefore) {
  FakeTelepad telepad;
  std::string status;
  telepad.on_snapshot = [&](int session, const telefork_snapshot& snapshot) {
    kill(snapshot.pid, SIGUSR1);
    status = read_text("/proc/" + std::to_string(snapshot.pid) + "/status");
    FakeTelepad::resume(session, snapshot);
  };
  handled = 0;
  const auto old = signal(SIGUSR1, [](int) { handled = 1; });
  const pid_t pid = telefork_fork("node7");
  if (pid == 0) _exit(handled ? 5 : 6);
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 5);
  signal(SIGUSR1, old);
  EXPECT_EQ(handled, 0);
  EXPECT_NE(status.find("SigBlk:\tfffffffffffbfeff"), std::string::npos) << status;
  EXPECT_NE(status.find("ShdPnd:\t0000000000000200"), std::string::npos) << status;
}

TEST(TeleforkFork, RefusalOfTheAgentIsAnErrorAndThereIsNoChild) {
  FakeTelepad telepad;
  telepad.reply.code = TELEFORK_REFUSED;
  std::strcpy(telepad.reply.message, "refused: fd 36 -> /dev/gdrdrv; close it");
  errno = 0;
  EXPECT_EQ(telefork_fork("node7"), -1);
  EXPECT_EQ(errno, ENOTSUP);
  EXPECT_EQ(telefork_error_code(), TELEFORK_REFUSED);
  EXPECT_STREQ(telefork_error(), "refused: fd 36 -> /dev/gdrdrv; close it");
  expect_no_child();
}

TEST(TeleforkFork, ErrorsErrnoIsTheAgentsWhereItHasOne) {
  FakeTelepad telepad;
  telepad.reply.code = TELEFORK_UNREACHABLE;
  telepad.reply.error = ECONNREFUSED;
  EXPECT_EQ(telefork_fork("node7"), -1);
  EXPECT_EQ(errno, ECONNREFUSED);
}

TEST(TeleforkFork, ErrorIsOfTheThreadThatFailed) {
  FakeTelepad telepad;
  telepad.reply.code = TELEFORK_LOST;
  EXPECT_EQ(telefork_fork("node7"), -1);
  std::thread([] {
    EXPECT_EQ(telefork_error_code(), TELEFORK_OK);
    EXPECT_STREQ(telefork_error(), "");
  }).join();
  EXPECT_EQ(telefork_error_code(), TELEFORK_LOST);
  EXPECT_EQ(errno, ECONNRESET);
}

// Forks with stderr in a pipe; what was written there by the child that then ended.
std::string stderr_of_fork(int* status) {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const int saved = dup(STDERR_FILENO);
  dup2(ends[1], STDERR_FILENO);
  const pid_t pid = telefork_fork("node7");
  if (pid == 0) _exit(0);
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(ends[1]);
  *status = status_of(pid);
  char text[5000] = {};
  EXPECT_GE(read(ends[0], text, sizeof text - 1), 0);
  close(ends[0]);
  return text;
}

TEST(TeleforkFork, FailureAfterTheCallHasReturnedEndsThePidWith125AndTheReason) {
  FakeTelepad telepad;
  telepad.on_snapshot = FakeTelepad::say_no_memory;
  int status = 0;
  EXPECT_EQ(stderr_of_fork(&status), "telefork: fork to node7: no memory there\n");
  EXPECT_EQ(WEXITSTATUS(status), 125);
}

TEST(TeleforkFork, SessionThatEndsBeforeTheJourneyEndsThePidWith125) {
  FakeTelepad telepad;
  telepad.on_snapshot = [](int, const telefork_snapshot&) {};
  int status = 0;
  EXPECT_EQ(stderr_of_fork(&status),
            "telefork: fork to node7: the agent ended before the process was on its way\n");
  EXPECT_EQ(WEXITSTATUS(status), 125);
}

TEST(TeleforkFork, AgentThatEndsWithoutAnAnswerIsAnError) {
  FakeTelepad telepad;
  telepad.hang_up = true;
  EXPECT_EQ(telefork_fork("node7"), -1);
  EXPECT_EQ(telefork_error_code(), TELEFORK_LOST);
  expect_no_child();
}

int fork_and_wait() {
  const pid_t pid = telefork_fork("node7");
  if (pid == 0) _exit(7);
  return pid < 0 ? -1 : WEXITSTATUS(status_of(pid));
}

TEST(AgentSocket, IsKeptBetweenCallsAndHighNumberedAndCloseOnExec) {
  FakeTelepad telepad;
  EXPECT_EQ(fork_and_wait(), 7);
  const int fd = telepad.request.agent_fd;
  EXPECT_EQ(fork_and_wait(), 7);
  EXPECT_EQ(telepad.request.agent_fd, fd);
  EXPECT_EQ(telepad.accepted, 1);
  EXPECT_GE(fd, 64);
  EXPECT_LT(fd, 1024);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

TEST(AgentSocket, IsOpenedAnewWhenTheProgramHasClosedItAndTheNumberIsAnothers) {
  FakeTelepad telepad;
  EXPECT_EQ(fork_and_wait(), 7);
  const int fd = telepad.request.agent_fd;
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(dup2(null, fd), fd);
  EXPECT_EQ(fork_and_wait(), 7);
  EXPECT_EQ(telepad.accepted, 2);
  EXPECT_NE(telepad.request.agent_fd, fd);
  struct stat at_number {
  }, of_null{};
  EXPECT_EQ(fstat(fd, &at_number), 0);
  EXPECT_EQ(fstat(null, &of_null), 0);
  EXPECT_EQ(at_number.st_rdev, of_null.st_rdev) << "the program's own descriptor was left alone";
  close(fd);
  close(null);
}

TEST(AgentSocket, IsOpenedAnewWhenTheAgentOfEarlierCallsHasEnded) {
  FakeTelepad telepad;
  EXPECT_EQ(fork_and_wait(), 7);
  telepad.hang_up = true;
  EXPECT_EQ(fork_and_wait(), 7);
  EXPECT_EQ(telepad.accepted, 2);
}

TEST(AgentSocket, IsTheForkedChildsOwn) {
  FakeTelepad telepad;
  EXPECT_EQ(fork_and_wait(), 7);
  const pid_t pid = fork();
  if (pid == 0) _exit(fork_and_wait());
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 7);
  EXPECT_EQ(telepad.accepted, 2);
  EXPECT_EQ(fork_and_wait(), 7);
  EXPECT_EQ(telepad.accepted, 2) << "the parent's own was left alone";
}

TEST(AgentSocket, GuestOpensOneOfItsOwn) {
  FakeTelepad telepad;
  const pid_t pid = telefork_fork("node7");
  if (pid == 0) _exit(fork_and_wait() == 7 ? 8 : 9);
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 8);
  EXPECT_EQ(telepad.accepted, 2);
}

TEST(AgentSocket, RefusesATelepadOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root";
  FakeTelepad telepad;
  // To the kernel the listener's user is the one that called listen().
  char folder[] = "/tmp/telefork-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  ASSERT_EQ(chmod(folder, 0777), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s/s", folder);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t other = fork();
  if (other == 0) {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (setuid(65534) != 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      _exit(1);
    if (listen(fd, 1) != 0 || write(ready[1], "", 1) != 1) _exit(1);
    for (;;) pause();
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  setenv("TELEFORK_SOCKET", address.sun_path, 1);
  EXPECT_EQ(telefork_fork("node7"), -1);
  EXPECT_EQ(errno, EACCES);
  kill(other, SIGKILL);
  status_of(other);
  close(ready[0]);
  close(ready[1]);
  unlink(address.sun_path);
  rmdir(folder);
}

// A telepad that somebody has stopped: connections are made, and nobody looks at them. An agent
// that has read its request is waited for for longer than that: until this one has been given up.
TEST(AgentSocket, IsNotWaitedForWhereNobodyReadsTheRequest) {
  FakeTelepad living;
  living.reply.code = TELEFORK_REFUSED;
  int asked[2], go_on[2];
  ASSERT_EQ(pipe2(asked, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(go_on, O_CLOEXEC), 0);
  living.on_request = [&] {
    char byte = 0;
    EXPECT_EQ(write(asked[1], "", 1), 1);
    EXPECT_EQ(read(go_on[0], &byte, 1), 1);
  };
  const pid_t patient = fork();
  if (patient == 0) {
    _exit(telefork_fork("node7") == -1 ? telefork_error_code() : 99);
  }
  char byte = 0;
  EXPECT_EQ(read(asked[0], &byte, 1), 1);

  const std::string path = living.path() + ".stopped";
  const int stopped = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path.c_str());
  ASSERT_EQ(bind(stopped, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(stopped, 16), 0);
  setenv("TELEFORK_SOCKET", path.c_str(), 1);
  errno = 0;
  EXPECT_EQ(telefork_fork("node7"), -1);
  EXPECT_EQ(errno, ETIMEDOUT);
  EXPECT_EQ(telefork_error_code(), TELEFORK_UNREACHABLE);
  EXPECT_NE(std::strstr(telefork_error(), path.c_str()), nullptr) << telefork_error();
  unlink(path.c_str());
  close(stopped);

  EXPECT_EQ(write(go_on[1], "", 1), 1);
  EXPECT_EQ(WEXITSTATUS(status_of(patient)), int{TELEFORK_REFUSED});
  for (const int fd : {asked[0], asked[1], go_on[0], go_on[1]}) close(fd);
}

TEST(TeleforkFork, ThreadsTakeTurns) {
  FakeTelepad telepad;
  constexpr int kThreads = 4, kForks = 10;
  std::vector<std::thread> threads;
  std::vector<int> right(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&right, i] {
      for (int n = 0; n < kForks; ++n) {
        const pid_t pid = telefork_fork("node7");
        if (pid == 0) _exit(i * kForks + n);
        int status = -1;
        waitpid(pid, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == i * kForks + n) ++right[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, std::vector<int>(kThreads, kForks));
  EXPECT_EQ(telepad.accepted, 1);
}

TEST(TeleforkFork, NeedsLittleStack) {
  FakeTelepad telepad;
  int status = -1;
  call_on_small_stack([&status] {
    const pid_t pid = telefork_fork("node7");
    if (pid == 0) _exit(7);
    waitpid(pid, &status, 0);
  });
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(TeleforkRunOn, NeedsLittleStack) {
  FakeTelepad telepad;
  telepad.on_snapshot = FakeTelepad::say_no_memory;
  int result = 0;
  std::string text;
  call_on_small_stack([&] {
    result = telefork_run_on(
        "node7", [](void*) {}, nullptr);
    text = telefork_error();
  });
  EXPECT_EQ(result, -1);
  EXPECT_EQ(text, "no memory there");
}

TEST(TeleforkFork, WrongCallsAreUsageErrors) {
  FakeTelepad telepad;
  telefork_options later = TELEFORK_OPTIONS_INIT;
  later.reserved[0] = 1;
  telefork_options unknown = TELEFORK_OPTIONS_INIT;
  unknown.mode = 17;
  telefork_options empty = {};
  const std::string longest(256, 'n');
  const std::vector<std::function<pid_t()>> calls = {
      [] { return telefork_fork(nullptr); },
      [] { return telefork_fork(""); },
      [&] { return telefork_fork(longest.c_str()); },
      [&] { return telefork_fork_with("node7", &later); },
      [&] { return telefork_fork_with("node7", &unknown); },
      [&] { return telefork_fork_with("node7", &empty); },
  };
  for (const auto& call : calls) {
    EXPECT_EQ(call(), -1);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_EQ(telefork_error_code(), TELEFORK_USAGE);
  }
  EXPECT_EQ(telepad.accepted, 0);
}

TEST(TeleforkFork, OptionsReachTheAgent) {
  FakeTelepad telepad;
  telefork_options options = TELEFORK_OPTIONS_INIT;
  options.mode = TELEFORK_MODE_EAGER;
  options.fds = TELEFORK_FDS_LEAVE_HOME;
  options.shared = TELEFORK_SHARED_COPY;
  options.standard_input = TELEFORK_STDIN_TAKE;
  options.die_with_parent = 1;
  const pid_t pid = telefork_fork_with("node7", &options);
  if (pid == 0) _exit(0);
  status_of(pid);
  EXPECT_EQ(telepad.request.options.mode, TELEFORK_MODE_EAGER);
  EXPECT_EQ(telepad.request.options.fds, 1);
  EXPECT_EQ(telepad.request.options.shared, 1);
  EXPECT_EQ(telepad.request.options.standard_input, 1);
  EXPECT_EQ(telepad.request.options.die_with_parent, 1);
}

TEST(TeleforkSkin, ThrowsWhatTheAgentSays) {
  FakeTelepad telepad;
  telepad.reply.code = TELEFORK_UNAUTHORISED;
  std::strcpy(telepad.reply.message, "node7 does not trust this key");
  try {
    telefork::fork("node7", {.mode = telefork::Mode::lazy});
    FAIL() << "nothing was thrown";
  } catch (const telefork::Error& error) {
    EXPECT_EQ(error.code(), TELEFORK_UNAUTHORISED);
    EXPECT_EQ(error.error(), EACCES);
    EXPECT_STREQ(error.what(), "node7 does not trust this key");
  }
  EXPECT_EQ(telepad.request.options.mode, TELEFORK_MODE_LAZY);
}

pid_t gettid_of_caller = 0;

int fork_and_wait_with(FakeTelepad& telepad) {
  telepad.on_snapshot = FakeTelepad::resume;
  return fork_and_wait();
}

// The program plays the guest itself: it is sent as many zero bytes as the read() there returns.
void go_there_and_back(int session, const telefork_snapshot&) {
  FakeTelepad::resume(session, {});
  telefork_snapshot again;
  EXPECT_TRUE(receive(session, again));
  EXPECT_EQ(again.tid, gettid_of_caller);
  EXPECT_EQ(send(session, "\0", TELEFORK_RETURNED, MSG_NOSIGNAL), ssize_t{TELEFORK_RETURNED});
}

TEST(TeleforkRunOn, RunsTheFunctionBetweenGoingAndComingBack) {
  FakeTelepad telepad;
  telepad.on_snapshot = go_there_and_back;
  gettid_of_caller = gettid();
  int argument = 1;
  EXPECT_EQ(telefork_run_on(
                "node7", [](void* number) { *static_cast<int*>(number) = 2; }, &argument),
            0)
      << telefork_error();
  EXPECT_EQ(argument, 2);
  EXPECT_EQ(telepad.request.op, TELEFORK_OP_RUN_ON);
  EXPECT_EQ(telepad.request.tid, gettid());
  EXPECT_EQ(telepad.accepted, 1);
  EXPECT_EQ(fork_and_wait_with(telepad), 7) << "the lock is free, and the agent known, as before";
  EXPECT_EQ(telepad.accepted, 1);
}

TEST(TeleforkRunOn, SignalsAreBlockedOnTheWayAndAsTheyWereInTheFunction) {
  FakeTelepad telepad;
  sigset_t usr2, old;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  sigprocmask(SIG_BLOCK, &usr2, &old);
  std::string on_the_way;
  telepad.on_snapshot = [&](int session, const telefork_snapshot& snapshot) {
    on_the_way = read_text("/proc/self/task/" + std::to_string(snapshot.tid) + "/status");
    gettid_of_caller = snapshot.tid;
    go_there_and_back(session, snapshot);
  };
  std::string there;
  EXPECT_EQ(telefork_run_on(
                "node7",
                [](void* text) {
                  sigset_t more;
                  sigemptyset(&more);
                  sigaddset(&more, SIGHUP);
                  *static_cast<std::string*>(text) = read_text("/proc/thread-self/status");
                  sigprocmask(SIG_BLOCK, &more, nullptr);
                },
                &there),
            0);
  sigset_t after;
  sigprocmask(SIG_SETMASK, &old, &after);
  EXPECT_NE(on_the_way.find("SigBlk:\tfffffffffffbfeff"), std::string::npos) << on_the_way;
  EXPECT_NE(there.find("SigBlk:\t0000000000000800"), std::string::npos) << there;
  EXPECT_EQ(sigismember(&after, SIGHUP), 1) << "what the function did to the mask comes home";
  EXPECT_EQ(sigismember(&after, SIGUSR2), 1);
  EXPECT_EQ(sigismember(&after, SIGUSR1), 0);
}

TEST(TeleforkRunOn, VerdictIsTheErrorOfTheCallAndTheFunctionDidNotRun) {
  FakeTelepad telepad;
  telepad.on_snapshot = FakeTelepad::say_no_memory;
  bool ran = false;
  EXPECT_EQ(telefork_run_on(
                "node7", [](void* flag) { *static_cast<bool*>(flag) = true; }, &ran),
            -1);
  EXPECT_FALSE(ran);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_STREQ(telefork_error(), "no memory there");
  sigset_t mask;
  sigprocmask(SIG_SETMASK, nullptr, &mask);
  EXPECT_EQ(sigismember(&mask, SIGUSR1), 0);
}

TEST(TeleforkRunOn, AgentThatEndsMeanwhileIsAnError) {
  FakeTelepad telepad;
  telepad.on_snapshot = [](int, const telefork_snapshot&) {};
  EXPECT_EQ(telefork_run_on(
                "node7", [](void*) {}, nullptr),
            -1);
  EXPECT_EQ(telefork_error_code(), TELEFORK_LOST);
}

TEST(TeleforkRunOn, WrongCallsAreUsageErrors) {
  FakeTelepad telepad;
  EXPECT_EQ(telefork_run_on("node7", nullptr, nullptr), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(telefork_run_on(
                "", [](void*) {}, nullptr),
            -1);
  EXPECT_EQ(telefork_error_code(), TELEFORK_USAGE);
  EXPECT_EQ(telepad.accepted, 0);
}

// In a process of its own: it ends.
TEST(TeleforkRunOn, ProcessThatTheFunctionForkedHasNoCallToReturnFrom) {
  FakeTelepad telepad;
  telepad.on_snapshot = go_there_and_back;
  gettid_of_caller = gettid();
  int status = -1;
  EXPECT_EQ(telefork_run_on(
                "node7",
                [](void* result) {
                  const pid_t pid = fork();
                  if (pid == 0) return;
                  *static_cast<int*>(result) = status_of(pid);
                },
                &status),
            0);
  EXPECT_EQ(WEXITSTATUS(status), 125);
}

TEST(TeleforkSkin, RunOnReturnsWhatTheFunctionReturns) {
  FakeTelepad telepad;
  telepad.on_snapshot = go_there_and_back;
  gettid_of_caller = gettid();
  EXPECT_EQ(telefork::run_on("node7", [] { return std::string("of node7"); }), "of node7");
  int number = 0;
  int& same = telefork::run_on("node7", [&]() -> int& { return number; });
  EXPECT_EQ(&same, &number);
  telefork::run_on("node7", [&] { number = 5; });
  EXPECT_EQ(number, 5);
  auto only_moved = telefork::run_on("node7", [] { return std::make_unique<int>(3); });
  EXPECT_EQ(*only_moved, 3);
}

TEST(TeleforkSkin, RunOnThrowsWhatTheFunctionThrows) {
  FakeTelepad telepad;
  telepad.on_snapshot = go_there_and_back;
  gettid_of_caller = gettid();
  EXPECT_THROW(telefork::run_on("node7", []() -> int { throw std::out_of_range("there"); }),
               std::out_of_range);
  telepad.reply.code = TELEFORK_REFUSED;
  EXPECT_THROW(telefork::run_on("node7", [] {}), telefork::Error);
}

}  // namespace
}  // namespace library_test
