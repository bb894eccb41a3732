#include "capture/page_hashes.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "image/hash.h"
#include "kernel/procfs.h"

namespace telefork::capture {
namespace {

constexpr std::size_t kBuffer = 256 * 1024;

}  // namespace

PageHashes::PageHashes(pid_t pid, kernel::PageMapAbi abi)
    : map_(pid, abi), memory_(open_file(kernel::mem_path(pid), O_RDONLY)) {}

std::vector<PageHashes::Page> PageHashes::read_pages(const kernel::Vma& vma) const {
  std::vector<Page> pages;
  auto buffer = std::make_unique<std::byte[]>(kBuffer);
  for (const kernel::PageRun& run :
       map_.private_pages(vma.start, vma.end, kernel::PageMap::kind_of(vma))) {
    for (RemotePtr at = run.start; at < run.end();) {
      std::size_t size = std::min<std::uint64_t>(kBuffer, run.end() - at);
      ssize_t count = ::pread(memory_.get(), buffer.get(), size, static_cast<off_t>(at.value()));
      if (count < 0 && errno != EIO)
        throw_errno(fmt::format("reading memory at {:#x}", at.value()));
      std::span<std::byte> read(buffer.get(), count < 0 ? 0 : static_cast<std::size_t>(count));
      if (read.empty()) at = at + kPageSize;
      for (; read.size() >= kPageSize; read = read.subspan(kPageSize)) {
        pages.push_back({at, image::hash128(read.first(kPageSize))});
        at = at + kPageSize;
      }
    }
  }
  return pages;
}

void PageHashes::begin(const kernel::Vma& vma) {
  TELEFORK_ASSERT(!vma.shared && (before_.empty() || before_.back().at < vma.start));
  std::vector<Page> pages = read_pages(vma);
  before_.insert(before_.end(), pages.begin(), pages.end());
}

// Both lists rise.
ChangedPages PageHashes::changed(const kernel::Vma& vma) const {
  ChangedPages result;
  auto before = std::partition_point(before_.begin(), before_.end(),
                                     [&vma](const Page& page) { return page.at < vma.start; });
  auto drop_until = [&](RemotePtr end) {
    for (; before != before_.end() && before->at < end; ++before) {
      kernel::append_run(result.dropped, {before->at, 1});
    }
  };
  for (const Page& page : read_pages(vma)) {
    drop_until(page.at);
    bool known = before != before_.end() && before->at == page.at;
    bool same = known && before->hash == page.hash;
    if (known) ++before;
    if (!same) kernel::append_run(result.written, {page.at, 1});
  }
  drop_until(vma.end);
  return result;
}

}  // namespace telefork::capture
