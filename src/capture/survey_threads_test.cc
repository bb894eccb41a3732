#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <thread>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "capture/survey.h"

namespace telefork::capture {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A process with `count` more threads, each of which does `work` and stays until the pipe says
// otherwise.
class Process {
 public:
  template <class F>
  explicit Process(F work, int count = 1) {
    auto [from, to] = make_pipe();
    auto [end, say_end] = make_pipe();
    end_ = std::move(say_end);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      end_.reset();
      for (int i = 0; i < count; ++i) {
        std::thread([&, say = to.get(), wait = end.get()] {
          work();
          pid_t tid = ::gettid();
          if (::write(say, &tid, sizeof(tid)) != sizeof(tid)) ::_exit(1);
          char byte;
          [[maybe_unused]] ssize_t n = ::read(wait, &byte, 1);
        }).detach();
      }
      for (;;) ::pause();
    }
    to.reset();
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(::read(from.get(), &tid_, sizeof(tid_)), ssize_t{sizeof(tid_)});
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  pid_t tid() const { return tid_; }  // of the last that was ready
  void end_threads() { end_.reset(); }

  ThreadSurvey survey(ThreadParts parts = ThreadParts::kAll) const {
    return survey_threads(Purpose::kSave, kernel::read_status(pid_), kernel::list_threads(pid_),
                          parts);
  }
  std::vector<std::string> refusals() const {
    std::vector<std::string> lines;
    for (const Refusal& refusal : survey().refusals) lines.push_back(refusal.text());
    return lines;
  }

 private:
  pid_t pid_ = -1;
  pid_t tid_ = 0;
  UniqueFd end_;
};

void leave_descriptors() {
  if (::unshare(CLONE_FILES) != 0) ::_exit(1);
}

TEST(SurveyOfThreads, FindsNothingInThoseThatShareAll) {
  EXPECT_THAT(Process([] {}, 3).refusals(), IsEmpty());
}

TEST(SurveyOfThreads, NamesAThreadAndAllThatItHasOfItsOwn) {
  Process process([] {
    leave_descriptors();
    if (::unshare(CLONE_NEWUTS) != 0) ::_exit(1);
  });
  EXPECT_THAT(process.refusals(),
              ElementsAre(HasSubstr("thread " + std::to_string(process.tid()) + " of process " +
                                    std::to_string(process.pid()) + " (")));
  EXPECT_THAT(process.refusals(),
              ElementsAre(HasSubstr("the first thread's descriptors, uts namespace, ")));
}

TEST(SurveyOfThreads, FindsDirectoriesOfAThreadsOwn) {
  Process process([] {
    if (::unshare(CLONE_FS) != 0 || ::chdir("/usr") != 0) ::_exit(1);
  });
  EXPECT_THAT(process.refusals(), IsEmpty());
  EXPECT_THAT(process.survey().own_directories, ElementsAre(process.tid()));
}

TEST(SurveyOfThreads, FindsInTwoPartsWhatItFindsAtOnce) {
  Process process([] {
    if (::unshare(CLONE_FS | CLONE_NEWUTS) != 0 || ::chdir("/usr") != 0) ::_exit(1);
    leave_descriptors();
  });
  const ThreadSurvey own = process.survey(ThreadParts::kOwn);
  EXPECT_THAT(own.own_directories, ElementsAre(process.tid()));
  ASSERT_EQ(own.refusals.size(), 1U);
  EXPECT_THAT(own.refusals[0].text(), HasSubstr("the first thread's descriptors, "));
  const ThreadSurvey alike = process.survey(ThreadParts::kAlike);
  EXPECT_THAT(alike.own_directories, IsEmpty());
  ASSERT_EQ(alike.refusals.size(), 1U);
  EXPECT_THAT(alike.refusals[0].text(), HasSubstr("the first thread's uts namespace, "));
}

TEST(SurveyOfThreads, FindsThoseThatHaveDirectoriesInAnotherRoot) {
  Process process([] {
    if (::unshare(CLONE_FS) != 0 || ::chroot("/usr") != 0) ::_exit(1);
  });
  EXPECT_THAT(process.refusals(), IsEmpty());
  EXPECT_THAT(process.survey(ThreadParts::kOwn).own_directories, ElementsAre(process.tid()));
}

TEST(SurveyOfThreads, NamesThoseWhoseRootWasRemoved) {
  Process process([] {
    const int folder = ::open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
    char root[] = "/tmp/telefork-root.XXXXXX";
    if (::mkdtemp(root) == nullptr || ::unshare(CLONE_FS) != 0 || ::chroot(root) != 0 ||
        ::unlinkat(folder, root + sizeof "/tmp", AT_REMOVEDIR) != 0) {
      ::_exit(1);
    }
    ::close(folder);
  });
  EXPECT_THAT(process.refusals(),
              ElementsAre(HasSubstr("the first thread's directories and umask, ")));
}

TEST(SurveyOfThreads, TellsOfManyInOneLine) {
  EXPECT_THAT(Process(leave_descriptors, 2).refusals(),
              ElementsAre(HasSubstr(" and another one of process ")));
  EXPECT_THAT(Process(leave_descriptors, 40).refusals(),
              ElementsAre(HasSubstr(" and 39 others of process ")));
}

// A zombie has let go of everything. It stays one while its tracer does not look.
TEST(SurveyOfThreads, PassesOverAThreadThatIsEnding) {
  Process process([] {});
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, process.tid(), 0, 0), 0);
  process.end_threads();
  siginfo_t info{};
  auto tid = static_cast<id_t>(process.tid());
  ASSERT_EQ(::waitid(P_PID, tid, &info, WEXITED | WNOWAIT | __WALL), 0);
  EXPECT_EQ(kernel::list_threads(process.pid()).size(), 2U);
  EXPECT_THAT(process.refusals(), IsEmpty());
  ::waitpid(process.tid(), nullptr, __WALL);
}

// As on a kernel that was built without it.
void take_kcmp_away() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_kcmp, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter{4, code};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    ::_exit(100);
  }
}

std::size_t refusals_without_kcmp(const Process& process) {
  pid_t child = ::fork();
  if (child == 0) {
    take_kcmp_away();
    ::_exit(static_cast<int>(process.refusals().size()));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  return static_cast<std::size_t>(WEXITSTATUS(status));
}

TEST(SurveyOfThreads, ComparesWhatIsThereWithoutKcmp) {
  EXPECT_EQ(refusals_without_kcmp(Process([] {})), 0U);
  EXPECT_EQ(refusals_without_kcmp(Process([] {
              if (::unshare(CLONE_FS) != 0 || ::chdir("/usr") != 0) ::_exit(1);
            })),
            1U);
  EXPECT_EQ(refusals_without_kcmp(Process([] {
              leave_descriptors();
              ::close(0);
              if (::dup2(1, 200) != 200) ::_exit(1);
            })),
            1U);
}

}  // namespace
}  // namespace telefork::capture
