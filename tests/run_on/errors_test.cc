// Where it does not come to a result: an Error, and the program as it was at the call.
#include <sched.h>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

// Memory that tells whether anything of the function's doing is left in it.
class Witness {
 public:
  Witness() : bytes_(1 << 20, 'h') {}
  void spoil() { bytes_.assign(bytes_.size(), 't'); }
  void expect_untouched() const {
    require(bytes_ == std::vector<char>(bytes_.size(), 'h'));
    require_equal(bytes_.size(), std::size_t{1} << 20);
    require_equal(number_, 1);
  }
  int number_ = 1;

 private:
  std::vector<char> bytes_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// It stays when it has done it, which it has when this returns.
template <class F>
void start_thread(F work) {
  auto done = std::make_shared<std::atomic<bool>>(false);
  std::thread([done, work] {
    work();
    *done = true;
    done->notify_one();
    for (;;) pause();
  }).detach();
  done->wait(false);
}

TEST_P(ACall, DoesNotLoseALockThatWasTakenThere) {
  Outcome outcome = run([this] {
    const int file = open(path("locked").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    require(file >= 0);
    Witness witness;
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      require(flock(file, LOCK_EX) == 0);
    });
    require(contains(error, "a lock on the file cannot move yet"));
    witness.expect_untouched();
    call_on(node(), [&] { require(flock(file, LOCK_EX) == 0 && flock(file, LOCK_UN) == 0); });
    close(file);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, WhoseFunctionClosesTheWayHomeIsAnErrorAndLeavesEverythingAsItWas) {
  Outcome outcome = run([this] {
    Witness witness;
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      closefrom(3);
    });
    require(contains(error, "f had closed the descriptor that it was to come home by"));
    witness.expect_untouched();
    call_on(node(), [&] { witness.number_ = 2; });
    require_equal(witness.number_, 2);
  });
  EXPECT_EQ(outcome.end, exited(0));
  EXPECT_EQ(outcome.err, "telefork: run_on: the way home is lost\n");
}

TEST_P(ACall, ThatCrashesThereIsAnErrorAndLeavesEverythingAsItWas) {
  Outcome outcome = run([this] {
    Witness witness;
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      witness.number_ = 2;
      signal(SIGSEGV, SIG_DFL);
      raise(SIGSEGV);
    });
    require(contains(error, "killed there by signal 11"));
    witness.expect_untouched();
    call_on(node(), [&] { witness.number_ = 3; });
    require_equal(witness.number_, 3);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ThatExitsThereEndsTheProgramHere) {
  Outcome outcome = run([this] {
    std::thread([] {
      for (;;) pause();
    }).detach();
    call_on(node(), [] {
      write_all(STDOUT_FILENO, "last words");
      _exit(7);
    });
  });
  EXPECT_EQ(outcome.end, exited(7));
  EXPECT_EQ(outcome.out, "last words");
}

TEST_P(ACall, ThatLeavesAChildRunningIsRefused) {
  Outcome outcome = run([this] {
    Witness witness;
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      if (fork() == 0) {
        for (;;) pause();
      }
    });
    require(contains(error, "it would stay behind"));
    witness.expect_untouched();
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ThatLeavesAPipeOpenIsRefusedByName) {
  Outcome outcome = run([this] {
    Witness witness;
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      int ends[2];
      require(pipe(ends) == 0);
    });
    require(contains(error, "pipe"));
    witness.expect_untouched();
  });
  EXPECT_TRUE(went_well(outcome));
}

