#include "session/keeper.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "image/reader.h"
#include "kernel/pid_space.h"
#include "kernel/procfs_system.h"
#include "kernel/procfs_task.h"
#include "migrate/libc_watch.h"
#include "net/fd_passing.h"
#include "net/fd_stream.h"
#include "net/tls_stream.h"
#include "protocol/handshake.h"
#include "protocol/link.h"
#include "protocol/machine.h"
#include "proxy/stdio_pump.h"
#include "restore/tree_restorer.h"
#include "session/agent_socket.h"
#include "session/command_guest.h"
#include "session/data_bytes.h"
#include "session/file_negotiation.h"
#include "session/following.h"
#include "session/guest_members.h"
#include "session/guest_streams.h"
#include "session/guest_tree.h"
#include "session/handover.h"
#include "session/homebound.h"
#include "session/homeward.h"
#include "session/kept_guest.h"
#include "session/leaderless_group.h"
#include "session/memory_check.h"
#include "session/node_lease.h"
#include "session/node_link.h"
#include "session/registry.h"
#include "session/replacements.h"
#include "session/sent_signal.h"
#include "session/signal_fd.h"
#include "session/status_report.h"
#include "session/trust_channel.h"
#include "session/watch_loan.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using Purpose = image::schema::Header::Purpose;
using protocol::ReceivedMessage;
using protocol::schema::Message;

constexpr auto kBulkPatience = 10s;  // for a bulk connection that was announced

// Of the first stretch that the ids here have room for; 0: of none.
pid_t first_of(::capnp::List<std::uint32_t>::Reader stretches) {
  for (std::uint32_t start : stretches) {
    if (kernel::has_stretch(start)) return static_cast<pid_t>(start);
  }
  return 0;
}

class Keeper {
 public:
  explicit Keeper(KeeperSettings settings)
      : settings_(std::move(settings)),
        control_(settings_.control.get()),
        replacements_(settings_.resumes),
        link_(settings_.node,
              replacements_.of_control(std::move(settings_.control),
                                       std::move(settings_.control_out), settings_.node),
              nullptr),
        signals_({SIGCHLD, SIGTERM}),
        registered_(settings_.registry, {}) {}

  void run() {
    try {
      serve();
    } catch (const Error& error) {
      kill_descendants();
      link_.fail(with_cause_of_death(error));
    }
    kill_descendants();
    // Of agents that the guest had here.
    forget_ended_sessions(settings_.registry);
  }

 private:
  void serve();
  Error with_cause_of_death(const Error& error) const;
  void attach_bulk();
  void await_bulk();
  void watch_trust();
  protocol::schema::Prepare::Reader task() const { return (*task_)->getPrepare(); }
  bool returns() const { return task().getPurpose() == Purpose::RUN_ON; }
  void prepare();
  void host();
  void on_other_libc(const std::string& path);
  bool let_kept_follow(restore::RestoreSettings& settings);
  void receive_rounds();
  void receive_process(image::Reader& reader);
  void make_session(restore::RestoreSettings& settings);
  void get_ready_to_return();
  void on_session_message();
  void on_late_message(const ReceivedMessage& message);
  void drain_output();
  void send_home(const ReceivedSnapshot& caller);
  void note_for_the_way_home();
  std::vector<pid_t> list_others() const;
  void let_go_home();
  bool await_go();
  void release();
  void supervise();
  void let_go();
  void supervise_alone();
  void on_message(const ReceivedMessage& message);
  void on_signal_message(protocol::schema::Signal::Reader signal);
  void on_child_changes();
  void on_guest_change(int status);
  void tell_change(pid_t guest_pid, int status);
  void tell_changes(const std::vector<GuestMembers::Change>& changes);
  tracee::FrozenTree::Ways ways_to_freeze();
  void send_status_when_drained();
  void tell_of_memory();
  void hold_lease();
  void step(DestinationEvent event) { state_ = next_state(state_, event); }

  KeeperSettings settings_;
  int control_;  // of the link
  Replacements replacements_;
  protocol::Link link_;
  SignalFd signals_;
  RegistryEntry registered_;
  restore::OpenFiles files_{true};
  DestinationState state_ = DestinationState::kReceiving;
  std::uint64_t memory_kills_before_ = kernel::read_out_of_memory_kills();

