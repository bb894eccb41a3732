#include "kernel/pagemap.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_file.h"

namespace telefork::kernel {
namespace {

constexpr std::size_t kRegions = 1024;  // 24 KB a call; more runs take more calls
constexpr std::size_t kEntries = 8192;  // 64 KB a call: 32 MB of address space

UniqueFd open_pagemap(pid_t pid) try {
  return open_file(pagemap_path(pid), O_RDONLY);
} catch (Error& error) {
  if (error.error() != ENOENT) throw;
  throw Error(Code::kGone, fmt::format("asking for the pages of process {}", pid), ESRCH);
}

std::size_t scan_once(const UniqueFd& fd, PagemapScanArg& query, std::vector<PageRegion>& regions,
                      pid_t pid) {
  query.vec = reinterpret_cast<std::uint64_t>(regions.data());
  query.vec_len = regions.size();
  query.walk_end = 0;
  int found;
  do {
    found = ::ioctl(fd.get(), kPagemapScan, &query);
  } while (found < 0 && errno == EINTR);
  if (found < 0) throw_errno(fmt::format("scanning the pages of process {}", pid));
  return static_cast<std::size_t>(found);
}

// Where the scan goes on. walk_end alone is wrong: the kernel walks in pieces as large as its own
// buffer, sets walk_end when one is full, and leaves it there when the last piece ends the walk
// (do_pagemap_scan in fs/proc/task_mmu.c, seen on 6.18). It would give the tail twice.
std::uint64_t next_start(const PagemapScanArg& query, const std::vector<PageRegion>& regions,
                         std::size_t found) {
  if (found < regions.size()) return query.end;
  return std::max(query.walk_end, regions[found - 1].end);
}

PageRun run_of(const PageRegion& region) {
  return {RemotePtr(region.start), (region.end - region.start) / kPageSize};
}

bool is_guard_page(std::uint64_t entry) { return (entry & kPagemapGuard) != 0; }

// Bit 58 says guard only since 6.15, and is always 0 before.
bool is_private_page(std::uint64_t entry) {
  if ((entry & (kPagemapPresent | kPagemapSwapped)) == 0) return false;
  return (entry & (kPagemapFile | kPagemapGuard)) == 0;
}

void append_entries(std::vector<PageRun>& runs, RemotePtr start, const std::uint64_t* entries,
                    std::size_t count, bool (*test)(std::uint64_t entry)) {
  for (std::size_t i = 0; i < count; ++i)
    if (test(entries[i])) append_run(runs, {start + i * kPageSize, 1});
}

off_t seek(const UniqueFd& file, std::uint64_t offset, int whence) {
  off_t found = ::lseek(file.get(), static_cast<off_t>(offset), whence);
  // ENXIO: nothing but a hole, or nothing at all, from here on.
  if (found < 0 && errno != ENXIO) throw_errno("looking for data in a shared mapping's file");
  return found;
}

PageRun whole(const Vma& vma) { return {vma.start, vma.size() / kPageSize}; }

}  // namespace

std::uint64_t count_pages(const std::vector<PageRun>& runs) {
  std::uint64_t pages = 0;
  for (const PageRun& run : runs) pages += run.pages;
  return pages;
}

void append_run(std::vector<PageRun>& runs, PageRun run) {
  if (run.pages == 0) return;
  if (!runs.empty() && runs.back().end() == run.start)
    runs.back().pages += run.pages;
  else
    runs.push_back(run);
}

PageMap::PageMap(pid_t pid, PageMapAbi abi) : pid_(pid), abi_(abi), fd_(open_pagemap(pid)) {}

std::vector<PageRun> PageMap::private_pages(RemotePtr start, RemotePtr end, Of of) const {
  TELEFORK_ASSERT(start.value() % kPageSize == 0 && end.value() % kPageSize == 0);
  if (start >= end) return {};
  if (abi_ == PageMapAbi::kEntries) return read_entries(start, end, is_private_page);
  return scan(start, end, kPageIsPresent | kPageIsSwapped, never_private(of));
}

std::vector<PageRun> PageMap::swapped_pages(RemotePtr start, RemotePtr end) const {
  TELEFORK_ASSERT(abi_ != PageMapAbi::kEntries);
  if (start >= end) return {};
  return scan(start, end, kPageIsSwapped, never_private() | kPageIsPresent);
}

// The file's, the zero page, a guard page.
std::uint64_t PageMap::never_private(Of of) const {
  std::uint64_t absent = kPageIsPfnZero;
  if (of == Of::kAny) absent |= kPageIsFile;
  if (abi_ == PageMapAbi::kScanGuards) absent |= kPageIsGuard;
  return absent;
}

std::vector<PageRun> PageMap::guard_pages(RemotePtr start, RemotePtr end) const {
  TELEFORK_ASSERT(start.value() % kPageSize == 0 && end.value() % kPageSize == 0);
  if (start >= end) return {};
  if (abi_ == PageMapAbi::kScanGuards) return scan(start, end, kPageIsGuard, 0);
  return read_entries(start, end, is_guard_page);
}

template <class OnRun>
void PageMap::scan_each(RemotePtr start, RemotePtr end, const Query& query, OnRun&& on_run) const {
  std::vector<PageRegion> regions(kRegions);
  PagemapScanArg argument{.size = sizeof(PagemapScanArg),
                          .flags = query.flags,
                          .end = end.value(),
                          .category_inverted = query.absent,
                          .category_mask = query.absent | query.needed,
                          .category_anyof_mask = query.wanted,
                          .return_mask = query.told};
  for (argument.start = start.value(); argument.start < argument.end;) {
    std::size_t found = scan_once(fd_, argument, regions, pid_);
    for (std::size_t i = 0; i < found; ++i) on_run(run_of(regions[i]), regions[i].categories);
    argument.start = next_start(argument, regions, found);
  }
}

std::vector<PageRun> PageMap::scan(RemotePtr start, RemotePtr end, std::uint64_t wanted,
                                   std::uint64_t absent, std::uint64_t needed) const {
  std::vector<PageRun> runs;
  // The kernel wants something to be told; where that tells touching regions apart, append_run
  // joins them.
  scan_each(start, end, {wanted, absent, needed, kPageIsPresent},
            [&runs](const PageRun& run, std::uint64_t) { append_run(runs, run); });
  return runs;
}

PageMap::Private PageMap::private_and_written_pages(RemotePtr start, RemotePtr end, Of of) const {
  TELEFORK_ASSERT(abi_ != PageMapAbi::kEntries);
  Private pages;
  if (start >= end) return pages;
  scan_each(
      start, end,
      {kPageIsPresent | kPageIsSwapped, never_private(of), 0, kPageIsPresent | kPageIsWritten},
      [&pages](const PageRun& run, std::uint64_t categories) {
        append_run(pages.all, run);
        if ((categories & kPageIsWritten) != 0) append_run(pages.written, run);
      });
  return pages;
}

std::vector<PageRun> PageMap::protect_written(RemotePtr start, RemotePtr end) const {
  TELEFORK_ASSERT(abi_ != PageMapAbi::kEntries);
  std::vector<PageRun> runs;
  if (start >= end) return runs;
  // Without kScanCheckWpAsync what is not watched is no error (pagemap_scan_test_walk in
  // fs/proc/task_mmu.c).
  scan_each(start, end,
            {kPageIsPresent | kPageIsSwapped, never_private(Of::kAnonymous),
             kPageIsWpAllowed | kPageIsWritten, kPageIsPresent, kScanWriteProtectMatching},
            [&runs](const PageRun& run, std::uint64_t) { append_run(runs, run); });
  return runs;
}

PageMap::Private PageMap::private_and_unprotected_pages(RemotePtr start, RemotePtr end,
                                                        std::vector<PageRun>& guards) const {
  TELEFORK_ASSERT(abi_ != PageMapAbi::kEntries);
  Private pages;
  if (start >= end) return pages;
  const std::uint64_t guard = abi_ == PageMapAbi::kScanGuards ? kPageIsGuard : 0;
  scan_each(start, end,
            {kPageIsPresent | kPageIsSwapped | guard, kPageIsPfnZero, 0,
             kPageIsPresent | kPageIsWritten | kPageIsWpAllowed | guard},
            [&](const PageRun& run, std::uint64_t categories) {
              if ((categories & guard) != 0) return append_run(guards, run);
              append_run(pages.all, run);
              const bool watched = (categories & kPageIsWpAllowed) != 0;
              if (!watched || (categories & kPageIsWritten) != 0) append_run(pages.written, run);
            });
  return pages;
}

std::vector<PageRun> PageMap::read_entries(RemotePtr start, RemotePtr end, EntryTest test) const {
  std::vector<PageRun> runs;
  std::vector<std::uint64_t> entries(kEntries);
  while (start < end) {
    std::uint64_t wanted = std::min<std::uint64_t>((end - start) / kPageSize, kEntries);
    ssize_t got = ::pread(fd_.get(), entries.data(), wanted * sizeof(std::uint64_t),
                          static_cast<off_t>(start.value() / kPageSize * sizeof(std::uint64_t)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno(fmt::format("reading the page map of process {}", pid_));
    std::size_t count = static_cast<std::size_t>(got) / sizeof(std::uint64_t);
    // The end of user space, or of a process whose memory is gone already.
    if (count == 0) break;
    append_entries(runs, start, entries.data(), count, test);
    start = start + count * kPageSize;
  }
  return runs;
}

std::vector<PageRun> shared_pages_of_file(const UniqueFd& file, const Vma& vma) {
  std::vector<PageRun> runs;
  std::uint64_t at = vma.offset;
  const std::uint64_t end = vma.offset + vma.size();
  while (at < end) {
    off_t data = seek(file, at, SEEK_DATA);
    if (data < 0 || static_cast<std::uint64_t>(data) >= end) break;
    off_t hole = seek(file, static_cast<std::uint64_t>(data), SEEK_HOLE);
    std::uint64_t first = round_down(static_cast<std::uint64_t>(data), kPageSize);
    // A hole that was punched meanwhile may leave no data here: go on behind it.
    std::uint64_t last = hole < 0 ? first : static_cast<std::uint64_t>(hole);
    last = std::min(round_up(std::max(last, first + 1), kPageSize), end);
    append_run(runs, {vma.start + (first - vma.offset), (last - first) / kPageSize});
    at = last;
  }
  return runs;
}

std::vector<PageRun> shared_pages(pid_t pid, const Vma& vma) {
  UniqueFd file(::open(map_files_path(pid, vma).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return {whole(vma)};
  return shared_pages_of_file(file, vma);
}

}  // namespace telefork::kernel
