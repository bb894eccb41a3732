// The guest's threads: each is made by the stub, sets itself up, and waits; then all are stopped
// and given their registers.
#include <linux/sched.h>
#include <sched.h>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/cpu.h"
#include "kernel/pid_space.h"
#include "kernel/procfs_task.h"
#include "restore/restorer.h"
#include "restore/steps.h"
#include "tracee/machine_state.h"
#include "tracee/memory.h"
#include "tracee/same_cpu.h"

namespace telefork::restore {
namespace {

using image::schema::Thread;
using tracee::SyscallProgram;

constexpr std::size_t kThreadStack = 1024;

}  // namespace

// What a thread has to ask the kernel for itself.
SyscallProgram Restorer::thread_program(Thread::Reader thread, bool main) {
  SyscallProgram program;
  tracee::add_xstate_room(decode_thread_state(thread).xstate, program);
  add_registrations(thread, program);
  if (thread.getOwnDirectory()) add_own_directories(thread, program);
  if (thread.getOwnPersonality()) {
    program.call("restoring the personality of a thread", SYS_personality,
                 {thread.getPersonality()});
  }
  // The parent death signal, among what follows, is forgotten by it.
  if (thread.hasCredentials()) add_thread_credentials(thread.getCredentials(), program);
  add_thread_settings(thread, program);
  auto tid = main ? blank_->guest_pid() : static_cast<pid_t>(thread.getTid());
  add_pending(thread.getPending(), blank_->guest_pid(), tid, program);
  if (!thread.hasCredentials()) drop_spare_capabilities(program);
  if (main) add_dumpable(program);
  if (main) add_end_of_directories(program);
  return program;
}

namespace {

void restore_scheduling(pid_t tid, Thread::Reader thread,
                        const std::function<void(const std::string&)>& warn) {
  if (thread.getAffinity().size() != 0) {
    cpu_set_t cpus;
    copy_exactly(thread.getAffinity(), &cpus, sizeof(cpus), "the affinity");
    if (::sched_setaffinity(tid, sizeof(cpus), &cpus) != 0) {
      warn(fmt::format("thread {} may use every CPU: none of those that it was bound to is here",
                       tid));
    }
  }
  sched_param parameters{static_cast<int>(thread.getPriority())};
  auto policy = static_cast<int>(thread.getPolicy());
  if (policy != ::sched_getscheduler(tid) && ::sched_setscheduler(tid, policy, &parameters) != 0) {
    warn(fmt::format("thread {} has the default scheduling policy: {}", tid, std::strerror(errno)));
  }
  if (::getpriority(PRIO_PROCESS, static_cast<id_t>(tid)) != thread.getNice() &&
      ::setpriority(PRIO_PROCESS, static_cast<id_t>(tid), thread.getNice()) != 0) {
    warn(fmt::format("thread {} is not at nice {}: {}", tid, thread.getNice(),
                     std::strerror(errno)));
  }
}

}  // namespace

// Each of the others: its program and stack in the stub's pages, then a clone with its own tid.
void Restorer::start_other_threads() {
  if (threads_.size() == 1) return;
  tracee::Stub& stub = blank_->stub();
  ThreadMeeting meeting{stub.allocate(2 * sizeof(std::uint32_t))};
  tracee::write_object<std::uint64_t>(blank_->pid(), meeting.counter, 0);
  std::vector<LoadedThread> loaded;
  tracee::ScatteredMemory memory;
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    loaded.push_back(load_thread(threads_[i].get<Thread>(), meeting, memory));
  }
  memory.write(blank_->pid());
  // One that has become another user may not choose, whoever began it.
  if (settings_.find_blank && !kernel::may_choose_ids(blank_->pid())) {
    start_by_next_ids(loaded, meeting);
  } else {
    start_by_chosen_ids(loaded, meeting);
  }
  tracee::ScatteredMemory results;
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    results.add(thread_programs_[i], loaded[i].own.loaded_size());
  }
  results.read(blank_->pid());
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    const std::span<const std::byte> bytes = results.bytes(i);
    tracee::ProgramRun(loaded[i].own, {bytes.begin(), bytes.end()}).check(loaded[i].own);
  }
}

