// The guest's threads: each is made by the stub, sets itself up, and waits; then all are stopped
// and given their registers.
#include <linux/sched.h>
#include <sched.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/cpu.h"
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

void add_own_directory(Thread::Reader thread, SyscallProgram& program) {
  const std::string cwd = thread.getCwd();
  program.call("giving a thread directories of its own", SYS_unshare, {CLONE_FS});
  program.call("changing to directory " + cwd, SYS_chdir, {program.text(cwd)});
  program.call("restoring the umask of a thread", SYS_umask, {thread.getUmask()});
}

}  // namespace

// What a thread has to ask the kernel for itself.
SyscallProgram Restorer::thread_program(Thread::Reader thread, bool main) {
  SyscallProgram program;
  tracee::add_xstate_room(decode_thread_state(thread).xstate, program);
  add_registrations(thread, program);
  if (thread.getOwnDirectory()) add_own_directory(thread, program);
  // The parent death signal, among what follows, is forgotten by it.
  if (thread.hasCredentials()) add_thread_credentials(thread.getCredentials(), program);
  add_thread_settings(thread, program);
  auto tid = main ? blank_->guest_pid() : static_cast<pid_t>(thread.getTid());
  add_pending(thread.getPending(), blank_->guest_pid(), tid, program);
  if (!thread.hasCredentials()) drop_spare_capabilities(program);
  if (main) add_dumpable(program);
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
  RemotePtr counter = stub.allocate(2 * sizeof(std::uint32_t));
  RemotePtr gate = counter + sizeof(std::uint32_t);
  tracee::write_object<std::uint64_t>(blank_->pid(), counter, 0);

  SyscallProgram program;
  std::vector<std::pair<SyscallProgram, RemotePtr>> loaded;
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    auto thread = threads_[i].get<Thread>();
    SyscallProgram own = thread_program(thread, false);
    RemotePtr address = stub.allocate(own.loaded_size());
    RemotePtr stack = stub.allocate(kThreadStack);
    tracee::StubProgram header{};
    header.done_counter = counter.value();
    header.gate = gate.value();
    tracee::write_memory(blank_->pid(), address, own.encode(address, header));
    tracee::write_object(blank_->pid(), stack + kThreadStack - sizeof(std::uint64_t),
                         address.value());
    add_thread_start({{stack, kThreadStack}, thread.getTid()}, program);
    loaded.emplace_back(std::move(own), address);
  }
  program.wait_until("waiting for the threads", counter,
                     static_cast<std::uint32_t>(threads_.size() - 1));
  try {
    stub.run(program);
  } catch (const Error& error) {
    // Free when the blank process was made (start.cc).
    if (error.error() != EEXIST) throw;
    throw Error(Code::kResources, error.text() + "; the id was free until now: try again");
  }
  for (auto& [own, address] : loaded) {
    std::vector<std::byte> bytes(own.loaded_size());
    tracee::read_memory(blank_->pid(), address, bytes);
    tracee::ProgramRun(own, std::move(bytes)).check(own);
  }
}

// By their ids as the guest sees them.
std::map<pid_t, pid_t> Restorer::threads_as_seen_here() const {
  std::map<pid_t, pid_t> tids;
  for (pid_t tid : kernel::list_threads(blank_->pid())) {
    tids[kernel::read_status(tid).ns_pids.back()] = tid;
  }
  return tids;
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
  std::map<pid_t, pid_t> tids = threads_as_seen_here();
  blank_->thread().set_leads(tids.size() > 1);
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    // Whoever is killed loses its threads one by one.
    auto found = tids.find(static_cast<pid_t>(threads_[i].get<Thread>().getTid()));
    if (found == tids.end()) {
      throw Error(Code::kGone, fmt::format("process {} has ended", blank_->pid()));
    }
    other_threads_.push_back(tracee::TracedThread::seize(found->second, PTRACE_O_EXITKILL));
    other_threads_.back().request_stop();
  }
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    auto thread = threads_[i].get<Thread>();
    tracee::TracedThread& traced = other_threads_[i - 1];
    traced.await_stop();
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

void Restorer::become_guest() {
  parts_->socket_names.keep();
  parts_->segments.keep();
  parts_->named_memory.keep();
  tracee::ThreadState state = decode_thread_state(threads_.front().get<Thread>());
  blank_->stub().replace_with(state);
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
