#include "migrate/page_server.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/quiet_thread.h"
#include "capture/zero_page.h"
#include "kernel/procfs.h"
#include "kernel/write_watch.h"
#include "tracee/memory.h"
#include "tracee/snapshot.h"

namespace telefork::migrate {
namespace {

using kernel::PageRun;
using protocol::kMaxPagesInMessage;
using protocol::PageMessage;
using Kind = PageMessage::Kind;

// Of one who waits, at first; twice as much whenever he goes on where the last answer ended. What
// is kept here is not pushed, since most of it nobody may want, and costs no way: page by page.
constexpr std::uint64_t kReadAhead = 16;
constexpr std::uint64_t kReadAheadOfKept = 1;
// What is pushed at a time: whoever waits has to wait for it too.
constexpr std::uint64_t kPushPages = 128;

std::vector<ServedPages::Range> ranges_of(const std::vector<kernel::Vma>& mappings) {
  std::vector<ServedPages::Range> ranges;
  for (const kernel::Vma& vma : mappings) ranges.push_back({vma.start, vma.end});
  return ranges;
}

std::vector<ServedPages::Range> ranges_of(const std::vector<PageRun>& runs) {
  std::vector<ServedPages::Range> ranges;
  for (const PageRun& run : runs) ranges.push_back({run.start, run.end()});
  return ranges;
}

}  // namespace

class PageServer::Content {
 public:
  Content() = default;
  Content(const Content&) = delete;
  Content& operator=(const Content&) = delete;
  virtual ~Content() = default;

  virtual std::vector<PageRun> look(RemotePtr start, RemotePtr end) const = 0;
  // Whole pages.
  virtual void read(RemotePtr at, std::span<std::byte> to) const = 0;
  virtual std::uint64_t read_ahead() const { return kReadAhead; }
};

class PageServer::ProcessContent : public PageServer::Content {
 public:
  explicit ProcessContent(const ServedMemory& memory)
      : pid_(memory.pid),
        shares_pages_(memory.shares_pages),
        map_(memory.pid, memory.pagemap),
        memory_(open_file(kernel::mem_path(memory.pid), O_RDONLY)) {}

  std::vector<PageRun> look(RemotePtr start, RemotePtr end) const override {
    return map_.private_pages(start, end, kernel::PageMap::Of::kAnonymous);
  }

  void read(RemotePtr at, std::span<std::byte> to) const override {
    std::size_t done = shares_pages_ ? 0 : tracee::try_read_memory(pid_, at, to);
    while (done < to.size()) {
      const ssize_t got = ::pread(memory_.get(), to.data() + done, to.size() - done,
                                  static_cast<off_t>((at + done).value()));
      if (got > 0) {
        done += static_cast<std::size_t>(got);
      } else if (got == 0) {
        throw Error(Code::kGone, fmt::format("process {} has ended", pid_));
      } else if (errno != EINTR) {
        throw_errno(
            fmt::format("reading memory of process {} at {:#x}", pid_, (at + done).value()));
      }
    }
  }

 private:
  pid_t pid_;
  bool shares_pages_;
  kernel::PageMap map_;
  UniqueFd memory_;
};

class PageServer::KeptContent : public PageServer::Content {
 public:
  explicit KeptContent(KeptMemory memory) : memory_(std::move(memory)) {}

  std::vector<PageRun> look(RemotePtr start, RemotePtr end) const override {
    return kernel::subtract_runs(memory_.pages, start, end, {});
  }
  void read(RemotePtr at, std::span<std::byte> to) const override { memory_.read(at, to); }
  std::uint64_t read_ahead() const override { return kReadAheadOfKept; }

 private:
  KeptMemory memory_;
};

PageServer::Source::Source(std::uint32_t its_number, const std::vector<ServedPages::Range>& ranges,
                           std::unique_ptr<Content> its_content)
    : process(its_number),
      content(std::move(its_content)),
      pages(ranges, [this](RemotePtr start, RemotePtr end) { return content->look(start, end); }),
      dropped(pages),
      least_ahead(content->read_ahead()),
      read_ahead(least_ahead) {
  if (!ranges.empty()) next_push = ranges.front().start;
}

PageServer::Source::~Source() = default;

std::optional<PageRun> PageServer::Source::next(std::uint64_t limit) {
  if (over) return std::nullopt;
  return pages.next(next_push, limit);
}

PageServer::PageServer(std::unique_ptr<net::Stream> stream)
    : stream_(std::move(stream)),
      buffer_(kMaxPagesInMessage * kPageSize),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      news_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wake_ || !news_) throw_errno("making an eventfd");
}

PageServer::PageServer(std::unique_ptr<net::Stream> stream,
                       const std::vector<ServedMemory>& memories)
    : PageServer(std::move(stream)) {
  TELEFORK_ASSERT(!memories.empty());
  for (const ServedMemory& memory : memories) {
    auto [source, is_new] =
        sources_.try_emplace(memory.process, memory.process, ranges_of(memory.mappings),
                             std::make_unique<ProcessContent>(memory));
    for (const PageRun& run : memory.ahead) source->second.pages.leave_out(run);
  }
  start();
}

