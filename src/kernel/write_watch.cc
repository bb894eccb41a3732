#include "kernel/write_watch.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "kernel/abi.h"

namespace telefork::kernel {

int WriteWatch::flags() { return O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY; }

WriteWatch::WriteWatch(pid_t pid, PageMapAbi abi, UniqueFd userfaultfd)
    : map_(pid, abi), fd_(std::move(userfaultfd)) {
  if (abi == PageMapAbi::kEntries) {
    throw Error(Code::kUnsupported, "this kernel cannot scan for written pages (Linux 6.7 can)");
  }
  uffdio_api api{.api = UFFD_API, .features = kUffdFeatureWpAsync, .ioctls = 0};
  if (::ioctl(fd_.get(), UFFDIO_API, &api) != 0) {
    throw_errno("asking for asynchronous write protection", errno, Code::kUnsupported);
  }
}

namespace {

template <class T>
WriteWatch::Request request_of(unsigned long number, const T& argument) {
  WriteWatch::Request request{.number = number, .argument = {}};
  static_assert(sizeof(argument) <= sizeof(request.argument));
  std::memcpy(request.argument.data(), &argument, sizeof(argument));
  return request;
}

uffdio_register enlisting_of(const PageRun& run) {
  return {.range = {run.start.value(), run.pages * kPageSize},
          .mode = UFFDIO_REGISTER_MODE_WP,
          .ioctls = 0};
}

uffdio_writeprotect protecting_of(const PageRun& run) {
  return {.range = {run.start.value(), run.pages * kPageSize}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
}

}  // namespace

WriteWatch::Request WriteWatch::enlisting(const PageRun& run) {
  return request_of(UFFDIO_REGISTER, enlisting_of(run));
}

WriteWatch::Request WriteWatch::protecting(const PageRun& run) {
  return request_of(UFFDIO_WRITEPROTECT, protecting_of(run));
}

void WriteWatch::begin(const Vma& vma) {
  TELEFORK_ASSERT(!vma.shared && (before_.empty() || before_.back().end() <= vma.start));
  if (!enlist(vma)) {
    throw_errno(fmt::format("watching {:#x}-{:#x} for writes", vma.start.value(), vma.end.value()));
  }
  // Only what has content: the kernel would make page tables for all the rest.
  for (const PageRun& run : map_.private_pages(vma.start, vma.end, PageMap::kind_of(vma))) {
    protect(run);
    append_run(before_, run);
  }
}

bool WriteWatch::enlist(const Vma& vma) const {
  uffdio_register wanted = enlisting_of({vma.start, vma.size() / kPageSize});
  return ::ioctl(fd_.get(), UFFDIO_REGISTER, &wanted) == 0;
}

bool WriteWatch::is_free(const Vma& vma) const { return enlist(vma) || errno != EBUSY; }

void WriteWatch::protect(const PageRun& run) const {
  uffdio_writeprotect protect = protecting_of(run);
  int result;
  do {
    result = ::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &protect);
  } while (result != 0 && errno == EAGAIN);
  if (result != 0) {
    throw_errno(
        fmt::format("protecting {} pages at {:#x} from writes", run.pages, run.start.value()));
  }
}

WriteWatch::Changes WriteWatch::changes(const Vma& vma) const {
  PageMap::Private pages =
      map_.private_and_written_pages(vma.start, vma.end, PageMap::kind_of(vma));
  if (vma.is_file()) {
    pages.written = unite_runs(pages.written, map_.swapped_pages(vma.start, vma.end));
  }
  std::vector<PageRun> dropped = subtract_runs(before_, vma.start, vma.end, pages.all);
  return {std::move(pages.written), std::move(dropped), std::move(pages.all)};
}

std::vector<PageRun> unite_runs(const std::vector<PageRun>& a, const std::vector<PageRun>& b) {
  std::vector<PageRun> all;
  std::merge(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(all),
             [](const PageRun& one, const PageRun& other) { return one.start < other.start; });
  std::vector<PageRun> united;
  for (const PageRun& run : all) {
    if (united.empty() || united.back().end() < run.start) {
      united.push_back(run);
    } else if (run.end() > united.back().end()) {
      united.back().pages += (run.end() - united.back().end()) / kPageSize;
    }
  }
  return united;
}

namespace {

std::vector<PageRun>::const_iterator first_beyond(const std::vector<PageRun>& runs, RemotePtr at) {
  return std::partition_point(runs.begin(), runs.end(),
                              [at](const PageRun& run) { return run.end() <= at; });
}

}  // namespace

std::vector<PageRun> intersect_runs(const std::vector<PageRun>& a, const std::vector<PageRun>& b) {
  std::vector<PageRun> both;
  if (a.empty()) return both;
  auto other = first_beyond(b, a.front().start);
  for (const PageRun& run : a) {
    while (other != b.end() && other->end() <= run.start) ++other;
    for (auto next = other; next != b.end() && next->start < run.end(); ++next) {
      const RemotePtr start = std::max(run.start, next->start);
      append_run(both, {start, (std::min(run.end(), next->end()) - start) / kPageSize});
    }
  }
  return both;
}

std::vector<PageRun> subtract_runs(const std::vector<PageRun>& runs, RemotePtr start, RemotePtr end,
                                   const std::vector<PageRun>& others) {
  std::vector<PageRun> left;
  const auto first = first_beyond(runs, start);
  auto other = first_beyond(others, start);
  for (auto run = first; run != runs.end() && run->start < end; ++run) {
    RemotePtr at = std::max(run->start, start);
    const RemotePtr last = std::min(run->end(), end);
    while (at < last) {
      while (other != others.end() && other->end() <= at) ++other;
      const RemotePtr free_until =
          other == others.end() ? last : std::min(last, std::max(at, other->start));
      append_run(left, {at, (free_until - at) / kPageSize});
      at = other == others.end() ? last : std::min(last, std::max(free_until, other->end()));
    }
  }
  return left;
}

}  // namespace telefork::kernel
