#include "tracee/stub.h"

#include <csignal>
#include <cstdarg>
#include <cstring>
#include <functional>
#include <thread>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/procfs_maps.h"
#include "kernel/procfs_task.h"
#include "tracee/memory.h"
#include "tracee/testing_tracer_death.h"
#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

bool can_read(int fd) {
  pollfd poll = {fd, POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1;
}

// Sums in every kind of register, and says at once when one of them was changed behind its back.
int compute(int stop_fd, int ready_fd) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR2);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  if (::write(ready_fd, "", 1) != 1) return 9;
  volatile double expected_sum = 0;
  for (int k = 0; k < 1000; ++k) expected_sum = expected_sum + k * 0.5;
  do {
    double sum = 0;
    long integers = 0;
    for (int k = 0; k < 1000; ++k) {
      sum += k * 0.5;
      integers += k;
    }
    if (sum != expected_sum || integers != 499500) return 1;
  } while (!can_read(stop_fd));
  sigset_t now;
  ::sigprocmask(SIG_SETMASK, nullptr, &now);
  return sigismember(&now, SIGUSR2) == 1 && sigismember(&now, SIGUSR1) == 0 ? 0 : 2;
}

// Sleeps in read(): must come back with the byte, and not with EINTR.
int block_in_read(int stop_fd, int ready_fd) {
  char byte = 7;
  if (::write(ready_fd, "", 1) != 1) return 9;
  return ::read(stop_fd, &byte, 1) == 1 && byte == 0 ? 0 : 1;
}

int sleep_half_a_second(int stop_fd, int ready_fd) {
  if (::write(ready_fd, "", 1) != 1) return 9;
  timespec start, end, request = {0, 500'000'000};
  ::clock_gettime(CLOCK_MONOTONIC, &start);
  if (::nanosleep(&request, nullptr) != 0) return 1;
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  long elapsed_ms = (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1'000'000;
  char byte;
  return ::read(stop_fd, &byte, 1) == 1 && elapsed_ms >= 499 ? 0 : 2;
}

constexpr std::uint64_t bit_of(int signal) { return std::uint64_t{1} << (signal - 1); }
constexpr std::uint64_t kMaskOfWaiter = bit_of(SIGTERM) | bit_of(SIGUSR2);

// Sleeps in rt_sigtimedwait(2), for which the kernel takes what it waits for out of its mask.
int wait_for_a_signal(int stop_fd, int ready_fd) {
  std::uint64_t mask = kMaskOfWaiter;
  const std::uint64_t awaited = bit_of(SIGTERM);
  const timespec a_while{0, 20'000'000};
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, sizeof(mask));
  if (::write(ready_fd, "", 1) != 1) return 9;
  while (!can_read(stop_fd)) {
    const long result =
        ::syscall(SYS_rt_sigtimedwait, &awaited, nullptr, &a_while, sizeof(awaited));
    if (result != -1 || (errno != EINTR && errno != EAGAIN)) return 1;
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, nullptr, &mask, sizeof(mask));
    if (mask != kMaskOfWaiter) return 2;
  }
  return 0;
}

struct Work {
  const char* name;
  int (*run)(int, int);
};
constexpr Work kCompute{"Compute", compute};
constexpr Work kBlockInRead{"BlockInRead", block_in_read};
constexpr Work kSleep{"Sleep", sleep_half_a_second};
constexpr Work kWaitForASignal{"WaitForASignal", wait_for_a_signal};

SyscallProgram thousand_mmaps() {
  SyscallProgram program;
  for (int i = 0; i < 1000; ++i) {
    program.call("mapping a page", SYS_mmap,
                 {0, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0});
  }
  return program;
}

std::vector<std::string> describe_maps(pid_t pid) {
  std::vector<std::string> lines;
  for (const kernel::Vma& vma : kernel::read_maps(pid)) {
    lines.push_back(std::to_string(vma.start.value()) + "-" + std::to_string(vma.end.value()) +
                    " " + std::to_string(vma.protection()) + " " + vma.path);
  }
  return lines;
}