PageServer::PageServer(std::unique_ptr<net::Stream> stream, KeptMemory memory)
    : PageServer(std::move(stream)) {
  const std::vector<ServedPages::Range> ranges = ranges_of(memory.pages);
  sources_.try_emplace(0, 0U, ranges, std::make_unique<KeptContent>(std::move(memory)));
  start();
}

void PageServer::start() {
  pushed_ = &sources_.begin()->second;
  thread_ = start_quiet_thread([this] { run(); });
}

PageServer::~PageServer() {
  ::eventfd_write(wake_.get(), 1);
  thread_.join();
}

PageServer::Progress PageServer::progress() const {
  std::lock_guard lock(mutex_);
  return progress_;
}

void PageServer::check() const {
  std::lock_guard lock(mutex_);
  if (progress_.failure) throw Error(*progress_.failure);
}

void PageServer::run() {
  try {
    serve();
  } catch (Error& error) {
    std::lock_guard lock(mutex_);
    if (error.code() == Code::kLost) {
      progress_.closed = true;
    } else {
      error.add_context("the memory that is kept for it here");
      progress_.failure = error;
    }
  }
  ::eventfd_write(news_.get(), 1);
}

void PageServer::serve() {
  for (;;) {
    take_offer();
    stream_.flush_some();
    while (auto received = stream_.try_receive()) take(received->message);
    if (enough_) {
      stream_.close();
      return set_complete();
    }
    // The buffer is free when all of it has left.
    const bool busy = !stream_.flushed();
    Source* behind = nullptr;
    if (!busy && !wanted_.empty()) {
      const auto [source, address] = wanted_.front();
      wanted_.pop_front();
      answer(*source, address);
    } else if (!busy && may_push()) {
      push();
    } else if (!busy && (behind = find_behind_due()) != nullptr) {
      send_behind(*behind);
    } else {
      std::vector<pollfd> entries = stream_.poll_entries();
      entries.push_back({wake_.get(), POLLIN, 0});
      if (!stream_.is_ready_now()) net::poll_until(entries, net::Deadline::never());
    }
    eventfd_t end = 0;
    if (::eventfd_read(wake_.get(), &end) == 0) return;
  }
}

void PageServer::take(const PageMessage& message) {
  switch (message.kind) {
    case Kind::kBegin:
      begun_ = true;
      for (auto& [process, source] : sources_) drop_placed(source, DroppedPages::kLeast);
      pushing_ = !all_told_;
      return;
    case Kind::kWant:
      wanted_.emplace_back(&source_of(message), RemotePtr(message.address));
      return;
    case Kind::kPlaced: {
      Source& source = source_of(message);
      window_.confirmed(message.count, SendWindow::Clock::now());
      source.behind_is_due = source.behind.pages > 0;
      source.dropped.note_placed(message.count);
      drop_placed(source, DroppedPages::kLeast);
      note_completion();
      return;
    }
    case Kind::kHold:
      pushing_ = false;
      for (auto& [process, source] : sources_) {
        source.behind = {};
        source.behind_is_due = false;
      }
      return;
    case Kind::kOver: {
      Source& source = source_of(message);
      source.over = true;
      source.behind = {};
      source.behind_is_due = false;
      return;
    }
    case Kind::kEnough:
      enough_ = true;
      return;
    default:
      throw Error(Code::kCorrupt, "the other end sends pages, where it is to receive them");
  }
}

PageServer::Source& PageServer::source_of(const PageMessage& message) {
  auto found = sources_.find(message.process);
  if (found != sources_.end()) return found->second;
  throw Error(Code::kCorrupt, fmt::format("memory of process {} is wanted, of which none was left",
                                          message.process));
}

// Not before it runs: until then what went ahead may not be there.
void PageServer::drop_placed(Source& source, std::uint64_t least) const {
  if (!begun_ || !source.control) return;
  source.dropped.drop(least, [&source](const PageRun& run) {
    return tracee::try_ask_to_drop(source.control.get(), run.start, run.pages * kPageSize);
  });
}

// The rest follows whom it is waited for by: most often he goes on from there. Who is not known to
// gets the page itself first, and is not to wait for others: whoever puts it in its place may have
// been woken on this processor. What lies behind it goes when it is there.
void PageServer::answer(Source& source, RemotePtr address) {
  if (source.over) return;
  const bool reads_on = address == source.expected_want;
  source.read_ahead =
      reads_on ? std::min(2 * source.read_ahead, kMaxPagesInMessage) : source.least_ahead;
  std::optional<ServedPages::Answer> answer = source.pages.answer(address, source.read_ahead);
  {
    std::lock_guard lock(mutex_);
    ++progress_.wanted;
  }
  if (!answer) {
    // It is on its way, or was to be sent when there is room.
    if (lent_ && lent_->start <= address && address < lent_->end()) send_lent();
    return;
  }
  const PageRun& run = answer->run;
  const std::uint64_t now = reads_on || !answer->has_content ? run.pages : 1;
  pushed_ = &source;
  source.expected_want = run.start + now * kPageSize;
  source.next_push = source.expected_want;
  source.behind = {source.expected_want, run.pages - now};
  source.behind_is_due = false;
  if (answer->has_content) {
    send_pages(source, {run.start, now});
  } else {
    source.pages.mark_sent(run);
    stream_.send(source.message(Kind::kZeros, run));
  }
}

