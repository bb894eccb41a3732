// Each thread: registers, and what the kernel keeps for it.
#include <sched.h>
#include <algorithm>
#include <csignal>
#include <optional>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "tracee/guest_stubs.h"

namespace telefork::capture {
namespace {

// So many threads are asked at once: each takes some pages of the stub's room meanwhile.
constexpr std::size_t kThreadsAtOnce = 64;

void fill_robust_list(pid_t tid, image::schema::Thread::Builder record) {
  std::uint64_t head = 0;
  std::size_t size = 0;
  if (::syscall(SYS_get_robust_list, tid, &head, &size) != 0) {
    throw_errno(fmt::format("reading the robust list of thread {}", tid));
  }
  record.setRobustList(head);
  record.setRobustListSize(size);
}

void fill_scheduling(pid_t tid, image::schema::Thread::Builder record) {
  errno = 0;
  int nice = ::getpriority(PRIO_PROCESS, static_cast<id_t>(tid));
  if (nice == -1 && errno != 0) throw_errno(fmt::format("reading the nice value of {}", tid));
  int policy = ::sched_getscheduler(tid);
  sched_param parameters{};
  if (policy < 0 || ::sched_getparam(tid, &parameters) != 0) {
    throw_errno(fmt::format("reading the scheduling policy of {}", tid));
  }
  record.setNice(nice);
  record.setPolicy(static_cast<std::uint32_t>(policy));
  record.setPriority(static_cast<std::uint32_t>(parameters.sched_priority));
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(tid, sizeof(cpus), &cpus) != 0) {
    throw_errno(fmt::format("reading the affinity of {}", tid));
  }
  // All that there are is no choice of the program's: it may use all that there are there too. The
  // number is a file for sysconf(3) to read.
  static const long all = ::sysconf(_SC_NPROCESSORS_ONLN);
  if (CPU_COUNT(&cpus) < all) record.setAffinity(as_data(cpus));
}

void fill_dispatch(const kernel::SyscallUserDispatch& dispatch,
                   image::schema::SyscallDispatch::Builder record) {
  record.setOffset(dispatch.offset);
  record.setLength(dispatch.length);
  record.setSelector(dispatch.selector);
}

}  // namespace

struct Capture::ThreadAnswers {
  std::string name;
  stack_t alternate;
  std::uint64_t clear_child_tid;
  int parent_death_signal;
  unsigned securebits;
  std::uint64_t timer_slack;
  int seccomp;  // as kernel::Status has it
  std::optional<std::uint32_t> own_personality;
};

// What only a thread itself can ask, or cheaper than another one.
class Capture::ThreadQuestions {
 public:
  explicit ThreadQuestions(unsigned personality_of_first)
      : personality_of_first_(personality_of_first) {
    name_ = program_.buffer(kNameSize);
    program_.call("asking for the name", SYS_prctl, {PR_GET_NAME, name_, 0, 0, 0});
    alternate_ = program_.buffer(sizeof(stack_t));
    program_.call("asking for the alternate signal stack", SYS_sigaltstack, {0, alternate_});
    clear_tid_ = program_.buffer(sizeof(std::uint64_t));
    program_.call("asking for clear_child_tid", SYS_prctl,
                  {PR_GET_TID_ADDRESS, clear_tid_, 0, 0, 0});
    death_ = program_.buffer(sizeof(int));
    program_.call("asking for the parent death signal", SYS_prctl,
                  {PR_GET_PDEATHSIG, death_, 0, 0, 0});
    // /proc tells it only to the thread itself, or to CAP_SYS_NICE.
    slack_ =
        program_.call("asking for the timer slack", SYS_prctl, {PR_GET_TIMERSLACK, 0, 0, 0, 0});
    // EINVAL where the kernel was built without.
    seccomp_ = program_.call_any("asking for seccomp", SYS_prctl, {PR_GET_SECCOMP, 0, 0, 0, 0});
    securebits_ =
        program_.call("asking for securebits", SYS_prctl, {PR_GET_SECUREBITS, 0, 0, 0, 0});
    personality_ = program_.call("asking for the personality", SYS_personality, {kOnlyAsk});
  }

  const tracee::SyscallProgram& program() const { return program_; }
  ThreadAnswers answers(const tracee::ProgramRun& run) const {
    const auto personality = static_cast<std::uint32_t>(run.result(personality_));
    const auto name = run.data(name_);
    return {reinterpret_cast<const char*>(name.data()),  // the kernel ends it by a zero
            run.object<stack_t>(alternate_),
            run.object<std::uint64_t>(clear_tid_),
            run.object<int>(death_),
            static_cast<unsigned>(run.result(securebits_)),
            static_cast<std::uint64_t>(run.result(slack_)),
            static_cast<int>(std::max<std::int64_t>(0, run.result(seccomp_))),
            personality == personality_of_first_ ? std::nullopt : std::optional(personality)};
  }

 private:
  static constexpr std::size_t kNameSize = 16;
  static constexpr std::uint32_t kOnlyAsk = 0xffffffff;

  unsigned personality_of_first_;
  tracee::SyscallProgram program_;
  tracee::Data name_, alternate_, clear_tid_, death_;
  tracee::Result slack_;
  tracee::Result seccomp_;
  tracee::Result securebits_;
  tracee::Result personality_;
};