// Whether the node sees it or home does.
TEST_P(ACall, ThatLeavesMemoryFilesMappedThereIsToldWhatHelpsWhereCopiesWereAskedFor) {
  Outcome outcome = run([this] {
    telefork::Options options;
    options.shared = telefork::Shared::copy;
    Witness witness;
    void* memory = nullptr;
    auto map_segment = [&] {
      const int id = shmget(IPC_PRIVATE, 4096, 0600);
      memory = shmat(id, nullptr, 0);
      require(shmctl(id, IPC_RMID, nullptr) == 0);
      witness.spoil();
    };
    std::string error = error_of_call(node(), map_segment, options);
    require(contains(error, "of /SYSV"));
    require(contains(error,
                     "memory that others may share stays there; have the program unmap it before"));
    require(!contains(error, "Options::shared"));
    witness.expect_untouched();
    call_on(
        node(),
        [&] {
          map_segment();
          require(shmdt(memory) == 0);
        },
        options);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ThatCannotComeHomeNamesTheNodeTheWayAndTheRemedy) {
  Outcome outcome = run([this] {
    auto open_one_of_nobody = [this] {
      const std::string name = path("gone");
      close(open(name.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
      require(open(name.c_str(), O_RDONLY) >= 0);
      require_equal(unlink(name.c_str()), 0);
    };
    auto open_a_pipe = [] {
      int ends[2];
      require(pipe(ends) == 0);
    };
    auto leave_a_child = [] {
      if (fork() == 0) {
        for (;;) pause();
      }
    };
    auto go_where_nobody_is = [this] {
      const std::string name = path("left");
      require(mkdir(name.c_str(), 0700) == 0 && chdir(name.c_str()) == 0);
      require_equal(rename(name.c_str(), path("elsewhere").c_str()), 0);
      require_equal(rmdir(path("elsewhere").c_str()), 0);
    };
    const std::pair<std::function<void()>, std::string> cases[] = {
        {open_one_of_nobody, "have f close it, or put it on a filesystem"},
        {open_a_pipe, "close it"},
        {leave_a_child, "have whoever began it wait for it"},
        {go_where_nobody_is, "have it change to another one"},
    };
    for (const auto& [function, remedy] : cases) {
      std::string error = error_of_call(node(), function);
      require_equal(int{telefork_error_code()}, int{TELEFORK_REFUSED});
      if (!error.starts_with(node() + ": on the way home: ") || !contains(error, remedy)) {
        fail_here(error, Where::current());
      }
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, IsRefusedForADescriptorThatCannotTravel) {
  Outcome outcome = run([this] {
    int ends[2];
    require(pipe(ends) == 0);
    std::string error = error_of_call(node(), [] { _exit(1); });
    require(contains(error, "refused: fd"));
    require(contains(error, "leave it at home with Options::fds = leave_home"));
    close(ends[0]);
    close(ends[1]);
    call_on(node(), [] {});
  });
  EXPECT_TRUE(went_well(outcome));
}

// It would be the first thread's there.
TEST_P(ACall, IsRefusedForAThreadWithADirectoryOfItsOwn) {
  Outcome outcome = run([this] {
    start_thread([] { require(unshare(CLONE_FS) == 0 && chdir("/usr") == 0); });
    std::string error = error_of_call(node(), [] { _exit(1); });
    require(contains(error, "does not have the first thread's directories and umask"));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ThatGivesAThreadDescriptorsOfItsOwnIsRefused) {
  Outcome outcome = run([this] {
    Witness witness;
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      start_thread([] { require(unshare(CLONE_FILES) == 0); });
    });
    require(contains(error, "does not have the first thread's descriptors"));
    witness.expect_untouched();
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ThatBecomesAnotherIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root";
  Outcome outcome = run([this] {
    Witness witness;
    const gid_t groups[] = {5, 6};
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      require(setgroups(2, groups) == 0);
    });
    require(contains(error, "other supplementary groups there than here (5 6)"));
    require_equal(int{telefork_error_code()}, int{TELEFORK_REFUSED});
    error = error_of_call(node(), [] { require(setegid(6) == 0); });
    require(contains(error, "groups 0 6 0 6), which do not come home"));
    witness.expect_untouched();
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ThatLeavesANamespaceIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root";
  Outcome outcome = run([this] {
    Witness witness;
    for (auto [flag, name] : {std::pair(CLONE_NEWUTS, "uts"), std::pair(CLONE_NEWCGROUP, "cgroup"),
                              std::pair(CLONE_NEWTIME, "time_for_children"),
                              std::pair(CLONE_NEWPID, "pid"), std::pair(CLONE_NEWUSER, "user")}) {
      std::string error = error_of_call(node(), [&, flag = flag] {
        witness.spoil();
        require(unshare(flag) == 0);
      });
      require(contains(error, std::string("it has left its ") + name + " namespace there"));
    }
    witness.expect_untouched();
  });
  EXPECT_TRUE(went_well(outcome));
}

// Here, where the freeze is undone, and there.
TEST_P(ACall, OfAThreadWhoseSystemCallsAreDispatchedIsRefused) {
  Outcome outcome = run([this] {
    static char selector = 0;  // all of them pass
    auto dispatch = [](int mode) {
      constexpr int kSetDispatch = 59;  // PR_SET_SYSCALL_USER_DISPATCH
      return prctl(kSetDispatch, mode, 0, 0, mode == 0 ? nullptr : &selector) == 0;
    };
    Witness witness;
    std::string error = error_of_call(node(), [&] {
      witness.spoil();
      require(dispatch(1));
    });
    require(contains(error, "it has its system calls dispatched (PR_SET_SYSCALL_USER_DISPATCH)"));
    require_equal(int{telefork_error_code()}, int{TELEFORK_REFUSED});
    require(dispatch(1));
    error = error_of_call(node(), [] { _exit(1); });
    require(contains(error, "it has its system calls dispatched (PR_SET_SYSCALL_USER_DISPATCH)"));
    require(dispatch(0));
    call_on(node(), [] {});
    witness.expect_untouched();
  });
  EXPECT_TRUE(went_well(outcome));
}

// Root reads it nevertheless.
TEST_P(ACall, ThatMayNotBeReadIsRefusedOrComesHome) {
  Outcome outcome = run([this] {
    auto hide = [] { prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); };
    if (geteuid() == 0) return telefork::run_on(node(), hide);
    std::string error = error_of_call(node(), hide);
    require(contains(error, "PR_SET_DUMPABLE"));
    require_equal(int{telefork_error_code()}, int{TELEFORK_REFUSED});
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, GoesNoFurtherForGood) {
  Outcome outcome = run([this] {
    std::string error;
    int code = 0;
    telefork::run_on(node(), [&] {
      require(telefork_move_to("local") == -1);
      error = telefork_error();
      code = telefork_error_code();
    });
    require(contains(error, "is to come home from it first"));
    require_equal(code, int{TELEFORK_USAGE});
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ToANodeThatIsNotThereIsAnError) {
  Outcome outcome = run([this] {
    std::string error = error_of_call("unix:" + path("nobody"), [] { _exit(1); });
    require(contains(error, path("nobody")));
    require_equal(int{telefork_error_code()}, int{TELEFORK_UNREACHABLE});
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
