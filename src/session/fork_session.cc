#include "session/fork_session.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "capture/guard_scan.h"
#include "image/writer.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_maps.h"
#include "kernel/procfs_task.h"
#include "migrate/save.h"
#include "net/address.h"
#include "session/agent_socket.h"
#include "session/description.h"
#include "session/handover.h"
#include "session/hollow.h"
#include "session/home.h"
#include "session/node_link.h"
#include "tracee/map_flags.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using image::schema::Header;
using Purpose = Header::Purpose;
using protocol::schema::Message;

[[noreturn]] void throw_that_it_was_killed() {
  throw Error(Code::kGone, "the process was killed before it was on its way");
}

// What a handler of pthread_atfork() has begun: from now on they run where the child runs. They
// leave nothing of their end in memory, which travels after it.
void end_other_threads(tracee::FrozenProcess& frozen, tracee::Stub& stub) {
  constexpr std::size_t kRobustListHead = 3 * sizeof(long);
  tracee::SyscallProgram exit;
  exit.call("ending a thread", SYS_set_tid_address, {0});
  exit.call("ending a thread", SYS_set_robust_list, {0, kRobustListHead});
  exit.call("ending a thread", SYS_exit, {0});
  for (tracee::TracedThread& thread : frozen.threads()) {
    if (thread.tid() == frozen.leader().tid()) continue;
    try {
      tracee::Stub(thread, stub).run(exit);
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
}

// The flags of its memory cost a walk of all its page tables, or a clone without pages, which it
// may be changed for (tracee/map_flags.h): it never runs again. What the clone would not show is
// memory that has not come yet.
bool is_worth_a_clone(pid_t snapshot) {
  constexpr std::uint64_t kLargeKb = 64 * 1024;
  return kernel::read_status(snapshot).anonymous_kb >= kLargeKb && !capture::is_guest(snapshot);
}

}  // namespace

void ForkSession::tell_snapshot(const Error& error) {
  send_verdict(call_.session_socket().get(), error);
}

void ForkSession::send_image(const telefork_snapshot& snapshot, RegistryEntry& registry,
                             const SessionInfo& info) {
  const AgentSettings& own = call_.settings();
  protocol::Link& link = call_.link();
  call_.ask_ahead_about_files();
  call_.announce(Purpose::FORK, snapshot, info.command);
  own.steps.reach(Step::kAnnounced);
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(snapshot_, 0);
  // It may have been stopped between its message and the read that it waits in; anywhere else the
  // result that the guest is given would be another call's.
  frozen.leader().run_into_system_call(SYS_read);
  const bool large = is_worth_a_clone(snapshot_);
  std::vector<kernel::Vma> map;
  std::optional<capture::GuardScan> guards;
  if (large) {
    map = kernel::read_maps(snapshot_);
    if (own.pagemap == kernel::PageMapAbi::kScanGuards) guards.emplace(snapshot_, own.pagemap, map);
  }
  own.steps.reach(Step::kFrozen);
  // It sits in a read: it waits for no signal.
  tracee::Stub::Options stub_options;
  stub_options.awaited_signals = 0;
  std::optional<tracee::Stub> stub;
  std::vector<kernel::PageRun> in_use;
  if (call_.is_lazy()) in_use = capture::find_places_in_use(frozen);
  if (large) {
    stub.emplace(frozen.leader(), snapshot_, stub_options);
    tracee::read_flags(*stub, map);
  }
  capture::Survey survey = call_.survey(snapshot_, snapshot, map.empty() ? nullptr : &map);
  call_.tell_streams();
  // The node has something to do now, and need not wait for this.
  registry.update(info);
  capture::LazyPlan plan = call_.memory().plan(survey, std::move(in_use));
  if (!stub) stub.emplace(frozen.leader(), snapshot_, stub_options);
  capture::CaptureSettings settings;
  settings.pagemap = own.pagemap;
  settings.signal_mask = snapshot.signal_mask;
  settings.system_call_result = TELEFORK_RESUMED;
  settings.pending_signals = false;
  settings.timers = false;
  settings.shares_pages = true;
  settings.lazy = &plan;
  settings.guard_scan = guards ? &*guards : nullptr;
  capture::Capture capture(survey, frozen, *stub, settings);
  image::Writer writer(link.record_sink(), link.bulk_sink());
  write_header(Purpose::FORK, call_.here().reader(), writer);
  // The keeper makes the child's process meanwhile.
  capture.write_metadata(writer, [&link] { link.flush_some(); });
  link.flush_some();
  own.steps.reach(Step::kDescribed);
  end_other_threads(frozen, *stub);
  capture.write_pages(writer);
  pages_ = call_.memory().serve(std::move(plan), snapshot_, true, own.pagemap);
  writer.end();
  link.flush();
  // The node need not wait for that. The snapshot is back in its read then, where the death of this
  // process ends it.
  stub->remove();
  own.steps.reach(Step::kSent);
}

void ForkSession::make_deputy(int session_fd) {
  HollowSettings settings{call_.settings().programs.deputy, session_fd,
                          call_.session_socket().get(),
                          call_.request().options.die_with_parent != 0 ? call_.program() : 0};
  settings.keeps_memory = pages_ != nullptr;
  KeptMemory kept = hollow(snapshot_, settings);
  memory_ = std::move(kept.keeper);
  if (pages_ && kept.lending) {
    pages_->borrow(std::move(kept.lending->control), std::move(kept.lending->pages));
  }
}

// When all has come there nobody needs it here.
void ForkSession::look_after_pages(RegistryEntry& registry) {
  if (!pages_) return;
  pages_->check();
  const migrate::PageServer::Progress progress = pages_->progress();
  if (!progress.complete && !progress.closed) return;
  end_pages();
  SessionInfo info = registry.info();
  info.follows = false;
  registry.update(info);
}

void ForkSession::end_pages() {
  pages_.reset();
  memory_.reset();
}

// After go: the child may run there, and the pid here is not to end before it is known not to.
void ForkSession::fence_off(RegistryEntry& registry) {
  SessionInfo info = registry.info();
  info.state = std::string(state_name(SourceState::kUnknown));
  registry.update(info);
  auto deadline =
      net::Deadline::at(fence_deadline(call_.link().last_heard() + call_.settings().lease.home));
  await_fence(call_.fence(), deadline, [this] { return !has_ended(snapshot_); });
}

void ForkSession::run(const std::function<void()>& on_started) {
  const AgentSettings& settings = call_.settings();
  std::optional<ReceivedSnapshot> received = receive_snapshot(call_.session_socket().get());
  protocol::Link& link = call_.link();
  if (!received) {
    link.send([](Message::Builder message) { message.setAbort("the program's fork failed"); });
    link.flush(net::Deadline::in(1s));
    return;
  }
  snapshot_ = received->pid;
  settings.steps.reach(Step::kForked);
  SignalFd signals({SIGCHLD});
  SessionInfo info;
  info.role = "away";
  info.pid = snapshot_;
  info.node = call_.node();
  SourceState state = SourceState::kSending;
  info.state = std::string(state_name(state));
  info.command = describe_command(snapshot_);
  call_.memory().say(info);
  RegistryEntry registry(settings.registry, {});
  UniqueFd held_socket;  // while it is open the process at home does not end
  try {
    // Until the supervisor sees to it: whoever kills the pid need not wait for the node.
    UniqueFd process = kernel::open_pidfd(snapshot_);
    link.set_interrupt(process.get(), throw_that_it_was_killed);
    send_image(received->message, registry, info);
    UniqueFd in = call_.take_stream(snapshot_, 0);
    UniqueFd out = call_.take_stream(snapshot_, 1);
    UniqueFd err = call_.take_stream(snapshot_, 2);
    UniqueFd complaints = err ? err.duplicate() : UniqueFd();
    proxy::StdioPump pump =
        proxy::StdioPump::at_home(link, std::move(in), std::move(out), std::move(err));
    protocol::ReceivedMessage ready = link.expect_while_heard(Message::READY);
    link.set_interrupt(-1, {});
    info.guest_pid = static_cast<pid_t>(ready->getReady().getPid());
    for (auto warning : ready->getReady().getWarnings()) info.warnings.emplace_back(warning);
    state = next_state(state, SourceEvent::kReady);
    info.state = std::string(state_name(state));
    settings.steps.reach(Step::kGivenUp);
    held_socket = call_.session_socket().duplicate();
    if (kernel::read_stat(snapshot_).state == 'Z') throw_that_it_was_killed();
    link.outlive_connection();
    link.send([](Message::Builder message) { message.setGo(); });
    link.flush();
    info.follows = pages_ != nullptr;
    registry.update(info);
    settings.steps.reach(Step::kGoSent);
    make_deputy(received->message.session_fd);
    settings.steps.reach(Step::kHollowed);
    on_started();
    deputy::Supervisor supervisor(tracee::StopWatch::adopt(snapshot_),
                                  std::move(call_.session_socket()), std::move(complaints));
    held_socket.reset();
    for (const std::string& warning : info.warnings) {
      supervisor.tell(fmt::format("process {} on {}: {}", snapshot_, call_.node(), warning));
    }
    HomeOptions options;
    options.lease = settings.lease;
    options.fence = call_.fence();
    options.on_turn = [this, &registry] { look_after_pages(registry); };
    options.before_end = [this] { end_pages(); };
    options.steps = settings.steps;
    Home(link, pump, supervisor, signals, registry, state, std::move(options)).run();
  } catch (const Error& error) {
    link.set_interrupt(-1, {});
    // Its parent hears of its end when its tracer has.
    ::waitpid(snapshot_, nullptr, WNOHANG | __WALL);
    if (state == SourceState::kSending) tell_snapshot(error);
    link.fail(error);
    if (state == SourceState::kSending) return;
    end_pages();
    fence_off(registry);
    tell_snapshot(error);
  }
}

}  // namespace telefork::session
