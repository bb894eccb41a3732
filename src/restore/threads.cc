// The guest's threads: each is made by the stub, sets itself up, and waits; then all are stopped
// and given their registers.
#include <linux/sched.h>
#include <sched.h>
#include <csignal>
#include <cstring>
#include <map>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/cpu.h"
#include "kernel/procfs_task.h"
#include "restore/restorer.h"
#include "restore/siginfo.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

using image::schema::Thread;
using tracee::SyscallProgram;

constexpr std::size_t kThreadStack = 1024;

void copy_exactly(::capnp::Data::Reader from, void* to, std::size_t size, const char* what) {
  if (from.size() != size) {
    throw Error(Code::kCorrupt,
                fmt::format("{} of a thread: {} bytes instead of {}", what, from.size(), size));
  }
  std::memcpy(to, from.begin(), size);
}

}  // namespace

tracee::ThreadState Restorer::thread_state(Thread::Reader thread) const {
  tracee::ThreadState state;
  copy_exactly(thread.getRegisters(), &state.registers.general, sizeof(state.registers.general),
               "the registers");
  state.xstate.assign(thread.getXstate().begin(), thread.getXstate().end());
  state.signal_mask = thread.getSignalMask();
  return state;
}

// What a thread has to ask the kernel for itself.
SyscallProgram Restorer::thread_program(Thread::Reader thread, bool main) {
  SyscallProgram program;
  std::string name = thread.getComm();
  program.call("naming a thread", SYS_prctl, {PR_SET_NAME, program.text(name), 0, 0, 0});
  program.call("restoring clear_child_tid", SYS_set_tid_address, {thread.getClearChildTid()});
  if (thread.getRobustList() != 0) {
    program.call("restoring a robust list", SYS_set_robust_list,
                 {thread.getRobustList(), thread.getRobustListSize()});
  }
  if (thread.getRseq() != 0) {
    program.call(
        "registering rseq", SYS_rseq,
        {thread.getRseq(), thread.getRseqSize(), thread.getRseqFlags(), thread.getRseqSignature()});
  }
  // SS_ONSTACK tells where the thread is, it cannot be asked for.
  stack_t alternate{reinterpret_cast<void*>(thread.getAltStack()),
                    static_cast<int>(thread.getAltStackFlags() & ~unsigned{SS_ONSTACK}),
                    thread.getAltStackSize()};
  if ((alternate.ss_flags & SS_DISABLE) == 0) {
    program.call("restoring an alternate signal stack", SYS_sigaltstack,
                 {program.object(alternate), 0});
  }
  program.call("restoring the timer slack", SYS_prctl,
               {PR_SET_TIMERSLACK, thread.getTimerSlack(), 0, 0, 0});
  // Of the blank it is another.
  program.call("restoring the parent death signal", SYS_prctl,
               {PR_SET_PDEATHSIG, thread.getParentDeathSignal(), 0, 0, 0});
  auto tid = main ? blank_->guest_pid() : static_cast<pid_t>(thread.getTid());
  for (::capnp::Data::Reader bytes : thread.getPending()) {
    siginfo_t info = decode_siginfo(bytes);
    program.call(fmt::format("queueing signal {}", info.si_signo), SYS_rt_tgsigqueueinfo,
                 {blank_->guest_pid(), tid, info.si_signo, program.object(info)});
  }
  drop_spare_capabilities(program);
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

    clone_args arguments{};
    arguments.flags =
        CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    arguments.stack = stack.value();
    arguments.stack_size = kThreadStack - sizeof(std::uint64_t);
    arguments.set_tid_size = 1;
    std::uint32_t tid = thread.getTid();
    tracee::Data tid_data = program.object(tid);
    tracee::Data data = program.object(arguments);
    program.point(data + offsetof(clone_args, set_tid), tid_data);
    program.call_expecting(fmt::format("making thread {}", tid), tid, SYS_clone3,
                           {data, sizeof(arguments)});
    loaded.emplace_back(std::move(own), address);
  }
  program.wait_until("waiting for the threads", counter,
                     static_cast<std::uint32_t>(threads_.size() - 1));
  stub.run(program);
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
  blank_->stub().run(main);
  // glibc keeps the thread's id in the thread control block, where clear_child_tid points to.
  if (new_pid != old_pid) {
    tracee::write_object(blank_->pid(), RemotePtr(first.getClearChildTid()), new_pid);
  }
  auto warn_function = [this](const std::string& text) { warn(text); };
  restore_scheduling(blank_->pid(), first, warn_function);
  std::map<pid_t, pid_t> tids = threads_as_seen_here();
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    pid_t tid = tids.at(static_cast<pid_t>(threads_[i].get<Thread>().getTid()));
    other_threads_.push_back(tracee::TracedThread::seize(tid, PTRACE_O_EXITKILL));
    other_threads_.back().request_stop();
  }
  for (std::size_t i = 1; i < threads_.size(); ++i) {
    auto thread = threads_[i].get<Thread>();
    tracee::TracedThread& traced = other_threads_[i - 1];
    traced.await_stop();
    tracee::ThreadState state = thread_state(thread);
    traced.set_xstate(state.xstate);
    traced.set_registers(state.registers);
    traced.set_signal_mask(state.signal_mask);
    restore_scheduling(traced.tid(), thread, warn_function);
  }
}

pid_t Restorer::release() {
  tracee::ThreadState state = thread_state(threads_.front().get<Thread>());
  blank_->stub().replace_with(state);
  // The options go first: from here on the guest no longer dies with its tracer's death.
  for (tracee::TracedThread& thread : other_threads_) thread.detach();
  other_threads_.clear();
  pid_t pid = blank_->pid();
  blank_->thread().detach();
  blank_->release();
  return pid;
}

}  // namespace telefork::restore
