#include "tracee/parked_process.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <tuple>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "tracee/fd_passing.h"
#include "tracee/memory.h"
#include "tracee/testing_tracer_death.h"
#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

using namespace std::chrono_literals;

constexpr int kAllOld = 10;
constexpr int kAllNew = 20;
constexpr int kSawSignal = 30;
constexpr long kNewResult = 77;  // of read()
constexpr int kOthers = 2;

// In memory at the same address here and in the victim, which is forked.
int g_word = 0;
std::atomic<pid_t> g_caller;
std::atomic<int> g_ticks;
std::atomic<int> g_signals;     // how many the handler has seen
std::atomic<int> g_signal_sum;  // of their values

void count_signal(int, siginfo_t* info, void*) {
  ++g_signals;
  g_signal_sum += info->si_value.sival_int;
}

long read_byte(int fd) {
  char byte = 0;
  return ::syscall(SYS_read, fd, &byte, 1);
}

// What a read(2) and the word are, old or new, in every thread.
int state_after(long result, long old_result) {
  if (result == old_result && g_word == 0) return kAllOld;
  if (result == kNewResult && g_word == 1) return kAllNew;
  return 99;
}

// Its caller is not its first thread; the others sleep in a read() of a pipe without a writer once
// the test is over, and one computes. It ends by itself.
int wait_with_threads(int stop_fd, int ready_fd, int session) {
  struct sigaction action {};
  action.sa_sigaction = &count_signal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  ::sigaction(SIGUSR1, &action, nullptr);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGALRM;
  timer_t timer = nullptr;
  itimerspec hour{{0, 0}, {3600, 0}};
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return 96;
  if (::timer_settime(timer, 0, &hour, nullptr) != 0) return 96;
  std::atomic<int> states[kOthers + 1];
  std::atomic<pid_t> readers[kOthers + 1] = {};
  std::atomic<bool> over{false};
  UniqueFd hold_read, hold_write;
  std::tie(hold_read, hold_write) = make_pipe();
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    readers[0] = g_caller = ::gettid();
    states[0] = state_after(read_byte(session), 0);
    over = true;
    hold_write.reset();
  });
  for (int i = 1; i <= kOthers; ++i) {
    threads.emplace_back([&, i, fd = hold_read.get()] {
      readers[i] = ::gettid();
      states[i] = state_after(read_byte(fd), 0);
    });
  }
  threads.emplace_back([&] {
    while (!over) ++g_ticks;
  });
  // In that call, and not on the way to it.
  auto asleep = [](pid_t tid) {
    std::ifstream file("/proc/self/task/" + std::to_string(tid) + "/syscall");
    long number = -1;
    file >> number;
    return number == SYS_read && kernel::read_stat(tid).state == 'S';
  };
  for (const std::atomic<pid_t>& tid : readers) {
    while (tid == 0 || !asleep(tid)) std::this_thread::yield();
  }
  [[maybe_unused]] ssize_t told = ::write(ready_fd, "", 1);
  static_cast<void>(stop_fd);
  for (std::thread& thread : threads) thread.join();
  // Both timers were stopped meanwhile; only the old state has them armed again.
  itimerspec left{};
  bool armed = ::timer_gettime(timer, &left) == 0 && left.it_value.tv_sec > 3000;
  bool alarm_armed = ::alarm(0) != 0;
  bool old = states[0] == kAllOld;
  if (armed != old || alarm_armed != old) return 95;
  // What came while it was away is here by now.
  if (g_signals != 0) return g_signals == 1 && g_signal_sum == 42 ? kSawSignal : 97;
  for (int i = 1; i <= kOthers; ++i) {
    if (states[i] != states[0]) return 98;
  }
  return states[0];
}

struct Park {
  UniqueFd ours;
  int session;  // its number there
  std::unique_ptr<Victim> victim;
  pid_t caller = 0;

