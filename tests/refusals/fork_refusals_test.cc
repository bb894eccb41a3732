// What cannot move is an error of the call: one offence a test.
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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

// From now on root is as everybody else, and what it starts is too.
void give_up_root_of_files() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  require(syscall(SYS_capget, &header, sets) == 0);
  for (unsigned capability : {CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH}) {
    prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    for (auto* set : {&sets[0].effective, &sets[0].permitted, &sets[0].inheritable}) {
      *set &= ~(1U << capability);
    }
  }
  require(syscall(SYS_capset, &header, sets) == 0);
}

// Of three files, one read, one written and one mapped.
TEST_P(AForkOfMany, IsRefusedForFilesThatItsUserMayNotOpenAnew) {
  const std::vector<std::string> files = {path("mapped"), path("read"), path("written")};
  const std::string telefork =
      std::filesystem::path(telepad_program()).parent_path().string() + "/telefork";
  Outcome outcome = run([&] {
    for (const std::string& file : files) make_file(file, "text");
    const int mapped = open(files[0].c_str(), O_RDONLY);
    require(mmap(nullptr, 4, PROT_READ, MAP_PRIVATE, mapped, 0) != MAP_FAILED);
    close(mapped);
    require(open(files[1].c_str(), O_RDONLY) >= 0 && open(files[2].c_str(), O_WRONLY) >= 0);
    for (const std::string& file : files) require_equal(chmod(file.c_str(), 0), 0);
    give_up_root_of_files();
    const std::vector<std::string> lines = refusals_of_fork(node(), {});
    require_equal(lines.size(), files.size());
    std::string all;
    for (const std::string& line : lines) all += line + "\n";
    for (const std::string& file : files) {
      require(all.find("refused: file " + file + ": the user may not open it anew: " + file +
                       " there: Permission denied; close it") != std::string::npos);
    }
    require_no_child();
    // Of what it keeps in an exec.
    execl("/bin/sh", "sh", "-c", (telefork + " check $$ " + node() + " 2>&1; echo $?").c_str(),
          nullptr);
  });
  EXPECT_EQ(outcome.end, exited(0));
  for (const char* name : {"read", "written"}) {
    EXPECT_NE(outcome.out.find("file " + path(name) + ": the user may not"), std::string::npos)
        << outcome.out;
  }
}

// At home it may be read, and so its content travels.
TEST_P(AForkOfMany, TakesAFileAlongThatItsUserMayNotOpenThere) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to have more rights here than there";
  socket_ = path("telepad.sock");
  start_telepad(give_up_root_of_files);
  Outcome outcome = run([this] {
    const std::string file = path("read");
    make_file(file, "text");
    const int fd = open(file.c_str(), O_RDONLY);
    require_equal(chmod(file.c_str(), 0), 0);
    require_equal(
        end_of(fork_child("unix:" + socket_, [&] { return read_all(fd) == "text" ? 4 : 5; })),
        exited(4));
    close(fd);
  });
  EXPECT_EQ(outcome.end, exited(0)) << outcome.err;  // which tells of the lost rights
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