PageServer::Source* PageServer::find_behind_due() {
  for (auto& [process, source] : sources_) {
    if (source.behind_is_due) return &source;
  }
  return nullptr;
}

void PageServer::send_behind(Source& source) {
  const PageRun behind = std::exchange(source.behind, {});
  source.behind_is_due = false;
  std::optional<PageRun> run = source.pages.next(behind.start, behind.pages);
  if (!run || run->start != behind.start) return;
  source.expected_want = run->end();
  source.next_push = run->end();
  send_pages(source, *run);
}

void PageServer::borrow(UniqueFd control, UniqueFd pages) {
  TELEFORK_ASSERT(sources_.size() == 1);
  std::lock_guard lock(mutex_);
  offered_.push_back({&sources_.begin()->second, std::move(control), std::move(pages)});
}

void PageServer::let_drop(std::uint32_t process, UniqueFd control) {
  std::lock_guard lock(mutex_);
  offered_.push_back({&sources_.at(process), std::move(control), UniqueFd()});
}

void PageServer::take_offer() {
  std::lock_guard lock(mutex_);
  for (Offer& offer : std::exchange(offered_, {})) {
    offer.source->control = std::move(offer.control);
    if (offer.pages) lent_pages_ = std::move(offer.pages);
  }
  if (!lent_pages_ || most_lent_ > 0 || !stream_.can_splice()) return;
  // One is on its way while the next is lent: vmsplice(2) does not wait where not all has room.
  const int size = ::fcntl(lent_pages_.get(), F_GETPIPE_SZ);
  if (size < 0) throw_errno("asking for the size of a pipe");
  most_lent_ = std::min(kPushPages, static_cast<std::uint64_t>(size) / kPageSize / 2);
}

// What follows is lent while this is on its way.
void PageServer::push() {
  if (most_lent_ == 0) return push_from_buffer();
  if (!lent_) ask_lender();
  if (!lent_) return end_push();
  send_lent();
  if (pushing_) ask_lender();
}

// Of the one that somebody waited for last, or that was pushed, as long as there is any.
std::optional<PageRun> PageServer::next_to_push(std::uint64_t limit) {
  std::optional<PageRun> run = pushed_->next(limit);
  for (auto& [process, source] : sources_) {
    if (run) break;
    run = source.next(limit);
    if (run) pushed_ = &source;
  }
  if (run) pushed_->next_push = run->end();
  return run;
}

void PageServer::push_from_buffer() {
  std::optional<PageRun> run = next_to_push(kPushPages);
  if (!run) return end_push();
  send_pages(*pushed_, *run);
}

void PageServer::ask_lender() {
  lent_ = next_to_push(most_lent_);
  if (!lent_) return;
  pushed_->pages.mark_sent(*lent_);
  tracee::ask_to_lend(pushed_->control.get(), lent_->start, lent_->pages * kPageSize);
}

void PageServer::send_lent() {
  const PageRun run = *std::exchange(lent_, {});
  window_.sent(run.pages * kPageSize, SendWindow::Clock::now());
  pushed_->dropped.note_sent(run, true);
  stream_.send_from(lent_pages_.get(), pushed_->message(Kind::kPages, run));
  std::lock_guard lock(mutex_);
  progress_.pages += run.pages;
}

void PageServer::end_push() {
  pushing_ = false;
  all_told_ = true;
  {
    std::lock_guard lock(mutex_);
    progress_.all_sent = true;
  }
  stream_.send({Kind::kAll, 0, 0, 0});
  note_completion();
}

void PageServer::note_completion() {
  if (!all_told_ || window_.under_way() != 0) return;
  // Who ends the copies may have other things to do.
  for (auto& [process, source] : sources_) drop_placed(source, 0);
  set_complete();
}

void PageServer::set_complete() {
  std::lock_guard lock(mutex_);
  progress_.complete = true;
  ::eventfd_write(news_.get(), 1);
}

// Those that are all zeros are told as such: somebody may wait for them.
void PageServer::send_pages(Source& source, const PageRun& run) {
  const std::span<std::byte> bytes = buffer_.bytes().first(run.pages * kPageSize);
  source.content->read(run.start, bytes);
  source.pages.mark_sent(run);
  std::uint64_t sent = 0;
  capture::split_by_zeros(bytes, [&](std::uint64_t first, std::uint64_t pages, bool zero) {
    const PageRun part{run.start + first * kPageSize, pages};
    source.dropped.note_sent(part, !zero);
    if (zero) {
      stream_.send(source.message(Kind::kZeros, part));
      return;
    }
    const std::span<std::byte> piece = bytes.subspan(first * kPageSize, pages * kPageSize);
    window_.sent(piece.size(), SendWindow::Clock::now());
    stream_.send(source.message(Kind::kPages, part), piece);
    sent += pages;
  });
  std::lock_guard lock(mutex_);
  progress_.pages += sent;
}

}  // namespace telefork::migrate