  Park() {
    auto [mine, theirs] = make_socket_pair(SOCK_STREAM);
    ours = std::move(mine);
    session = theirs.get();
    int agent = ours.get();
    victim = std::make_unique<Victim>([session = session, agent](int stop_fd, int ready_fd) {
      ::close(agent);
      return wait_with_threads(stop_fd, ready_fd, session);
    });
    caller = read_object<pid_t>(victim->pid(), RemotePtr(address_of(&g_caller)));
  }
  template <class T>
  static std::uint64_t address_of(const T* object) {
    return reinterpret_cast<std::uint64_t>(object);
  }
  int word() const { return read_object<int>(victim->pid(), RemotePtr(address_of(&g_word))); }
};

// The tests do not wait.
ParkedProcess::Options options_for(pid_t caller) {
  ParkedProcess::Options options;
  options.caller = caller;
  options.wait = 1ms;
  return options;
}

// As if the read() of each thread had returned kNewResult.
void commit_new_state(ParkedProcess& parked) {
  for (TracedThread& thread : parked.frozen().threads()) {
    ThreadState state = parked.state_of(thread.tid());
    if (interrupted_system_call(state.registers) == SYS_read) {
      set_system_call_result(state.registers, kNewResult);
      forget_system_call(state.registers);
    }
    parked.set_future(thread.tid(), state, {});
  }
  SyscallProgram program;
  program.copy("changing the word", RemotePtr(Park::address_of(&g_word)), program.object(1),
               sizeof(int));
  parked.commit(std::move(program));
}

// More than the stub has room for: it makes some.
constexpr std::size_t kTooLarge = 512 * 1024;

// As a capture does.
void ask_the_others(ParkedProcess& parked) {
  SyscallProgram program;
  const Result id = program.call("asking for the thread's id", SYS_gettid, {});
  std::vector<ProgramRun> runs = parked.guests().run(program);
  std::size_t next = 0;
  for (const TracedThread& thread : parked.frozen().threads()) {
    if (thread.tid() == parked.caller()) continue;
    EXPECT_EQ(runs.at(next++).result(id), thread.tid());
  }
}

void park_and_roll_back(pid_t pid, pid_t caller) {
  ParkedProcess parked(FrozenProcess::freeze(pid, 0), options_for(caller));
  parked.stub().allocate(kTooLarge);
  ask_the_others(parked);
  parked.hold_for(1ms);
  parked.begin_waiting();
  EXPECT_FALSE(parked.end_waiting());
  // What a wait is to undo is in force still.
  parked.stub().allocate(2 * kTooLarge);
  parked.roll_back({});
}

// How far a tracer has come, which may have died since.
enum class Commit : int { kNotBegun, kBegun, kDone };
Commit& commit() {
  static auto* shared = static_cast<Commit*>(
      ::mmap(nullptr, sizeof(Commit), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return *shared;
}

void park_and_commit(pid_t pid, pid_t caller) {
  ParkedProcess parked(FrozenProcess::freeze(pid, 0), options_for(caller));
  ask_the_others(parked);
  parked.hold_for(1ms);
  parked.stub().allocate(kTooLarge);
  commit() = Commit::kBegun;
  commit_new_state(parked);
  commit() = Commit::kDone;
}

TEST(ParkedProcess, GoesOnAsItWasWhenItIsRolledBack) {
  Park park;
  park_and_roll_back(park.victim->pid(), park.caller);
  park.ours.reset();
  EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllOld);
}

TEST(ParkedProcess, GoesOnAsItWasWhenItWasOnlyAsked) {
  Park park;
  {
    ParkedProcess parked(FrozenProcess::freeze(park.victim->pid(), 0), options_for(park.caller));
    ask_the_others(parked);
  }
  park.ours.reset();
  EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllOld);
}

TEST(ParkedProcess, GoesOnInItsNewStateAfterACommit) {
  Park park;
  park_and_commit(park.victim->pid(), park.caller);
  // The new state's other readers read 77 too.
  EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllNew);
}