  TrustAsker trust_;                      // of a session by key
  std::optional<ReceivedMessage> task_;   // what it was told to prepare
  std::optional<LeaderlessGroup> group_;  // until the guest is in it

  GuestStreams streams_;
  std::unique_ptr<restore::TreeRestorer> restorer_;
  std::optional<image::Reader> reader_;  // from the first record on
  bool rounds_over_ = false;
  std::optional<restore::PidNamespace> namespace_;  // until the guest has ended
  std::unique_ptr<CommandGuest> command_;
  std::optional<proxy::StdioPump> pump_;
  UniqueFd session_socket_;  // of a run_on: the guest comes home by it
  std::unique_ptr<net::Stream> page_connection_;
  std::unique_ptr<Following> following_;  // its memory, where that comes later
  std::optional<Homebound> homebound_;
  std::optional<KeptGuest> kept_;            // of a run_on that is to be kept
  std::map<unsigned, std::uint64_t> pipes_;  // of one that was moved: inodes of its streams
  restore::ArrivedFiles arrived_;            // and what came for it
  pid_t guest_ = 0;
  GuestMembers members_;  // the guest, and those that came with it
  std::optional<WatchLender> lender_;
  NodeLease lease_{link_, members_};
  std::vector<std::string> warnings_;  // of its restoring, for home
  std::optional<int> end_;             // the guest's wait status, until it was sent
  bool finished_ = false;              // no descendant is left
  bool homeless_ = false;              // detached: nobody is told of the guest any more
  bool told_of_all_memory_ = false;    // to who lists sessions
};

void Keeper::serve() {
  if (settings_.bulk_first) {
    await_bulk();
    attach_bulk();
    watch_trust();
  }
  for (;;) {
    ReceivedMessage message = link_.receive(net::Deadline::never());
    switch (message->which()) {
      case Message::CHECK_FILES:
        answer_about_files(message->getCheckFiles(), files_, link_);
        break;
      case Message::CHECK_MEMORY:
        answer_about_memory(message->getCheckMemory(), link_);
        break;
      case Message::PREPARE:
        if (task_) protocol::throw_unexpected(message, "streams");
        task_ = std::move(message);
        link_.set_interrupt(-1, {});
        trust_.ask();
        prepare();
        if (task().getLive()) receive_rounds();
        break;
      case Message::STREAMS:
        if (!task_) protocol::throw_unexpected(message, "prepare");
        streams_.make(message->getStreams());
        // Or that was awaited before its memory came.
        if (!reader_) trust_.await_answer(net::Deadline::in(kBulkPatience));
        host();
        return;
      case Message::ABORT:
        return;
      default:
        protocol::throw_unexpected(message, "prepare");
    }
  }
}

Error Keeper::with_cause_of_death(const Error& error) const {
  if (error.code() != Code::kGone) return error;
  if (kernel::read_out_of_memory_kills() == memory_kills_before_) return error;
  return {Code::kResources,
          error.text() + ": meanwhile the kernel there has killed for want of memory", ENOMEM};
}

// Home may be gone before it comes.
void Keeper::await_bulk() {
  pollfd entries[] = {{settings_.telepad.get(), POLLIN, 0}, {control_, POLLRDHUP, 0}};
  if (net::poll_until(entries, net::Deadline::in(kBulkPatience)) > 0 && entries[0].revents != 0) {
    return;
  }
  throw Error(Code::kLost, "the bulk connection did not come");
}