// What it finds when it starts, as a part of `memory`.
Restorer::LoadedThread Restorer::load_thread(Thread::Reader thread, const ThreadMeeting& meeting,
                                             tracee::ScatteredMemory& memory) {
  tracee::Stub& stub = blank_->stub();
  SyscallProgram own = thread_program(thread, false);
  RemotePtr address = stub.allocate(own.loaded_size());
  RemotePtr stack = stub.allocate(kThreadStack);
  tracee::StubProgram header{};
  header.done_counter = meeting.counter.value();
  header.gate = meeting.gate().value();
  memory.add(address, own.encode(address, header));
  memory.add_object(stack + kThreadStack - sizeof(std::uint64_t), address.value());
  thread_programs_.push_back(address);
  return {std::move(own), {{stack, kThreadStack}, thread.getTid()}};
}

void Restorer::start_by_chosen_ids(const std::vector<LoadedThread>& loaded,
                                   const ThreadMeeting& meeting) {
  SyscallProgram program;
  for (const LoadedThread& thread : loaded) add_thread_start(thread.start, program);
  program.wait_until("waiting for the threads", meeting.counter,
                     static_cast<std::uint32_t>(loaded.size()));
  try {
    blank_->stub().run(program);
  } catch (const Error& error) {
    // Free when the blank process was made (start.cc).
    if (error.error() != EEXIST) throw;
    throw Error(Code::kResources, error.text() + "; the id was free until now: try again");
  }
}

// Each is waited for before the next one's program takes the place of that which has made it: at
// first it reads the step that it came from. Who got another id ends with the blank's next exec.
void Restorer::start_by_next_ids(const std::vector<LoadedThread>& loaded,
                                 const ThreadMeeting& meeting) {
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    ThreadStart start = loaded[i].start;
    const auto wanted = static_cast<pid_t>(std::exchange(start.tid, 0));
    SyscallProgram program;
    const tracee::Result made = add_thread_start(start, program);
    program.wait_until("waiting for the thread", meeting.counter,
                       static_cast<std::uint32_t>(i + 1));
    const kernel::NextId next(wanted);
    if (blank_->stub().run(program).result(made) == wanted) continue;
    throw Error(Code::kResources,
                fmt::format("making thread {}: another process has come to have its id at this "
                            "instant: try again",
                            wanted));
  }
}

// By its program: its id here need not be the one that it has there.
std::size_t Restorer::index_of(const tracee::TracedThread& thread) const {
  const RemotePtr program(tracee::stub_program(thread.registers()));
  auto found = std::find(thread_programs_.begin(), thread_programs_.end(), program);
  TELEFORK_ASSERT(found != thread_programs_.end());
  return static_cast<std::size_t>(found - thread_programs_.begin());
}

// Whoever is killed loses its threads one by one.
void Restorer::stop_other_threads() {
  std::vector<tracee::TracedThread> stopped;
  for (const pid_t tid : kernel::list_threads(blank_->pid())) {
    if (tid == blank_->pid()) continue;
    stopped.push_back(tracee::TracedThread::seize(tid, PTRACE_O_EXITKILL));
    stopped.back().request_stop();
  }
  if (stopped.size() != thread_programs_.size()) {
    throw Error(Code::kGone, fmt::format("process {} has ended", blank_->pid()));
  }
  std::vector<std::pair<std::size_t, tracee::TracedThread>> in_order;
  for (tracee::TracedThread& thread : stopped) {
    thread.await_stop();
    const std::size_t index = index_of(thread);
    in_order.emplace_back(index, std::move(thread));
  }
  std::sort(in_order.begin(), in_order.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [index, thread] : in_order) other_threads_.push_back(std::move(thread));
}

