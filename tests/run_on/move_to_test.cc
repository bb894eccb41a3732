// move_to, a test a sentence of what it promises.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/agent.h"
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
    const int file = open("/proc/1/comm", O_RDONLY | O_CLOEXEC);
    require(file >= 0);
    const std::string error = error_of_move(node());
    require(error.find("it tells of a process here") != std::string::npos);
    require_equal(int{telefork_error_code()}, int{TELEFORK_REFUSED});
    require(space_of_pids() == here);
    require(close(file) == 0);
    move_to(node());
    require(space_of_pids() != here);
  });
  EXPECT_TRUE(went_well(outcome));
}

// A child that answers each byte with where it is, and ends with the last.
class AnsweringChild {
 public:
  explicit AnsweringChild(const std::function<void()>& begin = [] {}) {
    require(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends_) == 0);
    pid_ = fork();
    require(pid_ >= 0);
    if (pid_ == 0) {
      close(ends_[0]);
      begin();
      serve();
    }
    close(ends_[1]);
    require_equal(ask(), space_of_pids());  // it has begun
  }

  pid_t pid() const { return pid_; }

  std::string ask() const {
    require(send(ends_[0], "?", 1, 0) == 1);
    char text[64];
    const ssize_t count = recv(ends_[0], text, sizeof text, 0);
    require(count > 0);
    return {text, static_cast<std::size_t>(count)};
  }

  void finish() const {
    // Its end of the socket others may have too.
    require(send(ends_[0], ".", 1, 0) == 1);
    int status = 0;
    require(waitpid(pid_, &status, 0) == pid_);
    require_equal(status, 7 << 8);
    require(close(ends_[0]) == 0);
  }

 private:
  [[noreturn]] void serve() const {
    const pid_t parent = getppid();
    char byte;
    while (recv(ends_[1], &byte, 1, 0) == 1 && byte == '?') {
      require_equal(getppid(), parent);
      const std::string where = space_of_pids();
      require(send(ends_[1], where.data(), where.size(), 0) == ssize_t(where.size()));
    }
    _exit(7);
  }

  int ends_[2];
  pid_t pid_;
};

TEST_P(AMove, TakesItsChildAlong) {
  Outcome outcome = run([this] {
    const std::string here = space_of_pids();
    AnsweringChild child;
    move_to(node());
    require(space_of_pids() != here);
    require_equal(child.ask(), space_of_pids());
    child.finish();
    require(waitpid(-1, nullptr, 0) < 0 && errno == ECHILD);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, LeavesAllHereWhereOneOfThemIsRefused) {
  Outcome outcome = run([this] {
    const std::string here = space_of_pids();
    AnsweringChild refused([] { require(open("/proc/1/comm", O_RDONLY) >= 0); });
    AnsweringChild other;
    const std::string error = error_of_move(node());
    require(error.find("it tells of a process here") != std::string::npos);
    require(error.find("process " + std::to_string(refused.pid())) != std::string::npos);
    require(space_of_pids() == here);
    require_equal(refused.ask(), here);
    refused.finish();
    move_to(node());
    require(space_of_pids() != here);
    require_equal(other.ask(), space_of_pids());
    other.finish();
  });
  EXPECT_TRUE(went_well(outcome));
}

// The library's socket to its agent, which a child has too.
int find_socket_of_agent() {
  for (int fd = 3; fd < 1024; ++fd) {
    sockaddr_un address{};
    socklen_t size = sizeof address;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
        address.sun_family == AF_UNIX && address.sun_path[0] == '\0' &&
        std::strncmp(address.sun_path + 1, TELEFORK_AGENT_SOCKET_NAME,
                     std::strlen(TELEFORK_AGENT_SOCKET_NAME)) == 0) {
      return fd;
    }
  }
  fail_here("it has no socket to an agent", Where::current());
}

TEST_P(AMove, TakesWhatAChildHasAtTheNumberOfTheSocketToTheAgent) {
  Outcome outcome = run([this] {
    require_equal(call_on(node(), [] { return 5; }), 5);
    static int number;
    number = find_socket_of_agent();
    int ends[2];
    require(pipe(ends) == 0);
    AnsweringChild as_it_was;
    AnsweringChild child([&] {
      require(dup2(ends[1], number) == number && close(ends[1]) == 0);
      std::signal(SIGUSR1, [](int) { require(write(number, "x", 1) == 1); });
    });
    require(close(ends[1]) == 0);
    move_to(node());
    require_equal(as_it_was.ask(), space_of_pids());
    require(kill(child.pid(), SIGUSR1) == 0);
    char byte;
    require(read(ends[0], &byte, 1) == 1);
    require_equal(child.ask(), space_of_pids());
    as_it_was.finish();
    child.finish();
    require(close(ends[0]) == 0);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, TakesAllThatHasComeOfIt) {
  Outcome outcome = run([this] {
    struct Shared {
      sem_t moved;
      sem_t asked;
    };
    auto* shared = static_cast<Shared*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    require(shared != MAP_FAILED);
    require(sem_init(&shared->moved, 1, 0) == 0 && sem_init(&shared->asked, 1, 0) == 0);
    AnsweringChild child([&] {
      require(setsid() == getpid());
      AnsweringChild grandchild([&] { require(setpgid(0, 0) == 0); });
      std::thread([&, grandchild] {
        require(sem_wait(&shared->moved) == 0);
        // Threads are where their process is.
        require_equal(grandchild.ask(), space_of_pids());
        grandchild.finish();
        require(sem_post(&shared->asked) == 0);
      }).detach();
    });
    const pid_t zombie = fork();
    if (zombie == 0) _exit(3);
    siginfo_t info;
    require(waitid(P_PID, zombie, &info, WEXITED | WNOWAIT) == 0);
    const pid_t stopped = fork();
    if (stopped == 0) {
      raise(SIGSTOP);
      _exit(4);
    }
    int status = 0;
    require(waitpid(stopped, &status, WUNTRACED) == stopped && WIFSTOPPED(status));
    move_to(node());
    require_equal(child.ask(), space_of_pids());
    require_equal(getsid(child.pid()), child.pid());
    require(sem_post(&shared->moved) == 0 && sem_wait(&shared->asked) == 0);
    child.finish();
    require(waitpid(zombie, &status, 0) == zombie && WEXITSTATUS(status) == 3);
    require(kill(stopped, SIGCONT) == 0);
    require(waitpid(stopped, &status, 0) == stopped && WEXITSTATUS(status) == 4);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AMove, LetsAChildThatCameAlongForkThereItself) {
  Outcome outcome = run([this] {
    static std::string where;
    where = node();
    // Its agent's socket is its parent's, which is not to be used there.
    require_equal(call_on(node(), [] { return 5; }), 5);
    AnsweringChild child([] {
      std::signal(SIGUSR1, [](int) {
        // That of a telepad is outside of its pid namespace there.
        require(setenv("TELEFORK_SOCKET", "", 1) == 0);
        telefork::Options options;
        options.fds = telefork::Fds::leave_home;
        const pid_t pid = telefork::fork(where, options);
        if (pid == 0) _exit(5);
        int status = 0;
        require(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 5);
      });
    });
    move_to("local");
    require(kill(child.pid(), SIGUSR1) == 0);
    require_equal(child.ask(), space_of_pids());
    child.finish();
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
