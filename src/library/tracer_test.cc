// Whom a program lets trace it. A kernel without Yama keeps none of it, so the calls are looked at.
#include <atomic>
#include <cstdarg>
#include <iterator>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/agent.h"
#include "library/testing_telepad.h"
#include "telefork/telefork.h"

namespace library_test {
namespace {

struct Naming {
  pid_t who;
  long whom;
};
struct Namings {
  std::atomic<unsigned> count;
  Naming list[16];
};
Namings* namings = nullptr;  // shared with snapshots

class Tracer : public ::testing::Test {
 protected:
  Tracer() {
    namings = static_cast<Namings*>(
        mmap(nullptr, sizeof(Namings), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  ~Tracer() override { munmap(std::exchange(namings, nullptr), sizeof(Namings)); }

  static std::vector<long> named_by(pid_t who) {
    std::vector<long> found;
    for (unsigned i = 0; i < namings->count; ++i) {
      if (namings->list[i].who == who) found.push_back(namings->list[i].whom);
    }
    return found;
  }
  // Until it has an agent: one that is known from an earlier test, and has ended, is named too.
  static void get_agent(FakeTelepad& telepad) {
    telepad.reply.code = TELEFORK_REFUSED;
    EXPECT_EQ(telefork_fork("node7"), -1);
    telepad.reply = FakeTelepad::make_reply();
    namings->count = 0;
  }
  // The telepad of these tests is this very process, and its own agent and session.
  static long telepad_pid() { return getpid(); }
};

TEST_F(Tracer, OfAForkIsTheTelepadAndThenOfTheSnapshotItsSession) {
  FakeTelepad telepad;
  get_agent(telepad);
  const pid_t pid = telefork_fork("node7");
  if (pid == 0) _exit(0);
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(named_by(getpid()), (std::vector<long>{telepad_pid(), 0}));
  EXPECT_EQ(named_by(pid), std::vector<long>{telepad_pid()});
}

TEST_F(Tracer, OfACallIsTheTelepadAndThenItsSessionUntilItIsOver) {
  FakeTelepad telepad;
  get_agent(telepad);
  telepad.on_snapshot = FakeTelepad::say_no_memory;
  EXPECT_EQ(telefork_run_on(
                "node7", [](void*) {}, nullptr),
            -1);
  EXPECT_EQ(named_by(getpid()), (std::vector<long>{telepad_pid(), telepad_pid(), 0}));
}

TEST_F(Tracer, IsNobodyAfterACallThatIsRefused) {
  FakeTelepad telepad;
  get_agent(telepad);
  telepad.reply.code = TELEFORK_REFUSED;
  EXPECT_EQ(telefork_fork("node7"), -1);
  EXPECT_EQ(named_by(getpid()), (std::vector<long>{telepad_pid(), 0}));
}

}  // namespace
}  // namespace library_test

// In place of libc's, for the library too. It takes six arguments, however many were given.
extern "C" __attribute__((no_sanitize("address"))) long syscall(long number, ...) noexcept {
  static const auto real = reinterpret_cast<long (*)(long, ...)>(dlsym(RTLD_NEXT, "syscall"));
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  using library_test::namings;
  if (namings != nullptr && number == SYS_prctl && arguments[0] == PR_SET_PTRACER) {
    const unsigned at = namings->count++;
    if (at < std::size(namings->list)) namings->list[at] = {getpid(), arguments[1]};
  }
  return real(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
              arguments[5]);
}
