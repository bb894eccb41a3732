#include "migrate/pager.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include <sys/eventfd.h>

#include "base/error.h"
#include "base/quiet_thread.h"
#include "capture/zero_page.h"
#include "kernel/procfs_maps.h"
#include "kernel/write_watch.h"

namespace telefork::migrate {
namespace {

using kernel::PageRun;
using kernel::Userfault;
using protocol::PageMessage;
using Kind = PageMessage::Kind;
using Outcome = Userfault::Outcome;
using Change = Userfault::Event::Kind;

UniqueFd make_eventfd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) throw_errno("making an eventfd");
  return fd;
}

// With flags; empty: it has ended.
std::vector<kernel::Vma> map_unless_ended(pid_t pid) {
  try {
    return kernel::read_smaps(pid);
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return {};
  }
}

[[noreturn]] void throw_that_nobody_knows() {
  throw Error(Code::kUnsupported,
              "threads of it have moved memory that had not come yet (mremap(2)) at one time, "
              "and the kernel does not tell in which order; use mode eager");
}

bool is_end_of(const Userfault::Event& event, const Userfault::Event& move) {
  return event.kind == Change::kUnmapped && event.start == move.start && event.end == move.end;
}

// Whether `event` says something of the place that `move` went to.
bool is_about_target(const Userfault::Event& event, const Userfault::Event& move) {
  const RemotePtr end = move.to + (move.end - move.start);
  return event.kind != Change::kForked && event.start < end && move.to < event.end;
}

}  // namespace

Pager::Pager(std::unique_ptr<net::Stream> stream, std::string node, Guard guard)
    : stream_(std::move(stream)),
      node_(std::move(node)),
      guard_(std::move(guard)),
      news_(make_eventfd()),
      wake_(make_eventfd()) {}

Pager::~Pager() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void Pager::begin(pid_t guest, Userfault faults, std::span<const PageRun> ranges,
                  std::span<const PageRun> arrived, std::vector<PageRun> wiped, bool tracks,
                  std::uint32_t process) {
  guard_.hold(faults.fd());
  MissingPages missing;
  for (const PageRun& range : ranges) missing.add(range.start, range.pages);
  for (const PageRun& run : arrived) {
    missing.take(run.start, run.pages, [](RemotePtr, RemotePtr, std::uint64_t) {});
  }
  std::lock_guard lock(mutex_);
  TELEFORK_ASSERT(spaces_.empty() || (!tracks && !tracks_));
  if (failure_) std::rethrow_exception(failure_);
  if (progress_.complete) throw Error(Code::kGone, "what came with it has ended");
  Space& space = spaces_.emplace_back(process, std::move(faults), std::move(missing));
  space.guest = guest;
  space.wiped = std::move(wiped);
  tracks_ = tracks;
  if (thread_.joinable()) {
    ::eventfd_write(wake_.get(), 1);
  } else {
    thread_ = start_quiet_thread([this] { run(); });
  }
}

void Pager::let_come() {
  std::lock_guard lock(mutex_);
  to_send_.push_back({Kind::kBegin, 0, 0, 0});
  ::eventfd_write(wake_.get(), 1);
}

void Pager::hold() {
  std::lock_guard lock(mutex_);
  to_send_.push_back({Kind::kHold, 0, 0, 0});
  ::eventfd_write(wake_.get(), 1);
}

void Pager::fetch_moved() {
  std::unique_lock lock(mutex_);
  if (spaces_.empty()) return;
  Space& space = spaces_.front();
  auto moved = [&space] { return space.missing.moved_sources(); };
  for (const PageRun& run : moved()) {
    for (std::uint64_t page = 0; page < run.pages; ++page) {
      ask(space.process, run.start + page * kPageSize);
    }
  }
  ::eventfd_write(wake_.get(), 1);
  changed_.wait(lock, [&] { return failure_ || moved().empty(); });
  if (failure_) std::rethrow_exception(failure_);
}

