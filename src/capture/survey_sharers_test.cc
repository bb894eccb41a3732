#include <sched.h>
#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "capture/survey.h"
#include "capture/tree.h"

namespace telefork::capture {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

int wait_for_ever(void* name) {
  if (name != nullptr) ::prctl(PR_SET_NAME, name);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) ::pause();
}

// A process that has cloned another one with these flags, or, for `siblings`, whose child has
// cloned another child of it.
class SharingProcess {
 public:
  explicit SharingProcess(int flags, const char* name = nullptr, bool siblings = false) {
    auto [from, to] = make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (siblings) {
        flags |= CLONE_PARENT;
        if (::fork() != 0) wait_for_ever(nullptr);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      }
      constexpr std::size_t kStack = 65536;
      void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
      pid_t sharer = ::clone(wait_for_ever, static_cast<char*>(stack) + kStack, flags | SIGCHLD,
                             const_cast<char*>(name));
      if (::write(to.get(), &sharer, sizeof(sharer)) != sizeof(sharer)) ::_exit(1);
      for (;;) ::pause();
    }
    EXPECT_EQ(::read(from.get(), &sharer_, sizeof(sharer_)), ssize_t{sizeof(sharer_)});
  }
  SharingProcess(const SharingProcess&) = delete;
  SharingProcess& operator=(const SharingProcess&) = delete;
  ~SharingProcess() {
    ::kill(sharer_, SIGKILL);
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  std::string sharer() const { return std::to_string(sharer_); }
  pid_t pid() const { return pid_; }
  pid_t sharer_pid() const { return sharer_; }

  std::vector<std::string> refusals(Purpose purpose, bool quick = false) const {
    SurveyOptions options;
    options.purpose = purpose;
    options.quick = quick;
    std::vector<std::string> lines;
    for (const Refusal& refusal : find_sharers(options, pid_, "subject")) {
      lines.push_back(refusal.text());
    }
    return lines;
  }

 private:
  pid_t pid_ = -1;
  pid_t sharer_ = 0;
};

TEST(SurveyOfSharers, FindsNothingWhereAChildHasCopies) {
  EXPECT_THAT(SharingProcess(0).refusals(Purpose::kSave), IsEmpty());
}

TEST(SurveyOfSharers, NamesAProcessInTheSameMemory) {
  SharingProcess process(CLONE_VM);
  auto line = HasSubstr("it shares its memory with process " + process.sharer() +
                        ", which would stay; end that one first");
  EXPECT_THAT(process.refusals(Purpose::kSave), ElementsAre(line));
  EXPECT_THAT(process.refusals(Purpose::kRunOn), ElementsAre(line));
}

TEST(SurveyOfSharers, NamesAProcessWithTheSameDescriptorsOrDirectories) {
  EXPECT_THAT(SharingProcess(CLONE_FILES).refusals(Purpose::kSave),
              ElementsAre(HasSubstr("its descriptors with process ")));
  EXPECT_THAT(SharingProcess(CLONE_FS).refusals(Purpose::kSave),
              ElementsAre(HasSubstr("its directories and umask with process ")));
  EXPECT_THAT(SharingProcess(CLONE_VM | CLONE_FILES).refusals(Purpose::kSave),
              ElementsAre(HasSubstr("its memory, descriptors with process ")));
}

TEST(Sharing, IsFoundForManyAtOnce) {
  const SharingProcess memory(CLONE_VM);
  const SharingProcess both(CLONE_FILES | CLONE_FS);
  const SharingProcess none(0);
  const Sharing sharing({memory.pid(), both.pid(), none.pid(), both.sharer_pid()});
  EXPECT_THAT(sharing.of(memory.pid()),
              ElementsAre(Pair("memory", ElementsAre(memory.sharer_pid()))));
  const char* parts = "descriptors, directories and umask";
  EXPECT_THAT(sharing.of(both.pid()), ElementsAre(Pair(parts, ElementsAre(both.sharer_pid()))));
  EXPECT_THAT(sharing.of(both.sharer_pid()), ElementsAre(Pair(parts, ElementsAre(both.pid()))));
  EXPECT_THAT(sharing.of(none.pid()), IsEmpty());
  EXPECT_TRUE(sharing.is_shared(SharedPart::kDirectories, both.pid(), both.sharer_pid()));
  EXPECT_FALSE(sharing.is_shared(SharedPart::kMemory, both.pid(), both.sharer_pid()));
  EXPECT_FALSE(sharing.is_shared(SharedPart::kDescriptors, both.pid(), memory.pid()));
}

std::vector<std::string> sharing_refusals(const TreeSurvey& tree) {
  std::vector<std::string> lines;
  for (const Refusal& refusal : tree.refusals) {
    if (refusal.text().find("it shares its") != std::string::npos) lines.push_back(refusal.text());
  }
  return lines;
}

TEST(SurveyOfTrees, FindsWhatAChildSharesWithItsParent) {
  const SharingProcess process(CLONE_FILES | CLONE_FS);
  SurveyOptions options;
  options.purpose = Purpose::kMove;
  const TreeSurvey tree = survey_tree(process.pid(), options);
  ASSERT_EQ(tree.members.size(), 2u);
  EXPECT_THAT(sharing_refusals(tree), IsEmpty());
  EXPECT_TRUE(tree.members[1].shares_descriptors && tree.members[1].shares_directories);
  EXPECT_FALSE(tree.members[0].shares_descriptors || tree.members[0].shares_directories);
  // Nobody is made there.
  options.purpose = Purpose::kHome;
  EXPECT_THAT(sharing_refusals(survey_tree(process.pid(), options)),
              ElementsAre(HasSubstr("descriptors, directories and umask with process ")));
}

TEST(SurveyOfTrees, RefusesWhatIsNotSharedByParentAndChild) {
  const SharingProcess siblings(CLONE_FILES, nullptr, true);
  SurveyOptions options;
  options.purpose = Purpose::kMove;
  EXPECT_THAT(sharing_refusals(survey_tree(siblings.pid(), options)),
              ElementsAre(HasSubstr("descriptors with process ")));
}

TEST(Sharing, IsOfNobodyWhoHasEnded) {
  const pid_t ended = ::fork();
  if (ended == 0) ::_exit(0);
  ::waitpid(ended, nullptr, 0);
  const SharingProcess process(CLONE_VM);
  const Sharing sharing({ended, process.pid()});
  EXPECT_THAT(sharing.of(ended), IsEmpty());
  EXPECT_THAT(sharing.of(process.pid()),
              ElementsAre(Pair("memory", ElementsAre(process.sharer_pid()))));
}

TEST(SurveyOfSharers, LeavesAForkAndAQuickLookAlone) {
  SharingProcess process(CLONE_VM);
  EXPECT_THAT(process.refusals(Purpose::kFork), IsEmpty());
  EXPECT_THAT(process.refusals(Purpose::kRunOn, true), IsEmpty());
}

TEST(SurveyOfSharers, PassesOverTheLauncherOfAPrivateAgent) {
  SharingProcess process(CLONE_VM, "telefork-agent");
  while (kernel::read_comm(process.sharer_pid(), process.sharer_pid()) != "telefork-agent") {
    ::sched_yield();
  }
  EXPECT_THAT(process.refusals(Purpose::kRunOn), IsEmpty());
}

}  // namespace
}  // namespace telefork::capture