void Capture::write_thread(tracee::TracedThread& thread, const tracee::Stub& stub,
                           const ThreadAnswers& own, image::RecordSink& sink) {
  pid_t tid = thread.tid();
  ::capnp::MallocMessageBuilder message;
  auto record = message.initRoot<image::schema::Thread>();
  record.setTid(stub.own_tid());
  record.setComm(own.name);

  tracee::Registers registers = stub.original().registers;
  const bool is_caller = tid == (settings_.caller != 0 ? settings_.caller : survey_.pid);
  if (settings_.system_call_result && is_caller) {
    tracee::set_system_call_result(registers, *settings_.system_call_result);
    tracee::forget_system_call(registers);
  } else {
    registers = tracee::keep_system_call(registers);
  }
  if (auto rseq = thread.rseq()) {
    record.setRseq(rseq->address);
    record.setRseqSize(rseq->size);
    record.setRseqSignature(rseq->signature);
    record.setRseqFlags(rseq->flags);
  }
  record.setRegisters(as_data(registers.general));
  const std::vector<std::uint8_t>& xstate = stub.original().xstate;
  record.setXstate(::capnp::Data::Reader(xstate.data(), xstate.size()));
  record.setSignalMask(settings_.signal_mask && is_caller ? *settings_.signal_mask
                                                          : stub.original().signal_mask);
  record.setAltStack(reinterpret_cast<std::uint64_t>(own.alternate.ss_sp));
  record.setAltStackSize(own.alternate.ss_size);
  record.setAltStackFlags(static_cast<std::uint32_t>(own.alternate.ss_flags));
  record.setClearChildTid(own.clear_child_tid);
  record.setTimerSlack(own.timer_slack);
  record.setParentDeathSignal(static_cast<std::uint32_t>(own.parent_death_signal));
  record.setSeccompMode(static_cast<std::uint32_t>(own.seccomp));
  if (own.own_personality) {
    record.setOwnPersonality(true);
    record.setPersonality(*own.own_personality);
  }
  if (survey_.own_credentials.contains(tid)) {
    fill_credentials(kernel::read_status(tid), own.securebits, record.initCredentials());
  }
  if (survey_.own_directories.contains(tid)) {
    record.setOwnDirectory(true);
    record.setCwd(kernel::read_cwd_link(tid));
    record.setRoot(kernel::read_root_link(tid));
    record.setUmask(kernel::read_status(tid).umask);
  }
  if (auto dispatch = thread.dispatch()) {
    if (!survey_.whole) {
      throw Error(Code::kRefused,
                  refuse(fmt::format("thread {}", tid), Reason::kSyscallDispatch).text());
    }
    fill_dispatch(*dispatch, record.initDispatch());
  }
  fill_robust_list(tid, record);
  fill_scheduling(tid, record);
  const std::vector<siginfo_t>& pending = pending_of_threads_[tid];
  auto waiting = record.initPending(static_cast<unsigned>(pending.size()));
  for (unsigned i = 0; i < waiting.size(); ++i) waiting.set(i, as_data(pending[i]));
  sink.write(image::RecordType::kThreads, message);
}

// The leader first, whether or not it is the one that the stub is in.
void Capture::write_threads(image::RecordSink& sink) {
  const ThreadQuestions questions(kernel::read_personality(survey_.pid));
  if (settings_.guests) return write_with_guests(settings_.guests(), questions, sink);
  if (settings_.before_threads) settings_.before_threads();
  std::vector<tracee::TracedThread*> others;
  for (tracee::TracedThread& thread : frozen_.threads()) {
    if (thread.tid() == stub_.thread().tid()) {
      write_guests(others, questions, sink);
      others.clear();
      write_thread(thread, stub_, questions.answers(stub_.run(questions.program())), sink);
    } else {
      others.push_back(&thread);
    }
  }
  write_guests(others, questions, sink);
}

void Capture::write_with_guests(tracee::GuestStubs& guests, const ThreadQuestions& questions,
                                image::RecordSink& sink) {
  const tracee::ProgramRun of_caller = stub_.run(questions.program());
  const std::vector<tracee::ProgramRun> runs = guests.run(questions.program());
  if (settings_.before_threads) settings_.before_threads();
  std::size_t index = 0;
  for (tracee::TracedThread& thread : frozen_.threads()) {
    if (thread.tid() == stub_.thread().tid()) {
      write_thread(thread, stub_, questions.answers(of_caller), sink);
    } else {
      write_thread(thread, guests[index], questions.answers(runs[index]), sink);
      ++index;
    }
  }
}

void Capture::write_guests(std::span<tracee::TracedThread* const> threads,
                           const ThreadQuestions& questions, image::RecordSink& sink) {
  for (; !threads.empty(); threads = threads.subspan(std::min(threads.size(), kThreadsAtOnce))) {
    const auto some = threads.first(std::min(threads.size(), kThreadsAtOnce));
    tracee::GuestStubs guests(some, stub_);
    const std::vector<tracee::ProgramRun> runs = guests.run(questions.program());
    for (std::size_t i = 0; i < some.size(); ++i) {
      write_thread(*some[i], guests[i], questions.answers(runs[i]), sink);
    }
    guests.remove();
  }
}

}  // namespace telefork::capture