TEST(ParkedProcess, RunsNothingWhileItIsHeldAndItsTracerIsDead) {
  Park park;

  pid_t tracer = ::fork();
  if (tracer == 0) {
    ParkedProcess parked(FrozenProcess::freeze(park.victim->pid(), 0), options_for(park.caller));
    parked.hold_for(1h);
    parked.begin_waiting();
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  park.ours.reset();
  pid_t pid = park.victim->pid();
  auto sleeps = [](pid_t tid) { return kernel::read_stat(tid).state == 'S'; };
  for (pid_t tid : kernel::list_threads(pid)) {
    while (!sleeps(tid)) std::this_thread::yield();
  }
  int ticks = read_object<int>(pid, RemotePtr(Park::address_of(&g_ticks)));
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  EXPECT_EQ(read_object<int>(pid, RemotePtr(Park::address_of(&g_ticks))), ticks);
  ::kill(pid, SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(park.victim->reap()));
}

// What becomes of it once its tracer is gone.
HeldProcess hold_and_end(const Park& park, bool dies) {
  auto [told, tell] = make_pipe();
  const pid_t tracer = ::fork();
  if (tracer == 0) {
    ParkedProcess parked(FrozenProcess::freeze(park.victim->pid(), 0), options_for(park.caller));
    parked.hold_for(1ms);
    parked.set_lease(ParkedProcess::kWithoutEnd);
    const HeldProcess held = parked.held_process();
    if (::write(tell.get(), &held, sizeof(held)) != sizeof(held)) ::_exit(1);
    if (dies) ::raise(SIGKILL);
    parked.leave_held();
    ::_exit(0);
  }
  HeldProcess held;
  EXPECT_EQ(::read(told.get(), &held, sizeof(held)), ssize_t{sizeof(held)});
  EXPECT_TRUE(is_parked(held));
  int status = 0;
  EXPECT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_EQ(WIFSIGNALED(status), dies);
  return held;
}

TEST(HeldProcess, GoesOnWhenItIsReleased) {
  for (bool dies : {false, true}) {
    Park park;
    const HeldProcess held = hold_and_end(park, dies);
    park.ours.reset();
    while (kernel::read_stat(held.caller).state != 'S') std::this_thread::yield();
    EXPECT_TRUE(is_parked(held));
    EXPECT_TRUE(try_release(held));
    EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllOld);
    EXPECT_FALSE(is_parked(held));
  }
}

TEST(HeldProcess, IsReleasedOnItsWayToItsWait) {
  for (bool dies : {false, true}) {
    Park park;
    const HeldProcess held = hold_and_end(park, dies);
    park.ours.reset();
    EXPECT_TRUE(try_release(held));
    EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllOld);
  }
}

TEST(HeldProcess, IsLeftAloneWhileItIsTraced) {
  Park park;
  {
    ParkedProcess parked(FrozenProcess::freeze(park.victim->pid(), 0), options_for(park.caller));
    parked.hold_for(1h);
    EXPECT_TRUE(is_parked(parked.held_process()));
    EXPECT_FALSE(try_release(parked.held_process()));
    parked.roll_back({});
  }
  park.ours.reset();
  EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllOld);
}

// Dies before each of its calls; what the victim said each time.
std::vector<int> die_at_every_call(
    void (*work)(pid_t, pid_t), const std::function<void()>& on_death = [] {}) {
  std::vector<int> results;
  for (long die_at = 0;; ++die_at) {
    Park park;
    pid_t tracer = ::fork();
    if (tracer == 0) {
      tracer_death() = {.die_at = die_at};
      work(park.victim->pid(), park.caller);
      ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(tracer, &status, 0), tracer);
    on_death();
    park.ours.reset();
    int end = park.victim->reap();
    EXPECT_TRUE(WIFEXITED(end)) << "the tracer died before its call " << die_at << ": " << end;
    results.push_back(WEXITSTATUS(end));
    if (WIFEXITED(status)) return results;
  }
}

