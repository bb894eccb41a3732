// The source's end of lazy migration: the memory of a process that runs elsewhere already, or of
// several. What it waits for there goes first, then the rest, in the order in which it comes to
// need it; then that of the next one.
//
//     PageServer server(std::move(stream), {memory});  // a thread serves from now on
//     ...
//     server.progress()
//
// The process stands still, or is a copy of the one that left; it is only read. The destructor ends
// the thread. A connection that is lost ends it too, which progress() tells: whoever is at the
// other end says on the control connection what that means. How much may be under way is bounded
// (send_window.h), so that what is waited for is not behind more than that.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/error.h"
#include "base/mapped_region.h"
#include "base/unique_fd.h"
#include "kernel/pagemap.h"
#include "migrate/dropped_pages.h"
#include "migrate/page_stream.h"
#include "migrate/send_window.h"
#include "migrate/served_pages.h"

namespace telefork::migrate {

struct ServedMemory {
  pid_t pid = 0;
  // A copy of another process, with which it has its pages in common: reading them is not to copy
  // them (docs/benchmarks.md).
  bool shares_pages = false;
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  std::vector<kernel::Vma> mappings;   // private, anonymous and readable; rising
  std::vector<kernel::PageRun> ahead;  // of these: what of it holds anything went ahead
  std::uint32_t process = 0;           // as the messages call it
};

// Memory of which a copy is at hand.
struct KeptMemory {
  std::vector<kernel::PageRun> pages;  // rising
  // Whole pages of these; by the server's thread. Throws what is in the way.
  std::function<void(RemotePtr, std::span<std::byte>)> read;
};

class PageServer {
 public:
  struct Progress {
    std::uint64_t pages = 0;   // sent
    std::uint64_t wanted = 0;  // times that somebody waited there
    bool all_sent = false;
    bool complete = false;  // nobody there needs it: it is all in its place, or was given up
    bool closed = false;    // the other end has closed without a word
    // It serves no more, and not because the connection was lost.
    std::optional<Error> failure;
  };

  // Of at least one process.
  PageServer(std::unique_ptr<net::Stream> stream, const std::vector<ServedMemory>& memories);
  // Of one, here itself: what was kept of an earlier life of it.
  PageServer(std::unique_ptr<net::Stream> stream, KeptMemory memory);
  ~PageServer();
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;

  // Readable when it is complete, or serves no more.
  int fd() const { return news_.get(); }
  // From now on the process, or one with its memory, lends its pages (tracee/snapshot.h): what is
  // pushed is copied by nobody but who receives it, where the connection can do that. Both stay
  // open as long as this serves. Of one process alone. It drops them too, as in let_drop().
  void borrow(UniqueFd control, UniqueFd pages);
  // From now on what is in its place is dropped by the process (dropped_pages.h), which is a copy
  // that listens at `control`.
  void let_drop(std::uint32_t process, UniqueFd control);

  Progress progress() const;
  // Throws why it cannot serve.
  void check() const;

 private:
  class Content;
  class ProcessContent;
  class KeptContent;

  // One of the processes, and how far it is.
  struct Source {
    Source(std::uint32_t its_number, const std::vector<ServedPages::Range>& ranges,
           std::unique_ptr<Content> its_content);
    ~Source();
    // What is to be pushed next.
    std::optional<kernel::PageRun> next(std::uint64_t limit);
    protocol::PageMessage message(protocol::PageMessage::Kind kind,
                                  const kernel::PageRun& run) const {
      return {kind, process, run.start.value(), run.pages};
    }

    const std::uint32_t process;  // as the messages call it
    const std::unique_ptr<Content> content;
    ServedPages pages;
    DroppedPages dropped;
    UniqueFd control;  // where who has it hears what to lend, or drop
    RemotePtr next_push;
    RemotePtr expected_want;  // of who reads on from page to page
    const std::uint64_t least_ahead;
    std::uint64_t read_ahead;
    kernel::PageRun behind;  // what was asked for last, and may be wanted next
    bool behind_is_due = false;
    bool over = false;  // nobody there needs any more of it
  };

  // Without sources, and its thread.
  explicit PageServer(std::unique_ptr<net::Stream> stream);
  void start();
  void run();
  void serve();
  void take(const protocol::PageMessage& message);
  Source& source_of(const protocol::PageMessage& message);
  void drop_placed(Source& source, std::uint64_t least) const;
  void answer(Source& source, RemotePtr address);
  std::optional<kernel::PageRun> next_to_push(std::uint64_t limit);
  void take_offer();
  void push();
  void push_from_buffer();
  void ask_lender();
  void send_lent();
  void end_push();
  void note_completion();
  void set_complete();
  Source* find_behind_due();
  void send_behind(Source& source);
  void send_pages(Source& source, const kernel::PageRun& run);
  bool may_push() const { return (pushing_ || lent_) && window_.has_room(); }

  PageStream stream_;
  std::map<std::uint32_t, Source> sources_;  // by Source::process
  Source* pushed_ = nullptr;                 // the one whose pages are pushed
  MappedRegion buffer_;
  UniqueFd wake_;  // an eventfd: end
  UniqueFd news_;  // another
  bool enough_ = false;
  bool begun_ = false;  // it runs there, with what went ahead
  bool pushing_ = false;
  bool all_told_ = false;
  std::deque<std::pair<Source*, RemotePtr>> wanted_;
  SendWindow window_;
  std::uint64_t most_lent_ = 0;          // pages at once; 0: they are not borrowed
  UniqueFd lent_pages_;                  // a pipe, where they come
  std::optional<kernel::PageRun> lent_;  // was asked for, and is to be sent next

  mutable std::mutex mutex_;
  Progress progress_;
  struct Offer {
    Source* source;
    UniqueFd control;
    UniqueFd pages;  // of borrow()
  };
  std::vector<Offer> offered_;
  std::thread thread_;  // last: it uses all of these
};

}  // namespace telefork::migrate
