#include "migrate/page_rounds.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <capnp/message.h>
#include <fmt/format.h>
#include <sys/uio.h>

#include "base/error.h"
#include "capture/zero_page.h"

namespace telefork::migrate {
namespace {

using kernel::PageRun;

constexpr std::size_t kBatch = 2 * 1024 * 1024;
// Protected ahead of being read: what is written in between travels twice.
constexpr std::uint64_t kWindow = 32 * 1024 * 1024;
constexpr std::size_t kMaxVectors = 1024;  // IOV_MAX

iovec vector_of(const PageRun& run) {
  return {reinterpret_cast<void*>(run.start.value()), run.pages * kPageSize};
}

void write_record(const std::vector<PageRun>& runs, std::span<const std::byte> bytes,
                  image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto list = message.initRoot<image::schema::Pages>().initRuns(static_cast<unsigned>(runs.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setStart(runs[i].start.value());
    list[i].setPages(runs[i].pages);
  }
  sink.begin_payload_record(image::RecordType::kPages, message, bytes.size());
  sink.payload(bytes);
}

std::vector<PageRun> replace(const std::vector<PageRun>& all, const std::vector<PageRun>& old,
                             const std::vector<PageRun>& now) {
  if (all.empty()) return now;
  return kernel::unite_runs(kernel::subtract_runs(all, all.front().start, all.back().end(), old),
                            now);
}

}  // namespace

PageRounds::PageRounds(pid_t pid, kernel::PageMapAbi abi, UniqueFd userfaultfd,
                       std::vector<kernel::Vma> areas)
    : pid_(pid),
      abi_(abi),
      map_(pid, abi),
      watch_(pid, abi, std::move(userfaultfd)),
      areas_(std::move(areas)),
      buffer_(kBatch) {
  std::erase_if(areas_, [this](const kernel::Vma& area) { return !watch_.enlist(area); });
}

PageRounds::Round PageRounds::send(image::RecordSink& sink, const std::function<void()>& on_piece) {
  looked_at_.clear();
  came_.clear();
  were_zero_.clear();
  for (const kernel::Vma& area : areas_) {
    for (RemotePtr at = area.start; at < area.end;) {
      const RemotePtr end = std::min(area.end, at + kWindow);
      for (const PageRun& run : map_.protect_written(at, end)) {
        kernel::append_run(looked_at_, run);
        add(run, sink);
      }
      at = end;
      on_piece();
    }
  }
  flush(sink);
  sent_ = replace(sent_, looked_at_, came_);
  zeros_ = replace(zeros_, looked_at_, were_zero_);
  return {kernel::count_pages(looked_at_), kernel::count_pages(came_)};
}

std::unique_ptr<capture::LivePlan> PageRounds::plan() const {
  return std::make_unique<capture::LivePlan>(pid_, abi_, areas_, sent_, zeros_);
}

void PageRounds::add(PageRun run, image::RecordSink& sink) {
  while (run.pages > 0) {
    const std::uint64_t room = (kBatch - wanted_bytes_) / kPageSize;
    const std::uint64_t pages = std::min(room, run.pages);
    wanted_.push_back({run.start, pages});
    wanted_bytes_ += pages * kPageSize;
    run = {run.start + pages * kPageSize, run.pages - pages};
    if (wanted_bytes_ == kBatch) flush(sink);
  }
}

void PageRounds::flush(image::RecordSink& sink) {
  if (wanted_.empty()) return;
  read_wanted();
  kept_.clear();
  std::size_t from = 0;
  std::size_t to = 0;
  for (const PageRun& run : readable_) {
    to = keep(run, from, to);
    from += run.pages * kPageSize;
  }
  if (!kept_.empty()) write_record(kept_, buffer_.bytes().first(to), sink);
  wanted_.clear();
  wanted_bytes_ = 0;
}

// What it unmaps or protects meanwhile is not there to be read: it does not count as sent.
void PageRounds::read_wanted() {
  readable_.clear();
  std::span<std::byte> to = buffer_.bytes();
  for (std::size_t i = 0; i < wanted_.size(); i += kMaxVectors) {
    const auto part = std::span(wanted_).subspan(i, std::min(kMaxVectors, wanted_.size() - i));
    std::vector<iovec> remote;
    std::size_t bytes = 0;
    for (const PageRun& run : part) {
      remote.push_back(vector_of(run));
      bytes += remote.back().iov_len;
    }
    const iovec local = {to.data(), bytes};
    const ssize_t count = ::process_vm_readv(pid_, &local, 1, remote.data(), remote.size(), 0);
    if (count < 0 && errno != EFAULT) {
      const Code code = errno == ESRCH ? Code::kGone : Code::kFailed;
      throw_errno(fmt::format("reading memory of process {}", pid_), errno, code);
    }
    if (count == static_cast<ssize_t>(bytes)) {
      readable_.insert(readable_.end(), part.begin(), part.end());
      to = to.subspan(bytes);
    } else {
      const std::size_t before = readable_.size();
      read_singly(part, to);
      for (std::size_t k = before; k < readable_.size(); ++k) {
        to = to.subspan(readable_[k].pages * kPageSize);
      }
    }
  }
}

void PageRounds::read_singly(std::span<const PageRun> runs, std::span<std::byte> to) {
  for (const PageRun& run : runs) {
    const iovec local = {to.data(), run.pages * kPageSize};
    const iovec remote = vector_of(run);
    const ssize_t count = ::process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    const std::uint64_t pages = count < 0 ? 0 : static_cast<std::uint64_t>(count) / kPageSize;
    if (pages == 0) continue;
    readable_.push_back({run.start, pages});
    to = to.subspan(pages * kPageSize);
  }
}

bool PageRounds::is_area_start(RemotePtr at) const {
  const auto area = std::partition_point(
      areas_.begin(), areas_.end(), [at](const kernel::Vma& before) { return before.start < at; });
  return area != areas_.end() && area->start == at;
}

// Moves what is not zero of a run down to `to`. Where that ends.
std::size_t PageRounds::keep(PageRun run, std::size_t from, std::size_t to) {
  std::byte* const buffer = buffer_.data();
  capture::split_by_zeros(buffer_.bytes().subspan(from, run.pages * kPageSize),
                          [&](std::size_t first, std::size_t pages, bool zero) {
                            const PageRun part{run.start + first * kPageSize, pages};
                            kernel::append_run(zero ? were_zero_ : came_, part);
                            if (zero) return;
                            const std::size_t size = pages * kPageSize;
                            const std::byte* source = buffer + from + first * kPageSize;
                            if (buffer + to != source) std::memmove(buffer + to, source, size);
                            // A run is of one area only.
                            if (is_area_start(part.start)) {
                              kept_.push_back(part);
                            } else {
                              kernel::append_run(kept_, part);
                            }
                            to += size;
                          });
  return to;
}

}  // namespace telefork::migrate