TEST(ParkedProcess, IsAsItWasAtWhateverCallItsTracerDies) {
  std::vector<int> results = die_at_every_call(&park_and_roll_back);
  EXPECT_GT(results.size(), 60u);
  EXPECT_EQ(std::count(results.begin(), results.end(), kAllOld), std::ssize(results));
}

// How many calls it has made by then is not the same each time.
TEST(ParkedProcess, IsInOneOfTwoStatesAtWhateverCallItsTracerDies) {
  commit() = Commit::kNotBegun;  // before it is forked
  std::vector<Commit> commits;
  std::vector<int> results = die_at_every_call(&park_and_commit, [&commits] {
    commits.push_back(std::exchange(commit(), Commit::kNotBegun));
  });
  ASSERT_EQ(commits.size(), results.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (commits[i] == Commit::kNotBegun) {
      EXPECT_EQ(results[i], kAllOld) << i;
    } else if (commits[i] == Commit::kDone) {
      EXPECT_EQ(results[i], kAllNew) << i;
    }
    EXPECT_TRUE(results[i] == kAllOld || results[i] == kAllNew) << results[i];
  }
  EXPECT_GT(std::count(commits.begin(), commits.end(), Commit::kNotBegun), 40);
  EXPECT_GT(std::count(results.begin(), results.end(), kAllNew), 20);
}

// In a tracer of its own, which is not the process's parent too. What it exits with.
int trace(const std::function<int()>& work) {
  pid_t tracer = ::fork();
  if (tracer == 0) ::_exit(work());
  int status = 0;
  EXPECT_EQ(::waitpid(tracer, &status, 0), tracer);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(ParkedProcess, ClosesWhatItWasGivenWhenItsTracerDies) {
  Park park;
  pid_t pid = park.victim->pid();
  const std::vector<int> before = kernel::list_fds(pid);
  int result = trace([&] {
    ParkedProcess parked(FrozenProcess::freeze(pid, 0), options_for(park.caller));
    parked.hold_for(1ms);
    const std::vector<int> fds(600, STDERR_FILENO);
    std::vector<int> given = give_fds(parked.stub(), park.ours.get(), park.session, fds);
    if (given.size() != fds.size()) return 1;
    if (kernel::list_fds(pid).size() != before.size() + fds.size()) return 2;
    return ::raise(SIGKILL);
  });
  EXPECT_EQ(result, -1);
  while (kernel::list_fds(pid) != before) std::this_thread::yield();
  park.ours.reset();
  EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllOld);
}

TEST(ParkedProcess, IsKilledWhenAStepFailsHalfway) {
  Park park;
  pid_t pid = park.victim->pid();
  EXPECT_EQ(trace([&] {
              std::string last_words;
              ParkedProcess::Options options = options_for(park.caller);
              options.last_words = [&](const Error& error) {
                // There is still somebody to say it for.
                if (kernel::read_stat(pid).state == 't') last_words = error.text();
              };
              ParkedProcess parked(FrozenProcess::freeze(pid, 0), options);
              parked.hold_for(1ms);
              for (TracedThread& thread : parked.frozen().threads()) {
                parked.set_future(thread.tid(), parked.state_of(thread.tid()), {});
              }
              SyscallProgram program;
              program.call("a step that cannot fail", SYS_close, {12345});
              try {
                parked.commit(std::move(program));
              } catch (const Error& error) {
                if (last_words != error.text()) return 3;
                return error.text() == "process " + std::to_string(pid) +
                                           " was killed, half changed: a step that cannot fail: "
                                           "Bad file descriptor"
                           ? 0
                           : 2;
              }
              return 1;
            }),
            0);
  EXPECT_TRUE(WIFSIGNALED(park.victim->reap()));
}