TEST(Stub, PassesResultsOfEarlierStepsOn) {
  Victim victim(compute);
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  Stub stub(thread, victim.pid(), {});
  SyscallProgram program;
  Result fd = program.call("opening a file", SYS_openat,
                           {AT_FDCWD, program.text("/etc/hostname"), O_RDONLY, 0});
  Data buffer = program.buffer(64);
  program.call("reading it", SYS_read, {fd, buffer, 64});
  program.call_expecting("moving it", 77, SYS_dup3, {fd, 77, 0});
  program.call("closing it", SYS_close, {fd});
  program.call("closing the other", SYS_close, {77});
  ProgramRun run = stub.run(program);
  EXPECT_GT(run.result(fd), 2);
  EXPECT_NE(run.data(buffer)[0], std::byte{0});
  stub.remove();
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Stub, StopsAtTheFirstStepThatFailsAndNamesIt) {
  Victim victim(compute);
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  Stub stub(thread, victim.pid(), {});
  SyscallProgram program;
  program.call("a step that works", SYS_getpid, {});
  program.call("closing what is not open", SYS_close, {12345});
  Result last = program.call("never made", SYS_getppid, {});
  try {
    stub.run(program);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.text(), "closing what is not open: Bad file descriptor");
    EXPECT_EQ(error.error(), EBADF);
  }
  EXPECT_EQ(stub.try_run(program).result(last), 0);
  stub.remove();
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Stub, MakesAThousandMappingsInOneResume) {
  Victim victim(compute);
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  Stub stub(thread, victim.pid(), {});
  SyscallProgram program = thousand_mmaps();
  tracer_death().resumes = 0;
  ProgramRun run = stub.run(program);
  EXPECT_EQ(tracer_death().resumes, 1);
  EXPECT_EQ(run.failed(), kStubDone);
  stub.remove();
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Stub, MakesRoomForProgramsAndAllocationsOfAnySize) {
  Victim victim(compute);
  std::vector<std::string> before = describe_maps(victim.pid());
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  {
    std::vector<std::uint64_t> asked;
    Stub::Options options;
    options.data_size = kPageSize;
    RemotePtr next(std::uint64_t{1} << 45);  // beyond a sanitizer's shadow
    options.place = [&](std::uint64_t size) {
      asked.push_back(size);
      return std::exchange(next, next + size);
    };
    Stub stub(thread, victim.pid(), options);
    EXPECT_EQ(stub.run(thousand_mmaps()).failed(), kStubDone);
    EXPECT_EQ(asked.size(), 1u);
    RemotePtr large = stub.allocate(2 * asked.at(0));
    write_object(victim.pid(), large + 2 * asked.at(0) - sizeof(int), 42);
    EXPECT_EQ(asked.size(), 2u);
    EXPECT_EQ(stub.run(thousand_mmaps()).failed(), kStubDone);
    EXPECT_EQ(stub.rooms().size(), 3u);
    for (const kernel::Vma& vma : kernel::read_maps(victim.pid())) {
      EXPECT_EQ(stub.owns(vma), vma.start == stub.area() ||
                                    vma.end == stub.area() + stub.area_size() ||
                                    (vma.start.value() >> 45) == 1);
    }
    SyscallProgram unmap;
    for (const kernel::Vma& vma : kernel::read_maps(victim.pid())) {
      if (vma.path.empty() && vma.protection() == PROT_READ && !stub.owns(vma)) {
        unmap.call("unmapping", SYS_munmap, {vma.start, vma.size()});
      }
    }
    stub.run(unmap);
  }
  EXPECT_EQ(describe_maps(victim.pid()), before);
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Stub, SaysThatThereIsNoRoom) {
  Victim victim(compute);
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  Stub stub(thread, victim.pid(), {});
  try {
    stub.allocate(std::size_t{1} << 60);
    ADD_FAILURE() << "there was room";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResources);
    EXPECT_THAT(error.text(), ::testing::HasSubstr("for the stub in process"));
  }
  SyscallProgram program;
  program.call("asking for the pid", SYS_getpid, {});
  EXPECT_EQ(stub.run(program).failed(), kStubDone);
  stub.remove();
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

class StubInEveryWork : public ::testing::TestWithParam<Work> {};