void Pager::check() {
  eventfd_t count = 0;
  ::eventfd_read(news_.get(), &count);
  std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

Pager::Progress Pager::progress() const {
  std::lock_guard lock(mutex_);
  Progress progress = progress_;
  for (const Space& space : spaces_) {
    if (space.guest != 0) progress.missing += space.missing.count();
  }
  return progress;
}

std::vector<PageRun> Pager::missing(RemotePtr start, RemotePtr end) const {
  std::lock_guard lock(mutex_);
  if (spaces_.empty()) return {};
  return spaces_.front().missing.runs(start, end);
}

std::vector<PageRun> Pager::moved_to() const {
  std::lock_guard lock(mutex_);
  return moved_to_;
}

void Pager::run() {
  try {
    serve();
  } catch (Error& error) {
    error.add_context(node_ + ": memory that has not come yet");
    std::lock_guard lock(mutex_);
    failure_ = std::make_exception_ptr(error);
    ::eventfd_write(news_.get(), 1);
    changed_.notify_all();
  }
}

void Pager::serve() {
  while (poll_once()) {
    std::unique_lock lock(mutex_);
    // What the process does to its memory comes before what comes for it.
    for (Space& space : spaces_) take_events(space);
    if (!is_waiting_for_events()) receive();
    for (const PageMessage& message : std::exchange(to_send_, {})) stream_.send(message);
    stream_.flush_some();
    forget_ended();
    changed_.notify_all();
    if (!spaces_.empty() && std::all_of(spaces_.begin(), spaces_.end(),
                                        [](const Space& space) { return space.over; })) {
      // They have executed other programs, or have ended, and so have their children: nobody needs
      // it.
      on_all();
      guard_.release();
      lock.unlock();
      return say_that_it_is_enough();
    }
    tell_of_ended();
    if (!progress_.complete || tracks_) continue;
    guard_.release();
    spaces_.clear();  // who waits still looks again, at memory like any other
    if (stream_.flushed()) return;
  }
}

// Until the other end closes, which has read it then: what it has sent in vain meanwhile would
// have the kernel throw away what was not read there.
void Pager::say_that_it_is_enough() {
  try {
    stream_.send({Kind::kEnough, 0, 0, 0});
    do {
      stream_.flush_some();
      while (stream_.try_receive()) {
      }
    } while (await_stream());
  } catch (const Error& error) {
    if (error.code() != Code::kLost) throw;
  }
  stream_.close();
}

// False: it is over.
bool Pager::await_stream() {
  std::vector<pollfd> entries = stream_.poll_entries();
  entries.push_back({wake_.get(), POLLIN, 0});
  net::poll_until(entries, net::Deadline::never());
  eventfd_t count = 0;
  ::eventfd_read(wake_.get(), &count);
  std::lock_guard lock(mutex_);
  return !ended_;
}

// When all has come the other end may close at any time.
void Pager::receive() {
  while (!progress_.complete) {
    auto received = stream_.try_receive();
    if (!received) return;
    take(*received);
    for (Space& space : spaces_) take_events(space);
    if (is_waiting_for_events()) return;
  }
}

bool Pager::is_waiting_for_events() const {
  return std::any_of(spaces_.begin(), spaces_.end(),
                     [](const Space& space) { return !space.changes.empty(); });
}

// False: it is over.
bool Pager::poll_once() {
  std::vector<pollfd> entries;
  bool waits = false;
  {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    waits = is_waiting_for_events();
    const bool receives = !progress_.complete && !waits;
    if (receives || !stream_.flushed()) entries = stream_.poll_entries();
    for (const Space& space : spaces_) entries.push_back({space.faults.fd(), POLLIN, 0});
    entries.push_back({wake_.get(), POLLIN, 0});
    if ((receives && stream_.is_ready_now()) || !to_send_.empty()) return true;
  }
  // That a thread has gone on nobody tells.
  using namespace std::chrono_literals;
  net::poll_until(entries, waits ? net::Deadline::in(1ms) : net::Deadline::never());
  eventfd_t count = 0;
  ::eventfd_read(wake_.get(), &count);
  std::lock_guard lock(mutex_);
  return !ended_;
}

void Pager::take_events(Space& space) {
  while (auto event = space.faults.try_read()) {
    if (event->kind == Userfault::Event::Kind::kFault) {
      space.new_faults.push_back(event->start);
    } else {
      space.changes.push_back(std::move(*event));
    }
  }
  apply_changes(space);
  if (!space.faults.is_changing()) {
    // All was told: what is unmapped from now on is so after all of it.
    settle_changes(space);
    space.moved_away.clear();
  }
  if (!space.changes.empty()) return;
  for (const RemotePtr at : std::exchange(space.new_faults, {})) on_fault(space, at);
}

// Each change is told when the map is free again, so that those of two threads may be told of in
// another order than they came in; those of one thread never are, which waits until it was heard.
// So what a thread does knows of no other thread's change that was not told by then; but the kernel
// does, which puts memory that is moved to where other memory has just left. Hence the rules:
//
//   moved to where some is known  waits: who had that place has left it, and is about to say so
//   whatever is said of that      is that; or, if who has moved there has gone on since (it has
//     place meanwhile             said that its old place is unmapped), perhaps that one's own:
//                                 then it waits too, until all was told
//   a fault                       waits as long as anything does
void Pager::apply_changes(Space& space) {
  for (bool again = true; std::exchange(again, false);) {
    for (auto change = space.changes.begin(); change != space.changes.end();) {
      if (has_to_wait(space, change)) {
        ++change;
        continue;
      }
      apply(space, change++);
      again = true;
    }
  }
}

void Pager::apply(Space& space, Changes::iterator change) {
  Userfault::Event event = std::move(*change);
  space.changes.erase(change);
  on_change(space, std::move(event));
}

bool Pager::goes_where_some_is_known(const Space& space, const Userfault::Event& event) {
  return event.kind == Change::kMoved &&
         space.missing.knows_any(event.to, event.to + (event.end - event.start));
}

bool Pager::has_to_wait(const Space& space, Changes::const_iterator change) {
  if (goes_where_some_is_known(space, *change)) return true;
  for (auto move = space.changes.begin(); move != change; ++move) {
    if (move->kind != Change::kMoved) continue;
    if (change->kind == Change::kForked || is_end_of(*change, *move)) return true;
    const bool has_gone_on =
        std::any_of(std::next(move), change,
                    [&move](const Userfault::Event& event) { return is_end_of(event, *move); });
    if (has_gone_on && is_about_target(*change, *move)) return true;
  }
  return false;
}

// All was told, and so what each move waits for is here.
void Pager::settle_changes(Space& space) {
  for (apply_changes(space); !space.changes.empty(); apply_changes(space)) {
    apply(space, find_next(space));
  }
}

// What frees the place that a move waits for. Where two changes may have done that, and one of them
// has moved memory from there, nobody knows which was first.
Pager::Changes::iterator Pager::find_next(Space& space) {
  auto last_resort = space.changes.end();
  for (auto move = space.changes.begin(); move != space.changes.end(); ++move) {
    if (move->kind != Change::kMoved) continue;
    std::vector<Changes::iterator> frees;
    for (auto other = std::next(move); other != space.changes.end(); ++other) {
      if (other->kind != Change::kDropped && is_about_target(*other, *move)) frees.push_back(other);
    }
    // It has moved over memory of which nobody was to be told.
    if (frees.empty() && last_resort == space.changes.end()) last_resort = move;
    if (frees.empty()) continue;
    const bool moved_from_there = std::any_of(
        frees.begin(), frees.end(), [](const auto& one) { return one->kind == Change::kMoved; });
    if (frees.size() > 1 && moved_from_there) throw_that_nobody_knows();
    if (!moved_from_there || !goes_where_some_is_known(space, *frees.front())) return frees.front();
  }
  if (last_resort == space.changes.end()) throw_that_nobody_knows();
  return last_resort;
}

void Pager::on_fault(Space& space, RemotePtr at) {
  ++progress_.faults;
  std::optional<RemotePtr> source = space.missing.source_of(at);
  if (!source) return give_zero(space, at);
  space.waiting.emplace(at, Clock::now());
  ask(space.process, *source);
}

void Pager::ask(std::uint32_t process, RemotePtr source) {
  if (!asked_.emplace(process, source).second) return;
  to_send_.push_back({Kind::kWant, process, source.value(), 1});
}

// A page that moves is asked for where it was, and found where it is.
void Pager::on_change(Space& space, Userfault::Event event) {
  switch (event.kind) {
    case Change::kForked:
      guard_.hold(event.child.get());
      spaces_.emplace_back(space.process, Userfault(std::move(event.child)),
                           missing_in_child_of(space));
      return;
    case Change::kMoved:
      // That the old place is unmapped comes behind it, when another may have moved there.
      space.moved_away.emplace(event.start, event.end);
      if (&space == &spaces_.front()) {
        moved_to_ =
            kernel::unite_runs(moved_to_, {{event.to, (event.end - event.start) / kPageSize}});
      }
      space.missing.move(event.start, event.to, event.end - event.start);
      break;
    case Change::kUnmapped:
      if (auto moved = space.moved_away.find({event.start, event.end});
          moved != space.moved_away.end()) {
        space.moved_away.erase(moved);
        return;
      }
      [[fallthrough]];
    default:
      space.missing.forget(event.start, event.end);
      break;
  }
  wake(space, event.start, event.end);
}

// What it has told to be wiped in children (madvise(2), MADV_WIPEONFORK) is zeros there. Of the
// children's own children it is what they have from it. It may have ended since: then it is what it
// was when this was last looked at.
MissingPages Pager::missing_in_child_of(Space& space) {
  MissingPages missing = space.missing;
  if (space.guest == 0 || missing.count() == 0) return missing;
  const std::vector<kernel::Vma> map = map_unless_ended(space.guest);
  if (!map.empty()) space.wiped.clear();
  for (const kernel::Vma& vma : map) {
    if (!vma.has(kernel::VmFlag::kWipeOnFork)) continue;
    kernel::append_run(space.wiped, {vma.start, vma.size() / kPageSize});
  }
  for (const PageRun& run : space.wiped) missing.forget(run.start, run.end());
  return missing;
}

// They look again: there may be nothing now, or zeros.
void Pager::wake(Space& space, RemotePtr start, RemotePtr end) {
  for (const RemotePtr at : end_waiting(space, start, end)) space.faults.wake(at, kPageSize);
}

// In [start, end) nobody waits any more; where somebody did.
std::vector<RemotePtr> Pager::end_waiting(Space& space, RemotePtr start, RemotePtr end) {
  const auto first = space.waiting.lower_bound(start);
  const auto last = space.waiting.lower_bound(end);
  const Clock::time_point now = Clock::now();
  std::vector<RemotePtr> places;
  for (auto waiting = first; waiting != last; ++waiting) {
    places.push_back(waiting->first);
    progress_.blocked += now - waiting->second;
  }
  space.waiting.erase(first, last);
  return places;
}

void Pager::take(const PageStream::Received& received) {
  const PageMessage& message = received.message;
  const RemotePtr source(message.address);
  switch (message.kind) {
    case Kind::kPages:
      check_process(message.process);
      take_pages(message.process, source, received.pages);
      to_send_.push_back({Kind::kPlaced, message.process, 0, received.pages.size()});
      progress_.pages += message.count;
      break;
    case Kind::kZeros:
      check_process(message.process);
      for (Space& space : spaces_) {
        if (space.process == message.process) give_zeros(space, source, message.count);
      }
      break;
    case Kind::kAll:
      return on_all();
    default:
      throw Error(Code::kCorrupt, "the other end wants pages, where it is to send them");
  }
  asked_.erase(asked_.lower_bound({message.process, source}),
               asked_.lower_bound({message.process, source + message.count * kPageSize}));
}

void Pager::check_process(std::uint32_t process) const {
  if (std::any_of(spaces_.begin(), spaces_.end(),
                  [process](const Space& space) { return space.process == process; })) {
    return;
  }
  throw Error(Code::kCorrupt,
              "pages of process " + std::to_string(process) + " came, of which nothing is missing");
}

// What is lent (PageServer::borrow) nobody has looked at yet: zeros take no memory.
void Pager::take_pages(std::uint32_t process, RemotePtr source, std::span<const std::byte> bytes) {
  capture::split_by_zeros(bytes, [&](std::uint64_t first, std::uint64_t pages, bool zero) {
    const RemotePtr at = source + first * kPageSize;
    for (Space& space : spaces_) {
      if (space.process != process) continue;
      if (zero) {
        give_zeros(space, at, pages);
      } else {
        place(space, at, bytes.subspan(first * kPageSize, pages * kPageSize));
      }
    }
  });
}

// Where the process changes its map meanwhile, what it says of that comes first; what is left may
// have to go elsewhere then.
void Pager::place(Space& space, RemotePtr source, std::span<const std::byte> bytes) {
  for (bool again = true; again && !space.over;) {
    again = false;
    struct Piece {
      RemotePtr at;
      RemotePtr source;
      std::uint64_t pages;
    };
    std::vector<Piece> pieces;
    space.missing.take(source, bytes.size() / kPageSize,
                       [&](RemotePtr at, RemotePtr from, std::uint64_t pages) {
                         pieces.push_back({at, from, pages});
                       });
    for (const Piece& piece : pieces) {
      const auto part = bytes.subspan(piece.source - source, piece.pages * kPageSize);
      if (again) {
        space.missing.put_back(piece.at, piece.pages);
      } else {
        again = !place_run(space, piece.at, part);
      }
    }
    if (!again) return;
    // It comes, or the process has been killed while it changed something.
    do {
      pollfd entry{space.faults.fd(), POLLIN, 0};
      net::poll_until({&entry, 1}, net::Deadline::in(std::chrono::milliseconds(1)));
      take_events(space);
    } while (!space.changes.empty());
  }
}

// False: the process changes its map; what could not be placed is missing again. The kernel takes
// only what lies in one VMA, and into how many the process has cut its memory meanwhile nobody has
// said: where it takes nothing, half as much is tried.
bool Pager::place_run(Space& space, RemotePtr at, std::span<const std::byte> bytes) {
  const RemotePtr start = at;
  const RemotePtr end = at + bytes.size();
  std::uint64_t most = bytes.size() / kPageSize;
  while (at < end) {
    const std::uint64_t pages = std::min(most, (end - at) / kPageSize);
    const Userfault::Placed placed =
        space.faults.copy(at, bytes.subspan(at - start, pages * kPageSize), tracks_);
    at = at + placed.bytes;
    const bool nothing_done = placed.bytes == 0;
    // The kernel looks for the place before it sees that the map changes (mm/userfaultfd.c,
    // mfill_atomic).
    const bool is_changing = placed.outcome == Outcome::kChanging ||
                             (placed.outcome == Outcome::kNotThere && space.faults.is_changing());
    if (placed.outcome == Outcome::kDone) {
      most = bytes.size() / kPageSize;
    } else if (placed.outcome == Outcome::kOver) {
      space.over = true;
      return true;
    } else if (is_changing) {
      if (nothing_done) break;
    } else if (placed.outcome == Outcome::kNotThere && nothing_done && pages > 1) {
      most = pages / 2;
    } else if (nothing_done) {
      // Whoever traces the process has written there, or it was asked for zeros; or nothing is
      // mapped there that is watched. Who waits looks again.
      space.faults.wake(at, kPageSize);
      at = at + kPageSize;
    }
  }
  end_waiting(space, start, at);
  if (at < end) space.missing.put_back(at, (end - at) / kPageSize);
  return at >= end;
}

void Pager::give_zeros(Space& space, RemotePtr source, std::uint64_t pages) {
  std::vector<RemotePtr> waiting;
  space.missing.take(source, pages, [&](RemotePtr at, RemotePtr, std::uint64_t count) {
    const std::vector<RemotePtr> here = end_waiting(space, at, at + count * kPageSize);
    waiting.insert(waiting.end(), here.begin(), here.end());
  });
  for (const RemotePtr at : waiting) give_zero(space, at);
}

// It is missing no more, so that who comes there later finds this too.
void Pager::give_zero(Space& space, RemotePtr at) {
  const Userfault::Placed placed = space.faults.fill_with_zeros(at, kPageSize);
  if (placed.outcome == Outcome::kOver) space.over = true;
  if (placed.outcome == Outcome::kDone || placed.outcome == Outcome::kOver) return;
  space.faults.wake(at, kPageSize);
}

void Pager::on_all() {
  progress_.complete = true;
  ::eventfd_write(news_.get(), 1);
  for (Space& space : spaces_) {
    space.missing.clear();
    const RemotePtr end(~std::uint64_t{0});
    for (const RemotePtr at : end_waiting(space, RemotePtr(), end)) give_zero(space, at);
  }
}

// Those that came stay: they are asked for what is missing.
void Pager::forget_ended() {
  std::erase_if(spaces_, [](const Space& space) { return space.guest == 0 && space.over; });
}

// Of several: when one has ended, or has executed another program, and so have all that have its
// memory from it, no more of that is to come.
void Pager::tell_of_ended() {
  for (Space& space : spaces_) {
    if (space.guest == 0 || !space.over || space.told_over) continue;
    const auto has_the_same = [&space](const Space& other) {
      return &other != &space && other.process == space.process;
    };
    const auto came = [&space](const Space& other) { return &other != &space && other.guest != 0; };
    if (std::any_of(spaces_.begin(), spaces_.end(), has_the_same)) continue;
    if (std::none_of(spaces_.begin(), spaces_.end(), came)) continue;
    space.told_over = true;
    space.missing.clear();
    to_send_.push_back({Kind::kOver, space.process, 0, 0});
  }
}

}  // namespace telefork::migrate