void Restorer::restore_threads() {
  const std::uint32_t old_pid = process().getPid();
  auto new_pid = static_cast<std::uint32_t>(blank_->guest_pid());
  auto first = threads_.front().get<Thread>();
  if (first.getTid() != old_pid) {
    throw Error(Code::kRefused, "its first thread has ended, and the others live on");
  }
  TELEFORK_ASSERT(new_pid == old_pid || !must_keep_ids());
  start_other_threads();
  SyscallProgram main = thread_program(first, true);
  {
    tracee::SameCpu turns(blank_->pid());
    blank_->stub().run(main);
  }
  // glibc keeps the thread's id in the thread control block, where clear_child_tid points to.
  if (new_pid != old_pid) {
    tracee::write_object(blank_->pid(), RemotePtr(first.getClearChildTid()), new_pid);
  }
  auto warn_function = [this](const std::string& text) { warn(text); };
  restore_scheduling(blank_->pid(), first, warn_function);
  blank_->thread().set_leads(threads_.size() > 1);
  stop_other_threads();
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    auto thread = threads_[i].get<Thread>();
    tracee::TracedThread& traced = other_threads_[i - 1];
    tracee::ThreadState state = decode_thread_state(thread);
    traced.set_xstate(state.xstate);
    traced.set_registers(state.registers);
    traced.set_signal_mask(state.signal_mask);
    restore_scheduling(traced.tid(), thread, warn_function);
  }
}

pid_t Restorer::release() {
  become_guest();
  return let_go();
}

// Each of its threads comes to that stop; what is done inside one of them goes on nevertheless.
void Restorer::stop() {
  if (::kill(blank_->pid(), SIGSTOP) != 0) throw_errno("stopping the guest");
  SyscallProgram program;
  program.call("stopping", SYS_getpid, {});
  blank_->stub().run(program);
  for (tracee::TracedThread& thread : other_threads_) {
    thread.resume(PTRACE_CONT);
    thread.await_stop();
  }
}

namespace {

void restore_dispatch(Thread::Reader thread, tracee::TracedThread& traced) {
  if (!thread.hasDispatch()) return;
  constexpr std::uint64_t kOn = 1;  // PR_SYS_DISPATCH_ON
  auto dispatch = thread.getDispatch();
  try {
    traced.set_dispatch({kOn, dispatch.getSelector(), dispatch.getOffset(), dispatch.getLength()});
  } catch (const Error& error) {
    if (error.error() != EIO) throw;
    throw Error(Code::kRefused,
                fmt::format("thread {} has its system calls dispatched "
                            "(PR_SET_SYSCALL_USER_DISPATCH), and to restore that takes Linux 6.4",
                            thread.getTid()));
  }
}

}  // namespace

void Restorer::become_guest() {
  parts_->socket_names.keep();
  parts_->segments.keep();
  parts_->named_memory.keep();
  tracee::ThreadState state = decode_thread_state(threads_.front().get<Thread>());
  blank_->stub().replace_with(state);
  // Nothing is done inside of it any more.
  restore_dispatch(threads_.front().get<Thread>(), blank_->thread());
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    restore_dispatch(threads_[i].get<Thread>(), other_threads_[i - 1]);
  }
}

pid_t Restorer::let_go() {
  return let_go_by([](tracee::TracedThread& leader) { leader.detach(); });
}

tracee::StopWatch Restorer::let_go_watched() {
  const pid_t pid = let_go_by([](tracee::TracedThread& leader) {
    leader.set_options(0);
    tracee::StopWatch::begin(leader);
  });
  return tracee::StopWatch::adopt(pid);
}

pid_t Restorer::let_go_by(const std::function<void(tracee::TracedThread&)>& let_leader_go) {
  // Of each its options go first: from here on the guest no longer dies with its tracer's death.
  tracee::TracedThread* last = nullptr;
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    tracee::TracedThread& thread = other_threads_[i - 1];
    if (static_cast<pid_t>(threads_[i].get<Thread>().getTid()) == settings_.last_released) {
      last = &thread;
    } else {
      thread.detach();
    }
  }
  pid_t pid = blank_->pid();
  let_leader_go(blank_->thread());
  if (last != nullptr) last->detach();
  other_threads_.clear();
  blank_->release();
  return pid;
}

}  // namespace telefork::restore