// The second connection of the session, which the telepad passes on; with it, where it is a TLS of
// its own, comes the secret that proves that it is home's.
void Keeper::attach_bulk() {
  if (!settings_.telepad) return;
  UniqueFd telepad = std::move(settings_.telepad);
  std::array<std::byte, protocol::kJoinSecretSize> secret;
  net::Deadline deadline = net::Deadline::in(kBulkPatience);
  net::ReceivedFds received = net::receive_fds(telepad.get(), secret, 1, deadline);
  if (received.fds.size() != 1) {
    throw Error(Code::kLost, "the bulk connection did not come");
  }
  UniqueFd bulk = std::move(received.fds[0]);
  if (settings_.bulk_first) {
    if (received.bytes != secret.size()) throw Error(Code::kCorrupt, "a secret of a wrong length");
    link_.set_bulk(net::TlsStream::accept(std::move(bulk), settings_.node, secret, deadline));
    trust_ = TrustAsker(std::move(telepad));
    return;
  }
  // The blank process does not wait where this one may, which looks for other things too meanwhile.
  constexpr timeval kPatience{1, 0};
  ::setsockopt(bulk.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
  link_.set_bulk(std::make_unique<net::FdStream>(std::move(bulk), settings_.node));
}

// Until there is a task.
void Keeper::watch_trust() {
  link_.set_interrupt(trust_.fd(), [this] {
    // A task would have nobody to ask: the next call opens a session with whoever listens then.
    if (!trust_.take_word()) throw Error(Code::kLost, "telepad has ended");
    if (auto join = trust_.take_join()) {
      // Home waits for that before it gives a task.
      page_connection_ = replacements_.of_pages(
          net::TlsStream::accept(std::move(join->connection), settings_.node, join->secret,
                                 net::Deadline::in(kBulkPatience)));
    }
  });
}

void Keeper::make_session(restore::RestoreSettings& settings) {
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  ask_for_credentials(ours.get());
  name_session_socket(theirs.get());
  session_socket_ = std::move(ours);
  settings.session_socket = std::move(theirs);
  settings.session_number = static_cast<int>(task().getSessionFd());
}

void Keeper::get_ready_to_return() {
  homebound_.emplace(guest_, static_cast<int>(task().getSessionFd()), streams_.inodes(),
                     restorer_->first(), settings_.pagemap,
                     following_ && following_->has_begun() ? following_.get() : nullptr);
  homebound_->watch_writes(restorer_->first().stub());
}

// The source looks at the process that comes meanwhile.
void Keeper::prepare() {
  settings_.steps.reach(Step::kExpecting);
  lease_.set_terms(Lease::Duration(task().getLeaseStopMs()),
                   Lease::Duration(task().getLeaseKillMs()));
  link_.set_patience(lease_.kill_after());
  attach_bulk();
  take_compression(task(), link_, page_connection_);
  if (task().getPurpose() == Purpose::EXEC) return;
  restore::RestoreSettings settings;
  auto want_pid = static_cast<pid_t>(task().getWantPid());
  group_.emplace(want_pid);
  settings.blank = {settings_.programs.blank, want_pid, task().getPidRequired(), group_->id()};
  settings.init_program = settings_.programs.init;
  settings.first_new_id = first_of(task().getNewIds());
  settings.bulk_fd = link_.bulk_fd();
  if (returns()) make_session(settings);
  kept_ = begin_to_keep(task(), settings_.guard, settings_.keep_kb);
  if (kept_) {
    settings.read_kept = [this](RemotePtr at, std::span<std::byte> to) { kept_->read(at, to); };
    settings.kept_follows = !task().getLazy() && let_kept_follow(settings);
  }
  if (task().getLazy()) {
    if (!page_connection_) page_connection_ = receive_page_connection(link_);
    following_ = std::make_unique<Following>(std::move(page_connection_), settings_.node,
                                             std::move(settings_.guard), true);
    settings.follow = following_->taker(returns());
  }
  if (task().getLive()) {
    settings.on_round = [this](std::uint32_t round, bool last) {
      rounds_over_ = last;
      if (!last) link_.send([round](Message::Builder message) { message.setStaged(round); });
    };
  }
  settings.live = true;
  settings.last_released = static_cast<pid_t>(task().getCaller());
  settings.tells_of_exe = false;  // docs/limits.md does, of every plain user
  settings.warn = [this](const std::string& text) { warnings_.push_back(text); };
  restorer_ = std::make_unique<restore::TreeRestorer>(std::move(settings));
}

// False: not here, where all of it is put in its place before the guest runs.
bool Keeper::let_kept_follow(restore::RestoreSettings& settings) {
  if (!may_follow(settings_.pagemap)) return false;
  auto [pager, server] = net::make_stream_pair();
  following_ = std::make_unique<Following>(std::move(pager), settings_.node,
                                           std::move(settings_.guard), false);
  settings.follow = [this, take = following_->taker(true),
                     stream = std::make_shared<std::unique_ptr<net::Stream>>(std::move(server))](
                        restore::LazyMemory lazy) {
    kept_->serve(std::move(*stream), lazy);
    take(std::move(lazy));
  };
  return true;
}

// The process runs at its home still. What else is to be known of it comes when they are over.
void Keeper::receive_rounds() {
  if (!restorer_) throw Error(Code::kCorrupt, "a command has no memory to come");
  trust_.await_answer(net::Deadline::in(kBulkPatience));
  reader_.emplace(link_.record_source(), &link_.bulk_source());
  while (!rounds_over_) {
    restorer_->take(*reader_);
    lease_.say_that_we_live();
  }
}

// What moves for good would mix the two when it loads a library.
void Keeper::on_other_libc(const std::string& path) {
  if (task().getPurpose() == Purpose::MOVE && !task().getLibcForce()) {
    throw Error(Code::kRefused, "refused: file " + path +
                                    ": the node has another C library; --libc=force tries it "
                                    "nevertheless");
  }
  warnings_.push_back(path + " is another C library here than the one in its memory");
}

void Keeper::receive_process(image::Reader& reader) {
  restorer_->set_streams(std::move(streams_.of_guest));
  migrate::LibcWatch watched(reader, [this](const std::string& path) { on_other_libc(path); });
  while (restorer_->take(watched)) lease_.say_that_we_live();
  group_->kill_leader();
  // The way back takes the same connection.
  if (!returns()) link_.close_bulk();
  settings_.steps.reach(Step::kArrived);
  restorer_->finish();
  group_.reset();
  guest_ = restorer_->pid();
  if (returns()) get_ready_to_return();
  if (task().getPurpose() == Purpose::MOVE) note_for_the_way_home();
}

// Home may call for it as long as it is here.
void Keeper::note_for_the_way_home() {
  pipes_ = streams_.inodes();
  arrived_ = restorer_->first().arrived_files();
}

std::vector<pid_t> Keeper::list_others() const {
  std::vector<pid_t> others = list_guests();
  std::erase_if(others, [this](pid_t pid) {
    return pid == guest_ || (namespace_ && pid == namespace_->init());
  });
  return others;
}

// They die with this process meanwhile, so that they do not run while home may have them whole.
tracee::FrozenTree::Ways Keeper::ways_to_freeze() {
  tracee::FrozenTree::Ways ways;
  ways.freeze = [this](pid_t pid) {
    std::vector<GuestMembers::Change> changes;
    try {
      tracee::FrozenProcess frozen =
          members_.freeze(pid, tracee::Patience{tracee::FrozenProcess::kLimit}, changes);
      tell_changes(changes);
      return frozen;
    } catch (const Error&) {
      tell_changes(changes);
      throw;
    }
  };
  ways.thaw = [this](tracee::FrozenProcess frozen) { members_.thaw(std::move(frozen)); };
  return ways;
}

void Keeper::let_go_home() {
  lease_.let_go_on();
  if (lender_) lender_->look();
  if (guest_ == 0 || task().getPurpose() != Purpose::MOVE) {
    link_.send([](Message::Builder message) {
      protocol::encode_failure(Error(Code::kGone, "the process has ended"), message.initStay());
    });
    return;
  }
  Homeward::Settings settings;
  settings.guest = guest_;
  settings.streams = pipes_;
  settings.files = arrived_;
  settings.registry = settings_.registry;
  settings.namespaces = registered_.info().namespaces;
  settings.pagemap = settings_.pagemap;
  settings.steps = settings_.steps;
  settings.list_all = [this] { return list_others(); };
  settings.has_lent_any = [this] { return members_.lends_any(); };
  settings.ways = ways_to_freeze();
  settings.tell_changes = [this] { tell_changes(members_.look()); };
  settings.hold_lease = [this] {
    lease_.say_that_we_live();
    lease_.throw_if_over();
  };
  settings.kill = [] { kill_descendants(); };
  Homeward homeward(link_, *pump_, std::move(settings));
  if (!homeward.run()) return;
  guest_ = 0;
  namespace_.reset();
  finished_ = true;
  step(DestinationEvent::kEnd);
}

void Keeper::host() {
  SessionInfo info;
  info.role = "guest";
  info.node = settings_.node;
  info.command = std::string(task().getDescription());
  info.state = std::string(state_name(state_));

  if (kept_) kept_->offer(link_, lease_.kill_after() / 4, as_bytes(task().getKeptToken()));
  if (!reader_) reader_.emplace(link_.record_source(), &link_.bulk_source());
  if (restorer_) {
    receive_process(*reader_);
  } else {
    command_ = std::make_unique<CommandGuest>(streams_.of_guest);
    command_->receive(*reader_);
    guest_ = command_->pid();
  }
  step(DestinationEvent::kWhole);
  settings_.steps.reach(Step::kWhole);
  info.pid = guest_;
  info.guest_pid = restorer_ ? restorer_->guest_pid() : guest_;
  members_ = GuestMembers(guest_, info.guest_pid,
                          restorer_ ? restorer_->groups_before() : std::map<pid_t, pid_t>());
  if (restorer_) info.namespaces = list_made_namespaces(guest_);
  if (following_) following_->report(info);
  auto finder = homebound_ ? homebound_->change_finder() : protocol::schema::ChangeFinder::NONE;
  info.changes_found_by = change_finder_name(finder);
  info.state = std::string(state_name(state_));
  link_.send([&](Message::Builder message) {
    auto ready = message.initReady();
    ready.setPid(static_cast<std::uint32_t>(guest_));
    ready.setGuestPid(static_cast<std::uint32_t>(info.guest_pid));
    ready.setSameUser(restorer_ && restorer_->first().has_same_user());
    ready.setChangeFinder(finder);
    auto warnings = ready.initWarnings(static_cast<unsigned>(warnings_.size()));
    for (unsigned i = 0; i < warnings.size(); ++i) warnings.set(i, warnings_[i]);
  });
  registered_.update(info);
  settings_.steps.reach(Step::kReadySent);
  if (!await_go()) return;
  info.state = std::string(state_name(state_));
  registered_.update(info);
  supervise();
}

// Nothing runs before this returns true.
bool Keeper::await_go() {
  ReceivedMessage message = link_.receive(net::Deadline::in(lease_.kill_after()));
  if (message->which() == Message::ABORT) {
    step(DestinationEvent::kAbort);
    return false;
  }
  if (message->which() != Message::GO) protocol::throw_unexpected(message, "go");
  settings_.steps.reach(Step::kGoSeen);
  if (!task().getDetached()) replacements_.begin(trust_, link_);
  pump_.emplace(proxy::StdioPump::at_keeper(link_, std::move(streams_.of_keeper[0]),
                                            std::move(streams_.of_keeper[1]),
                                            std::move(streams_.of_keeper[2])));
  if (restorer_) {
    release();
    if (following_) following_->let_come();
  } else {
    command_->start();
  }
  settings_.steps.reach(Step::kReleased);
  step(DestinationEvent::kGo);
  link_.send([](Message::Builder started) { started.setStarted(); });
  settings_.steps.reach(Step::kStarted);
  return true;
}

// Of one that is detached, or is a copy, nobody is told of the others.
void Keeper::release() {
  if (task().getDetached() || task().getOnlyFirst()) {
    restorer_->release();
  } else {
    std::vector<restore::TreeRestorer::Watched> others = restorer_->release_watched();
    if (!others.empty()) {
      lender_.emplace(settings_.registry, members_,
                      [this](const auto& changes) { tell_changes(changes); });
    }
    for (auto& watched : others) members_.add(std::move(watched));
  }
  namespace_ = restorer_->take_namespace();
  if (namespace_) namespace_->bind();
  restorer_.reset();
}

void Keeper::supervise() {
  lease_.begin();
  on_child_changes();  // it may have ended before the first poll
  for (;;) {
    std::vector<pollfd> entries = link_.poll_entries();
    entries.push_back({signals_.fd(), POLLIN, 0});
    pump_->add_interest(entries);
    entries.push_back({following_ ? following_->fd() : -1, POLLIN, 0});
    if (lender_) lender_->add_interest(entries);
    entries.push_back({session_socket_.get(), POLLIN, 0});
    bool now = link_.is_ready_now();
    net::poll_until(entries,
                    now ? net::Deadline::now() : net::Deadline::at(lease_.next_heartbeat()));
    while (auto signal = signals_.try_read()) {
      if (signal->ssi_signo == SIGTERM) throw Error(Code::kLost, "the keeper was told to end");
    }
    on_child_changes();
    if (kept_ && !finished_) kept_->check();
    if (lender_) lender_->look();
    if (following_ && !finished_) following_->check();
    if (following_ && following_->is_complete()) tell_of_memory();
    pump_->on_ready(entries);
    while (auto message = link_.try_receive()) {
      // Before what it says: it may be a SIGSTOP.
      lease_.let_go_on();
      if (!pump_->on_message(*message)) on_message(*message);
      if (homeless_) return supervise_alone();
    }
    if (entries.back().revents != 0) on_session_message();
    send_status_when_drained();
    hold_lease();
    if (finished_ && !end_) break;
  }
  link_.send([](Message::Builder message) { message.setFinished(); });
  link_.flush_to_other_end(net::Deadline::in(lease_.kill_after()));
}

// Home ends its own process when it hears that; whether it has heard it, it says to nobody. From
// here on nothing but the guest's end, or somebody who is asked by a fence, ends the session.
void Keeper::let_go() {
  homeless_ = true;
  SessionInfo info = registered_.info();
  info.state = "detached";
  registered_.update(info);
  try {
    link_.send([](Message::Builder message) { message.setFinished(); });
    link_.flush(net::Deadline::in(lease_.kill_after()));
  } catch (const Error&) {
    // It finds out by a fence, or not at all: then it does not run there any more either.
  }
}

void Keeper::supervise_alone() {
  while (!finished_) {
    pollfd entry{signals_.fd(), POLLIN, 0};
    net::poll_until({&entry, 1}, net::Deadline::never());
    while (auto signal = signals_.try_read()) {
      if (signal->ssi_signo == SIGTERM) return;
    }
    on_child_changes();
  }
}

// The function has returned there, or the program has closed the socket and has no way back.
void Keeper::on_session_message() {
  std::optional<ReceivedSnapshot> caller = receive_snapshot(session_socket_.get());
  if (!caller || caller->pid != guest_) {
    session_socket_.reset();
    return;
  }
  settings_.steps.reach(Step::kCalledHome);
  lease_.let_go_on();
  with_context("on the way home", [&] { send_home(*caller); });
}

// A signal comes too late for the guest here, and is home's again.
void Keeper::on_late_message(const ReceivedMessage& message) {
  if (message->which() != Message::SIGNAL) return on_message(message);
  link_.send([&](Message::Builder back) { back.setSignal(message->getSignal()); });
}

// All that it wrote, before whatever it does at home.
void Keeper::drain_output() {
  pump_->begin_drain();
  while (!pump_->drained()) {
    std::vector<pollfd> entries = link_.poll_entries();
    pump_->add_interest(entries);
    net::poll_until(entries, link_.is_ready_now() ? net::Deadline::now()
                                                  : net::Deadline::at(lease_.next_heartbeat()));
    pump_->on_ready(entries);
    while (auto message = link_.try_receive()) {
      if (!pump_->on_message(*message)) on_late_message(*message);
    }
    hold_lease();
  }
}

// Whatever comes of it, the guest does not run here again.
void Keeper::send_home(const ReceivedSnapshot& caller) {
  homebound_->freeze(caller.message);
  settings_.steps.reach(Step::kHeld);
  std::vector<pid_t> others = list_others();
  if (!others.empty()) {
    throw Error(
        Code::kRefused,
        fmt::format("process {}, which f or another thread began there, is there still: it would "
                    "stay behind; have whoever began it wait for it before f returns",
                    others.front()));
  }
  drain_output();
  if (kept_) kept_->announce();
  link_.send([](Message::Builder message) { message.setReturning(); });
  protocol::OwnMachine here;
  homebound_->send(link_, here.reader());
  link_.flush();
  settings_.steps.reach(Step::kSentHome);
  for (;;) {
    // What is on its way still may take longer than home is silent for.
    ReceivedMessage message = link_.receive_while_heard();
    if (message->which() == Message::DISMISS) break;
    if (!pump_->on_message(message)) on_late_message(message);
  }
  link_.close_bulk();
  if (kept_) {
    kept_->keep(guest_, settings_.pagemap, homebound_->changed(),
                following_ ? following_->missing() : std::vector<kernel::PageRun>());
    if (task().getRepeat()) kept_->tell(link_);
  }
  kill_descendants();
  guest_ = 0;
  finished_ = true;
  step(DestinationEvent::kEnd);
}

void Keeper::on_message(const ReceivedMessage& message) {
  switch (message->which()) {
    case Message::SIGNAL:
      on_signal_message(message->getSignal());
      break;
    case Message::CALL_HOME:
      let_go_home();
      break;
    case Message::STAY:  // it crossed our own
      break;
    case Message::ABORT:
      throw Error(Code::kGone, "home took the process back");
    case Message::DISMISS:
      if (task().getDetached()) return let_go();
      [[fallthrough]];
    default:
      protocol::throw_unexpected(message, "a signal");
  }
}

void Keeper::on_signal_message(protocol::schema::Signal::Reader signal) {
  std::vector<pid_t> pids;
  auto add = [&](std::uint32_t guest_pid) {
    const pid_t pid = members_.find(static_cast<pid_t>(guest_pid));
    if (pid != 0) pids.push_back(pid);
  };
  add(signal.getPid());
  for (const std::uint32_t other : signal.getOthers()) add(other);
  if (pids.empty()) return;
  // To all of a group by one call: no one of it runs on before the last one has it.
  const pid_t group = members_.group_of(pids);
  const bool to_group =
      signal.getFromTerminal() || (pids.size() > 1 && members_.list_new_of_group(group).empty());
  if (group != 0 && to_group) {
    ::kill(-group, static_cast<int>(signal.getNumber()));
    return;
  }
  if (signal.getFromTerminal()) {
    // Who of the group has no deputy gets it from here.
    const std::vector<pid_t> with_deputy = pids;
    for (const pid_t pid : with_deputy) {
      for (const pid_t other : members_.list_others_of_group(pid)) pids.push_back(other);
    }
  }
  for (const pid_t pid : pids) deliver_signal(pid, signal);
}

// Of others than the guest a continuation is not asked for: of who is traced from here it is its
// parent's to hear of, once (kernel/exit.c: wait_consider_task).
void Keeper::on_child_changes() {
  int status = 0;
  while (guest_ != 0 && ::waitpid(guest_, &status, WNOHANG | WUNTRACED | WCONTINUED | __WALL) > 0) {
    on_guest_change(status);
  }
  for (;;) {
    pid_t pid = ::waitpid(-1, &status, WNOHANG | __WALL);
    if (pid < 0) finished_ = true;  // ECHILD: nothing descends from here any more
    if (pid <= 0) return;
    if (pid == guest_) on_guest_change(status);
    if (!members_.has(pid)) continue;
    tell_changes(members_.take(pid, status));
  }
}

void Keeper::on_guest_change(int status) {
  if (WIFEXITED(status) || WIFSIGNALED(status)) {
    end_ = status;
    guest_ = 0;
    members_.forget_first();
    namespace_.reset();  // its init ends with the last process in it
    step(DestinationEvent::kEnd);
    // What it has begun may live for long.
    SessionInfo info = registered_.info();
    info.state = std::string(state_name(state_));
    registered_.update(info);
    settings_.steps.reach(Step::kEnded);
    pump_->begin_drain();
    return;
  }
  tell_change(0, status);
}

// 0: the guest, whose end waits for its output.
void Keeper::tell_change(pid_t guest_pid, int status) {
  const bool ended = WIFEXITED(status) || WIFSIGNALED(status);
  if (homeless_ || (lease_.holds() && !ended)) return;
  link_.send([&](Message::Builder message) {
    auto report = message.initStatus();
    fill_status(status, report);
    report.setPid(static_cast<std::uint32_t>(guest_pid));
  });
}

void Keeper::tell_changes(const std::vector<GuestMembers::Change>& changes) {
  for (const GuestMembers::Change& change : changes) tell_change(change.guest_pid, change.status);
}

// All output goes home before the status; and all memory of those that live on comes from there.
void Keeper::send_status_when_drained() {
  if (!end_ || !pump_->drained()) return;
  if (following_ && !following_->is_complete() && !finished_) return following_->let_rest_come();
  int status = *end_;
  end_.reset();
  tell_change(0, status);
  settings_.steps.reach(Step::kStatusSent);
}

// Who lists sessions sees how far it is.
void Keeper::tell_of_memory() {
  if (!following_ || told_of_all_memory_) return;
  // Asked first: what is told below is then its end.
  const bool all = following_->is_complete();
  SessionInfo info = registered_.info();
  following_->report(info);
  registered_.update(info);
  told_of_all_memory_ = all;
}

void Keeper::hold_lease() {
  if (lease_.say_that_we_live()) {
    tell_changes(members_.find_lost());
    tell_of_memory();
  }
  lease_.hold();
}

}  // namespace

void run_keeper(KeeperSettings settings) { Keeper(std::move(settings)).run(); }

}  // namespace telefork::session