ParkedProcess::Event await_event(ParkedProcess& parked) {
  for (;;) {
    if (std::optional<ParkedProcess::Event> event = parked.poll()) return *event;
    std::this_thread::yield();
  }
}

void send_value(pid_t pid) { ::sigqueue(pid, SIGUSR1, {.sival_int = 42}); }

TEST(ParkedProcess, TakesSignalsAndQueuesThemAgain) {
  Park park;
  pid_t pid = park.victim->pid();
  EXPECT_EQ(trace([&] {
              ParkedProcess parked(FrozenProcess::freeze(pid, 0), options_for(park.caller));
              parked.hold_for(1ms);
              parked.begin_waiting();
              send_value(pid);
              siginfo_t info = await_event(parked).info;
              if (info.si_signo != SIGUSR1 || info.si_value.sival_int != 42) return 1;
              parked.begin_waiting();
              parked.roll_back(std::span(&info, 1));
              return 0;
            }),
            0);
  park.ours.reset();
  EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kSawSignal);
}

TEST(ParkedProcess, LosesNoSignalWhenItsTracerDiesAtWhateverCall) {
  for (long die_at = 0;; ++die_at) {
    Park park;
    pid_t pid = park.victim->pid();
    int end = trace([&] {
      tracer_death() = {.die_at = -1};
      ParkedProcess parked(FrozenProcess::freeze(pid, 0), options_for(park.caller));
      parked.hold_for(1ms);
      tracer_death() = {.die_at = die_at};
      parked.begin_waiting();
      send_value(pid);
      siginfo_t info = await_event(parked).info;
      parked.roll_back(std::span(&info, 1));
      return 0;
    });
    park.ours.reset();
    int status = park.victim->reap();
    // Before it was sent there is none.
    bool sent = die_at > 4;
    EXPECT_TRUE(WIFEXITED(status) &&
                (WEXITSTATUS(status) == kSawSignal || (!sent && WEXITSTATUS(status) == kAllOld)))
        << "the tracer died before its call " << die_at << ": " << status;
    if (end == 0) break;
  }
}

TEST(ParkedProcess, StopsAndContinuesAsItsParentSeesIt) {
  Park park;
  pid_t pid = park.victim->pid();
  pid_t tracer = ::fork();
  if (tracer == 0) {
    ParkedProcess parked(FrozenProcess::freeze(pid, 0), options_for(park.caller));
    parked.hold_for(1ms);
    parked.begin_waiting();
    ::kill(pid, SIGSTOP);
    ParkedProcess::Event stopped = await_event(parked);
    if (stopped.kind != ParkedProcess::Event::Kind::kStopped) ::_exit(1);
    if (stopped.info.si_signo != SIGSTOP) ::_exit(2);
    ParkedProcess::Event continued = await_event(parked);
    if (continued.kind != ParkedProcess::Event::Kind::kContinued) ::_exit(3);
    ParkedProcess::Event signal = await_event(parked);
    if (signal.info.si_signo != SIGCONT) ::_exit(4);
    parked.roll_back({});
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, WUNTRACED), pid);
  EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) << status;
  ::kill(pid, SIGCONT);
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_EQ(status, 0);
  park.ours.reset();
  EXPECT_EQ(WEXITSTATUS(park.victim->reap()), kAllOld);
}

TEST(ParkedProcess, SaysThatItWasKilled) {
  Park park;
  pid_t pid = park.victim->pid();
  EXPECT_EQ(trace([&] {
              ParkedProcess parked(FrozenProcess::freeze(pid, 0), options_for(park.caller));
              parked.hold_for(1ms);
              parked.begin_waiting();
              ::kill(pid, SIGKILL);
              try {
                await_event(parked);
              } catch (const Error& error) {
                return error.code() == Code::kGone ? 0 : 2;
              }
              return 1;
            }),
            0);
  EXPECT_TRUE(WIFSIGNALED(park.victim->reap()));
}

}  // namespace
}  // namespace telefork::tracee
