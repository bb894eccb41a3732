// move_to, a test a sentence of what it promises.
#include <atomic>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

class AMove : public AFork {};

// On one machine the pid is the deputy's, and so the process has a namespace of its own there.
std::string space_of_pids() {
  char text[64] = "";
  require(readlink("/proc/self/ns/pid", text, sizeof text - 1) > 0);
  return text;
}

void move_to(const std::string& node, const telefork::Options& options = {}) {
  try {
    telefork::move_to(node, options);
  } catch (const telefork::Error& error) {
    fail_here(std::string("telefork::move_to: ") + error.what(), Where::current());
  }
}

std::string error_of_move(const std::string& node, const telefork::Options& options = {}) {
  try {
    telefork::move_to(node, options);
  } catch (const telefork::Error& error) {
    return error.what();
  }
  fail_here("move_to worked", Where::current());
}

TEST_P(AMove, TakesTheProcessThereAndGivesItsParentItsStatus) {
  Outcome outcome = run([this] {
    const std::string here = space_of_pids();
    const pid_t pid = getpid();
    const std::string text(1 << 20, 'x');
    move_to(node());
    require(space_of_pids() != here);
    require_equal(getpid(), pid);
    require(text == std::string(1 << 20, 'x'));
    require(write(1, "said there\n", 11) == 11);
    _exit(7);
  });
  EXPECT_EQ(outcome.end, exited(7)) << outcome.err;
  EXPECT_EQ(outcome.out, "said there\n");
}

TEST_P(AMove, TakesAllThreadsAlongWhicheverOfThemHasAsked) {
  Outcome outcome = run([this] {
    const std::string here = space_of_pids();
    std::atomic<long> turns = 0;
    std::atomic<bool> over = false;
    std::thread counter([&] {
      while (!over) ++turns;
    });
    std::thread mover([&] { move_to(node()); });
    mover.join();
    require(space_of_pids() != here);
    const long before = turns;
    while (turns == before) std::this_thread::yield();
    over = true;
    counter.join();
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, LeavesTheSignalMaskAsItWas) {
  Outcome outcome = run([this] {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    require(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
    require(raise(SIGUSR1) == 0);
    move_to(node());
    sigset_t now;
    require(pthread_sigmask(SIG_BLOCK, nullptr, &now) == 0);
    require(sigismember(&now, SIGUSR1) == 1 && sigismember(&now, SIGUSR2) == 0);
    siginfo_t info;
    require(sigwaitinfo(&set, &info) == SIGUSR1);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, IsReachedBySignalsAtItsPid) {
  Program program = start([this] {
    move_to(node());
    require(write(1, "there", 5) == 5);
    for (;;) pause();
  });
  char text[5];
  ASSERT_EQ(read(program.out, text, sizeof text), 5);
  ASSERT_EQ(kill(program.pid, SIGTERM), 0);
  Outcome outcome = finish(program);
  EXPECT_EQ(outcome.end, killed(SIGTERM)) << outcome.err;
}

TEST_P(AMove, IsRefusedByNameAndThenGoesOnHere) {
  Outcome outcome = run([this] {
    const std::string here = space_of_pids();
    int ends[2];
    require(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
      char byte;
      require(read(ends[0], &byte, 1) == 1);
      _exit(3);
    }
    const std::string error = error_of_move(node());
    require(error.find("it has children") != std::string::npos ||
            error.find("pipe whose other end stays") != std::string::npos);
    require_equal(int{telefork_error_code()}, int{TELEFORK_REFUSED});
    require(space_of_pids() == here);
    require(write(ends[1], "x", 1) == 1);
    int status = 0;
    require(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
    require(close(ends[0]) == 0 && close(ends[1]) == 0);
    move_to(node());
    require(space_of_pids() != here);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, ToANodeThatIsNotThereIsAnErrorHere) {
  Outcome outcome = run([this] {
    const std::string error = error_of_move("unix:" + path("nobody"));
    require(error.find(path("nobody")) != std::string::npos);
    require_equal(int{telefork_error_code()}, int{TELEFORK_UNREACHABLE});
    telefork::Options options;
    options.fds = telefork::Fds::leave_home;
    require(error_of_move(node(), options).find("leaves no descriptor") != std::string::npos);
    require_equal(int{telefork_error_code()}, int{TELEFORK_USAGE});
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, GoesOnHereWhereTheNodeCannotTakeIt) {
  Outcome outcome = run([this] {
    const std::string here = space_of_pids();
    require(setenv("TELEFORK_STOP_AT_STEP", "", 1) == 0);
    const int file = open(path("kept").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    require(fcntl(file, F_OFD_SETLK, &lock) == 0);
    // On one machine nobody else can have the lock while it has it here.
    const std::string error = error_of_move(node());
    require(error.find("lock") != std::string::npos);
    require(space_of_pids() == here);
    require(close(file) == 0);
    move_to(node());
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, MayFollowACallAndBeFollowedByAnother) {
  Outcome outcome = run([this] {
    require_equal(call_on(node(), [] { return 5; }), 5);
    move_to(node());
    require(write(1, "there\n", 6) == 6);
  });
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "there\n");
}

INSTANTIATE_TEST_SUITE_P(To, AMove, testing::ValuesIn(nodes_under_test({"local", "unix", "tls"})),
                         name_of_node);

}  // namespace
}  // namespace fork_test
