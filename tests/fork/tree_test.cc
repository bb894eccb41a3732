// Children that exec, fork, and lose their parent.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

void say(const std::string& line) { write_all(1, line + "\n"); }

TEST_P(AFork, LetsTheChildBeginASession) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      require(getpgrp() != getpid());  // as no child of fork is the leader of its group
      require_equal(setsid(), getpid());
      require_equal(getpgrp(), getpid());
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, LetsTheChildExec) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      execl("/bin/sh", "sh", "-c", "echo exec; echo $0 >&1; exit 6", "it", nullptr);
      return 127;
    });
    require_equal(end_of(pid), exited(6));
  });
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "exec\nit\n");
}

TEST_P(AFork, LetsTheChildFork) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      const pid_t own = ::fork();
      if (own == 0) _exit(9);
      return end_of(own) == exited(9) ? 4 : 5;
    });
    require_equal(end_of(pid), exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, GivesTheStatusWhenTheChildEndsAndLastsUntilItsLastDescendantDoes) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [this] {
      if (::fork() == 0) {
        await_file(path("go"));
        say("late");
        _exit(0);
      }
      return 2;
    });
    require_equal(end_of(pid), exited(2));
    make_file(path("go"));
  });
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "late\n");
}

TEST_P(AFork, LeavesTheChildToGoOnWhenItsParentEnds) {
  Program program = start([this] {
    fork_child(node(), [this] {
      await_file(path("go"));
      say("done");
      make_file(path("finished"));
      return 0;
    });
  });
  siginfo_t ended{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(program.pid), &ended, WEXITED | WNOWAIT), 0);
  make_file(path("go"));
  Outcome outcome = finish(program);
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "done\n");
  EXPECT_EQ(access(path("finished").c_str(), F_OK), 0);
}

// In a program that its orphans go to.
void require_no_child_but_its_own(const std::string& node) {
  for (int call = 0; call < 2; ++call) {
    const pid_t pid = fork_child(node, [] { return 7; });
    require_equal(waitpid(-1, nullptr, 0), pid);
    require(waitpid(-1, nullptr, 0) == -1 && errno == ECHILD);
  }
  // Its agent's parent, which wait() does not see, is the last to end.
  syscall(SYS_close_range, 3U, ~0U, 0U);
  siginfo_t last{};
  require_equal(waitid(P_ALL, 0, &last, WEXITED | WNOWAIT | __WALL), 0);
  require(list_descendants(getpid()) == std::vector<pid_t>{last.si_pid});
  require(waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD);
}

TEST_P(AFork, GivesASubreaperNoChildrenButItsOwn) {
  setenv("TELEFORK_SOCKET", "", 1);  // a private agent
  Outcome outcome = run([this] {
    require_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
    require_no_child_but_its_own(node());
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, GivesPid1NoChildrenButItsOwn) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to make a pid namespace";
  setenv("TELEFORK_SOCKET", "", 1);  // a private agent
  Outcome outcome = run([this] {
    const auto pid =
        static_cast<pid_t>(syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) {
      require_equal(mount("proc", "/proc", "proc", 0, nullptr), 0);
      require_no_child_but_its_own(node());
      _exit(0);
    }
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, EndsTheChildWithItsParentWhereThatWasAskedFor) {
  Outcome outcome = run([this] {
    listen_to_children();
    telefork::Options options;
    options.die_with_parent = true;
    fork_child(
        node(),
        []() -> int {
          say("ready");
          for (;;) pause();
        },
        options);
    require_equal(read_line(), "ready");
  });
  EXPECT_TRUE(went_well(outcome));  // that nothing is left is asked after every test
}

TEST_P(AFork, OutlivesTheThreadThatForkedItThoughItDiesWithItsParent) {
  Outcome outcome = run([this] {
    telefork::Options options;
    options.die_with_parent = true;
    pid_t pid = -1;
    std::thread forker([&] {
      pid = fork_child(
          node(),
          [this] {
            await_file(path("go"));
            return 3;
          },
          options);
    });
    forker.join();
    make_file(path("go"));
    require_equal(end_of(pid), exited(3));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ForksAgainInAChild) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [this] {
      const pid_t second = fork_child(node(), [this] {
        const pid_t third = fork_child(node(), [] {
          say("third");
          return 5;
        });
        return end_of(third) == exited(5) ? 6 : 1;
      });
      return end_of(second) == exited(6) ? 7 : 1;
    });
    require_equal(end_of(pid), exited(7));
  });
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "third\n");
}

TEST_P(AFork, ForksAgainInAPlainForksChild) {
  Outcome outcome = run([this] {
    require_equal(end_of(fork_child(node(), [] { return 1; })), exited(1));
    const pid_t plain = ::fork();
    if (plain == 0) _exit(end_of(fork_child(node(), [] { return 2; })) == exited(2) ? 0 : 1);
    require_equal(end_of(fork_child(node(), [] { return 3; })), exited(3));
    require_equal(end_of(plain), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ForksAgainAfterTheProgramHasClosedItsDescriptors) {
  Outcome outcome = run([this] {
    for (int from : {3, 3, 0}) {
      require_equal(end_of(fork_child(node(), [] { return 1; })), exited(1));
      closefrom(from);
      require_equal(end_of(fork_child(node(), [] { return 2; })), exited(2));
    }
    _exit(0);  // stderr is gone, and with it every complaint: the status tells
  });
  EXPECT_EQ(outcome.end, exited(0));
}

TEST_P(AFork, RunsAHundredAtOnce) {
  ASSERT_EQ(mkfifo(path("go").c_str(), 0600), 0);
  Outcome outcome = run([this] {
    std::vector<pid_t> pids;
    for (int i = 0; i < 100; ++i) {
      pids.push_back(fork_child(node(), [this, i] {
        require(open(path("go").c_str(), O_RDONLY) >= 0);  // waits for a writer
        return i;
      }));
    }
    const int gate = open(path("go").c_str(), O_WRONLY);
    require(gate >= 0);
    for (int i = 0; i < 100; ++i) {
      require_equal(end_of(pids[static_cast<std::size_t>(i)]), exited(i));
    }
    close(gate);
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
