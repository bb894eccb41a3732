// The destination's end of lazy migration: a process runs whose memory has not all come yet. Pages
// that it waits for are asked for, and those that come are put in their places, whatever it does to
// its memory meanwhile (kernel/userfault.h).
//
//     Pager pager(std::move(stream), node, guard);
//     pager.begin(pid, std::move(faults), ranges, arrived, wiped, tracks);  // it stands still
//     ... of several each one, by its number ...
//     pager.let_come();                                             // it runs: all the rest too
//     ... poll pager.fd(); pager.check() ...
//
// A thread of its own serves the process, so that whoever traces it may wait for it. Children that
// the process forks are served as well. When all has come, and no writes are watched, nothing is
// left of it: the memory is as any other.
//
// Of a process that goes home again, with what it has changed:
//
//     pager.hold();              // what it has not touched stays where it is
//     pager.fetch_moved();       // but for what lies elsewhere now
//     pager.missing(start, end)  // these did not come, and so were not changed
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "kernel/pagemap.h"
#include "kernel/userfault.h"
#include "migrate/missing_pages.h"
#include "migrate/page_stream.h"

namespace telefork::migrate {

class Pager {
 public:
  struct Progress {
    std::uint64_t missing = 0;  // pages of the processes, those that hold nothing among them
    std::uint64_t pages = 0;    // came
    std::uint64_t faults = 0;   // times that it waited for one
    std::chrono::nanoseconds blocked{0};  // so long, all together
    bool complete = false;                // it depends on the source no more
  };

  // Who has the userfaultfds too, so that what the process has not got is not taken for zeros
  // should this process be killed. Called by the pager's thread, and by begin().
  struct Guard {
    std::function<void(int fd)> hold = [](int) {};
    std::function<void()> release = [] {};
  };

  // `node` names the source in Errors.
  Pager(std::unique_ptr<net::Stream> stream, std::string node, Guard guard);
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;

  // Of process `guest`. `ranges` are mapped and enlisted in `faults`; `arrived` are the pages of
  // them that have come already, `wiped` what its children find zeros in (MADV_WIPEONFORK).
  // `tracks`: pages are put there as not written (WriteWatch), and faults are answered to the end;
  // only of one alone. `process`: which of several it is to the source. Throws why what came with
  // it is not served any more.
  void begin(pid_t guest, kernel::Userfault faults, std::span<const kernel::PageRun> ranges,
             std::span<const kernel::PageRun> arrived, std::vector<kernel::PageRun> wiped,
             bool tracks, std::uint32_t process = 0);
  void let_come();
  void hold();
  // Waits until it has come.
  void fetch_moved();

  // Readable when it has failed, or when all has come; until check().
  int fd() const { return news_.get(); }
  // Throws why it has failed.
  void check();
  Progress progress() const;
  // In [start, end), rising.
  std::vector<kernel::PageRun> missing(RemotePtr start, RemotePtr end) const;
  // Where it has moved memory to; rising. Pages keep what WriteWatch knows of them when they move,
  // but there they are new.
  std::vector<kernel::PageRun> moved_to() const;

 private:
  using Clock = std::chrono::steady_clock;
  using Changes = std::list<kernel::Userfault::Event>;

  // A process that came, or one that such a one has forked.
  struct Space {
    Space(std::uint32_t source, kernel::Userfault its, MissingPages pages)
        : process(source), faults(std::move(its)), missing(std::move(pages)) {}

    std::uint32_t process;  // at the source: whose memory it has
    pid_t guest = 0;        // of one that came
    kernel::Userfault faults;
    MissingPages missing;
    std::vector<kernel::PageRun> wiped;              // likewise: what its children find zeros in
    std::map<RemotePtr, Clock::time_point> waiting;  // where somebody waits, and since when
    // What is not yet told, and where somebody waits of whom that may have to do with.
    Changes changes;
    std::vector<RemotePtr> new_faults;
    // Memory was moved from there: that it is unmapped is still to be told, or never.
    std::multiset<std::pair<RemotePtr, RemotePtr>> moved_away;
    bool over = false;
    bool told_over = false;  // the source knows
  };

  void run();
  void serve();
  bool poll_once();
  void receive();
  void say_that_it_is_enough();
  bool await_stream();
  void take(const PageStream::Received& received);
  void take_events(Space& space);
  void apply_changes(Space& space);
  void apply(Space& space, Changes::iterator change);
  static bool has_to_wait(const Space& space, Changes::const_iterator change);
  static bool goes_where_some_is_known(const Space& space, const kernel::Userfault::Event& event);
  void settle_changes(Space& space);
  static Changes::iterator find_next(Space& space);
  bool is_waiting_for_events() const;
  void on_fault(Space& space, RemotePtr at);
  void on_change(Space& space, kernel::Userfault::Event event);
  static MissingPages missing_in_child_of(Space& space);
  void check_process(std::uint32_t process) const;
  void take_pages(std::uint32_t process, RemotePtr source, std::span<const std::byte> bytes);
  void place(Space& space, RemotePtr source, std::span<const std::byte> bytes);
  bool place_run(Space& space, RemotePtr at, std::span<const std::byte> bytes);
  void give_zeros(Space& space, RemotePtr source, std::uint64_t pages);
  void give_zero(Space& space, RemotePtr at);
  void wake(Space& space, RemotePtr start, RemotePtr end);
  std::vector<RemotePtr> end_waiting(Space& space, RemotePtr start, RemotePtr end);
  void ask(std::uint32_t process, RemotePtr source);
  void on_all();
  void forget_ended();
  void tell_of_ended();

  PageStream stream_;
  std::string node_;
  Guard guard_;
  UniqueFd news_;  // an eventfd
  UniqueFd wake_;  // another: something is to be sent, or it is over

  mutable std::mutex mutex_;  // over all of this
  std::condition_variable changed_;
  std::list<Space> spaces_;  // the first that came is the first of them, for good
  std::set<std::pair<std::uint32_t, RemotePtr>> asked_;  // of whom, and where at the source
  std::vector<protocol::PageMessage> to_send_;
  std::vector<kernel::PageRun> moved_to_;
  bool tracks_ = false;
  bool ended_ = false;
  Progress progress_;
  std::exception_ptr failure_;
  std::thread thread_;  // last: it uses all of these
};

}  // namespace telefork::migrate
