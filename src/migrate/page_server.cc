#include "migrate/page_server.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/quiet_thread.h"
#include "capture/zero_page.h"
#include "kernel/procfs.h"
#include "kernel/write_watch.h"
#include "tracee/memory.h"

namespace telefork::migrate {
namespace {

using kernel::PageRun;
using protocol::kMaxPagesInMessage;
using protocol::PageMessage;
using Kind = PageMessage::Kind;

// Of one who waits, at first; twice as much whenever he goes on where the last answer ended.
constexpr std::uint64_t kReadAhead = 16;
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

 private:
  KeptMemory memory_;
};

PageServer::PageServer(std::unique_ptr<net::Stream> stream, ServedMemory memory)
    : PageServer(std::move(stream),
                 fmt::format("the memory that process {} keeps for it here", memory.pid),
                 ranges_of(memory.mappings), std::make_unique<ProcessContent>(memory)) {
  for (const PageRun& run : memory.ahead) pages_.leave_out(run);
  thread_ = start_quiet_thread([this] { run(); });
}

PageServer::PageServer(std::unique_ptr<net::Stream> stream, const KeptMemory& memory)
    : PageServer(std::move(stream), "what was kept of its memory", ranges_of(memory.pages),
                 std::make_unique<KeptContent>(memory)) {
  thread_ = start_quiet_thread([this] { run(); });
}

PageServer::PageServer(std::unique_ptr<net::Stream> stream, std::string of,
                       const std::vector<ServedPages::Range>& ranges,
                       std::unique_ptr<Content> content)
    : stream_(std::move(stream)),
      of_(std::move(of)),
      content_(std::move(content)),
      pages_(ranges, [this](RemotePtr start, RemotePtr end) { return content_->look(start, end); }),
      buffer_(kMaxPagesInMessage * kPageSize),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      news_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      read_ahead_(kReadAhead) {
  if (!wake_ || !news_) throw_errno("making an eventfd");
  if (!ranges.empty()) next_push_ = ranges.front().start;
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
      error.add_context(of_);
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
    if (!busy && !wanted_.empty()) {
      answer(wanted_.front());
      wanted_.pop_front();
    } else if (!busy && may_push()) {
      push();
    } else if (!busy && behind_is_due_) {
      send_behind();
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
      pushing_ = !all_told_;
      return;
    case Kind::kWant:
      wanted_.emplace_back(message.address);
      return;
    case Kind::kPlaced:
      window_.confirmed(message.count, SendWindow::Clock::now());
      behind_is_due_ = behind_.pages > 0;
      note_completion();
      return;
    case Kind::kHold:
      pushing_ = false;
      behind_ = {};
      behind_is_due_ = false;
      return;
    case Kind::kEnough:
      enough_ = true;
      return;
    default:
      throw Error(Code::kCorrupt, "the other end sends pages, where it is to receive them");
  }
}

// The rest follows whom it is waited for by: most often he goes on from there. Who is not known to
// gets the page itself first, and is not to wait for others: whoever puts it in its place may have
// been woken on this processor. What lies behind it goes when it is there.
void PageServer::answer(RemotePtr address) {
  const bool reads_on = address == expected_want_;
  read_ahead_ = reads_on ? std::min(2 * read_ahead_, kMaxPagesInMessage) : kReadAhead;
  std::optional<ServedPages::Answer> answer = pages_.answer(address, read_ahead_);
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
  expected_want_ = run.start + now * kPageSize;
  next_push_ = expected_want_;
  behind_ = {expected_want_, run.pages - now};
  behind_is_due_ = false;
  if (answer->has_content) {
    send_pages({run.start, now});
  } else {
    pages_.mark_sent(run);
    stream_.send({Kind::kZeros, 0, run.start.value(), run.pages});
  }
}

void PageServer::send_behind() {
  const PageRun behind = std::exchange(behind_, {});
  behind_is_due_ = false;
  std::optional<PageRun> run = pages_.next(behind.start, behind.pages);
  if (!run || run->start != behind.start) return;
  expected_want_ = run->end();
  next_push_ = run->end();
  send_pages(*run);
}

void PageServer::borrow(UniqueFd control, UniqueFd pages) {
  std::lock_guard lock(mutex_);
  offered_.emplace(std::move(control), std::move(pages));
}

void PageServer::take_offer() {
  std::lock_guard lock(mutex_);
  if (!offered_) return;
  lender_ = std::move(offered_->first);
  lent_pages_ = std::move(offered_->second);
  offered_.reset();
  if (!stream_.can_splice()) return;
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

void PageServer::push_from_buffer() {
  std::optional<PageRun> run = pages_.next(next_push_, kPushPages);
  if (!run) return end_push();
  next_push_ = run->end();
  send_pages(*run);
}

void PageServer::ask_lender() {
  lent_ = pages_.next(next_push_, most_lent_);
  if (!lent_) return;
  next_push_ = lent_->end();
  pages_.mark_sent(*lent_);
  const iovec wanted{reinterpret_cast<void*>(lent_->start.value()), lent_->pages * kPageSize};
  if (::send(lender_.get(), &wanted, sizeof(wanted), MSG_NOSIGNAL) != ssize_t{sizeof(wanted)}) {
    throw Error(Code::kGone, "who has it has ended");
  }
}

void PageServer::send_lent() {
  const PageRun run = *std::exchange(lent_, {});
  window_.sent(run.pages * kPageSize, SendWindow::Clock::now());
  stream_.send_from(lent_pages_.get(), {Kind::kPages, 0, run.start.value(), run.pages});
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
  if (all_told_ && window_.under_way() == 0) set_complete();
}

void PageServer::set_complete() {
  std::lock_guard lock(mutex_);
  progress_.complete = true;
  ::eventfd_write(news_.get(), 1);
}

// Those that are all zeros are told as such: somebody may wait for them.
void PageServer::send_pages(const PageRun& run) {
  const std::span<std::byte> bytes = buffer_.bytes().first(run.pages * kPageSize);
  content_->read(run.start, bytes);
  pages_.mark_sent(run);
  std::uint64_t sent = 0;
  capture::split_by_zeros(bytes, [&](std::uint64_t first, std::uint64_t pages, bool zero) {
    const RemotePtr at = run.start + first * kPageSize;
    if (zero) {
      stream_.send({Kind::kZeros, 0, at.value(), pages});
      return;
    }
    const std::span<std::byte> piece = bytes.subspan(first * kPageSize, pages * kPageSize);
    window_.sent(piece.size(), SendWindow::Clock::now());
    stream_.send({Kind::kPages, 0, at.value(), pages}, piece);
    sent += pages;
  });
  std::lock_guard lock(mutex_);
  progress_.pages += sent;
}

}  // namespace telefork::migrate
