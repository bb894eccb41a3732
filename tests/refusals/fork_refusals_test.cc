// What cannot move is an error of the call: one offence a test.
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "offences.h"
#include "scene.h"

namespace fork_test {
namespace {

constexpr int kLacking = 77;

std::vector<std::string> names_of_offences() {
  std::vector<std::string> names;
  for (const offences::Offence* one = offences::kAll; one->name != nullptr; ++one) {
    if (one->of_a_fork) names.emplace_back(one->name);
  }
  return names;
}

void commit(const std::string& name) {
  if (!offences::find(name)->commit()) _exit(kLacking);
}

// The lines of a fork that the call refuses; whoever it was is still all that there is.
std::vector<std::string> refusals_of_fork(const std::string& node,
                                          const telefork::Options& options) {
  std::vector<std::string> lines;
  try {
    if (telefork::fork(node, options) == 0) _exit(88);
    fail_here("the fork did not fail", Where::current());
  } catch (const telefork::Error& error) {
    require_equal(error.code(), TELEFORK_REFUSED);
    std::istringstream text(error.what());
    for (std::string line; std::getline(text, line);) lines.push_back(line);
  }
  return lines;
}

void require_no_child() {
  require_equal(waitpid(-1, nullptr, WNOHANG), -1);
  require_equal(errno, ECHILD);
}

// Memory of small pages, all of them there.
void* fill_small_pages(std::size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED && madvise(memory, size, MADV_NOHUGEPAGE) == 0);
  std::memset(memory, 1, size);
  return memory;
}
constexpr std::size_t kLarge = std::size_t{128} << 20;

class ForkOf : public AFork {
 protected:
  std::string kind_of_node() const override { return "local"; }
  // A skip where the program could not do what `name` is.
  static void expect_well(const Outcome& outcome, const std::string& name) {
    if (outcome.end == exited(kLacking)) {
      GTEST_SKIP() << "needs: " << offences::find(name)->needs;
    }
    EXPECT_TRUE(went_well(outcome));
  }
};

std::string name_of_offence(const testing::TestParamInfo<std::string>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(A, ForkOf, testing::ValuesIn(names_of_offences()), name_of_offence);

TEST_P(ForkOf, ProgramIsRefusedByTheCall) {
  const std::string name = GetParam();
  Outcome outcome = run([this, name] {
    const offences::Offence& offence = *offences::find(name);
    commit(name);
    telefork::Options options;
    const bool descriptor = std::string(offence.subject).starts_with("fd ");
    if (!descriptor) options.fds = telefork::Fds::leave_home;
    const std::vector<std::string> lines = refusals_of_fork(node(), options);
    require_equal(lines.size(), 1U);
    if (!lines[0].starts_with(std::string("refused: ") + offence.subject) ||
        lines[0].find(std::string(": ") + offence.why) == std::string::npos) {
      fail_here(lines[0], Where::current());
    }
    if (name != "shared_memory") require_no_child();
    _exit(0);  // with the descriptors that it has opened
  });
  expect_well(outcome, name);
}

class AForkOfMany : public ForkOf {};
INSTANTIATE_TEST_SUITE_P(A, AForkOfMany, testing::Values("Program"));

TEST_P(AForkOfMany, IsToldOfAllAtOnce) {
  Outcome outcome = run([this] {
    for (const char* name : {"eventfd", "pidfd", "deleted_file", "seccomp", "memfd_mapping"}) {
      commit(name);
    }
    require_equal(refusals_of_fork(node(), {}).size(), 5U);
    require_no_child();
    _exit(0);
  });
  EXPECT_TRUE(went_well(outcome));
}

// The thread that forks is what counts, not the first one.
TEST_P(AForkOfMany, IsRefusedOfAThreadUnderSeccompAndOfNoOther) {
  Outcome outcome = run([this] {
    std::atomic<bool> forked{false};
    std::thread filtered([&] {
      commit("seccomp");
      require_equal(refusals_of_fork(node(), {}).size(), 1U);
      require_no_child();
      forked = true;
      forked.notify_one();
      pause();
    });
    filtered.detach();
    forked.wait(false);
    require_equal(end_of(fork_child(node(), [] { return 3; })), exited(3));
    _exit(0);
  });
  EXPECT_TRUE(went_well(outcome));
}

// By its name, for the flags would cost too much.
TEST_P(AForkOfMany, IsToldOfHugePagesInALargeProcessByTheCall) {
  Outcome outcome = run([this] {
    fill_small_pages(kLarge);
    commit("hugetlb");
    require_equal(refusals_of_fork(node(), {}).size(), 1U);
    require_no_child();
  });
  expect_well(outcome, "hugetlb");
}

TEST_P(AForkOfMany, IsToldOfAUserfaultfdInALargeProcessByTheCall) {
  Outcome outcome = run([this] {
    fill_small_pages(kLarge);
    commit("userfaultfd");
    telefork::Options options;
    options.fds = telefork::Fds::leave_home;
    require_equal(refusals_of_fork(node(), options).size(), 1U);
    require_no_child();
    _exit(0);
  });
  expect_well(outcome, "userfaultfd");
}

// Nor is it lost: the child's pid ends with 125, and the reason is on stderr.
TEST_P(AForkOfMany, IsToldOfSealedMemoryInALargeProcessByTheChild) {
  Outcome outcome = run([this] {
    fill_small_pages(kLarge);
    commit("mseal");
    require_equal(end_of(fork_child(node(), [] { return 88; })), exited(125));
  });
  if (outcome.end == exited(kLacking)) GTEST_SKIP() << "needs: mseal";
  EXPECT_EQ(outcome.end, exited(0));
  EXPECT_NE(outcome.err.find("mseal'ed memory cannot be restored yet"), std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace fork_test