TEST_P(StubInEveryWork, GivesEverythingBack) {
  Victim victim(GetParam().run);
  std::vector<std::string> before = describe_maps(victim.pid());
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  ThreadState state = read_thread_state(thread);
  {
    Stub stub(thread, victim.pid(), {});
    SyscallProgram program;
    program.call("asking for the pid", SYS_getpid, {});
    stub.run(program);
  }
  ThreadState after = read_thread_state(thread);
  EXPECT_EQ(std::memcmp(&state.registers, &after.registers, sizeof(Registers)), 0);
  EXPECT_EQ(state.xstate, after.xstate);
  EXPECT_EQ(state.signal_mask, after.signal_mask);
  EXPECT_EQ(describe_maps(victim.pid()), before);
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

// The mask that it has inside the call is the kernel's, and nobody's when it has been stopped.
TEST(Stub, FindsTheOwnMaskOfAThreadThatWaitsForASignal) {
  Victim victim(wait_for_a_signal);
  while (kernel::read_status(victim.pid()).blocked != bit_of(SIGUSR2)) std::this_thread::yield();
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  EXPECT_EQ(read_thread_state(thread).signal_mask, kMaskOfWaiter);
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

// What a tracer does from the first call to the last. Returns in the tracer's process.
void trace_once(pid_t pid) {
  TracedThread thread = TracedThread::seize(pid, 0);
  thread.interrupt();
  Stub stub(thread, pid, {});
  SyscallProgram program;
  Result fd = program.call("opening a file", SYS_openat,
                           {AT_FDCWD, program.text("/etc/hostname"), O_RDONLY | O_CLOEXEC, 0});
  program.call("closing it", SYS_close, {fd});
  program.undo(SYS_close, {fd});
  stub.run(program);
  // For the second there is no room.
  program.buffer(Stub::Options{}.data_size);
  stub.run(program);
  stub.remove();
  thread.detach();
}

TEST_P(StubInEveryWork, SurvivesTheDeathOfItsTracerAtEveryStep) {
  long calls = 0;
  for (long die_at = 0;; ++die_at) {
    Victim victim(GetParam().run);
    pid_t tracer = ::fork();
    if (tracer == 0) {
      tracer_death().calls = 0;
      tracer_death().die_at = die_at;
      trace_once(victim.pid());
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
    EXPECT_EQ(victim.finish(), 0) << "the tracer died before its call " << die_at;
    if (WIFEXITED(status)) break;
    calls = die_at;
    // The sleeper takes half a second each: a few are enough of it.
    if (GetParam().run == &sleep_half_a_second) die_at += 4;
  }
  EXPECT_GT(calls, 40);
}

// Not the sleeper: what it does is the reader's, only slower.
class StubInSomeWork : public StubInEveryWork {};

TEST_P(StubInSomeWork, SaysThatTheTargetHasDiedAtEveryStep) {
  int errors = 0;
  for (long die_at = 1; die_at < 60; ++die_at) {
    Victim victim(GetParam().run);
    pid_t tracer = ::fork();
    if (tracer == 0) {
      // The victim is killed by somebody else while the tracer is between two calls.
      tracer_death().calls = 0;
      std::thread killer([&] {
        while (__atomic_load_n(&tracer_death().calls, __ATOMIC_RELAXED) < die_at)
          std::this_thread::yield();
        ::kill(victim.pid(), SIGKILL);
      });
      int result = 0;
      try {
        trace_once(victim.pid());
      } catch (const Error& error) {
        result = error.code() == Code::kGone ? 1 : 2;
        if (result == 2) std::fprintf(stderr, "%s\n", error.what());
      }
      tracer_death().calls = 1'000'000;
      killer.join();
      ::_exit(result);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) <= 1) << "killed at call " << die_at;
    errors += WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    victim.finish();
  }
  EXPECT_GT(errors, 0);
}

std::string name_of_work(const ::testing::TestParamInfo<Work>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(, StubInEveryWork,
                         ::testing::Values(kCompute, kBlockInRead, kSleep, kWaitForASignal),
                         name_of_work);
INSTANTIATE_TEST_SUITE_P(, StubInSomeWork, ::testing::Values(kCompute, kBlockInRead), name_of_work);

// It sends itself a SIGSTOP in the middle of a program, and then `also`.
char state_after_a_stop_and(Victim& victim, std::initializer_list<int> also) {
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  Stub stub(thread, victim.pid(), {});
  SyscallProgram program;
  program.call("stopping", SYS_kill, {victim.pid(), SIGSTOP});
  for (int signal : also) program.call("another signal", SYS_kill, {victim.pid(), signal});
  Result last = program.call("what comes behind", SYS_getpid, {});
  EXPECT_EQ(stub.run(program).result(last), victim.pid());
  stub.remove();
  thread.detach();
  // A detached thread of a stopped group runs into the stop by itself.
  while (kernel::read_stat(victim.pid()).state == 'R') std::this_thread::yield();
  return kernel::read_stat(victim.pid()).state;
}

TEST(Stub, LeavesAProcessStoppedThatWasStoppedMeanwhile) {
  Victim victim(compute);
  EXPECT_EQ(state_after_a_stop_and(victim, {}), 'T');
  int status = 0;
  ASSERT_EQ(::waitpid(victim.pid(), &status, WUNTRACED), victim.pid());
  EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) << status;
  ::kill(victim.pid(), SIGCONT);
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Stub, LeavesAProcessRunningThatWasStoppedAndContinuedMeanwhile) {
  Victim victim(block_in_read);
  EXPECT_EQ(state_after_a_stop_and(victim, {SIGCONT}), 'S');
  EXPECT_EQ(victim.finish(), 0);
}

}  // namespace
}  // namespace telefork::tracee
