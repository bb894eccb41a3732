#include "restore/huge_pages.h"

#include <algorithm>

#include <sys/mman.h>
#include <sys/syscall.h>

#include "kernel/abi.h"

namespace telefork::restore {
namespace {

// Made while the sender waits. On an idle machine 32 MB made 1 GB take a third longer than none.
constexpr std::uint64_t kMostAhead = 0;

}  // namespace

void HugePages::add(RemotePtr at, std::uint64_t size, std::uint64_t ahead,
                    tracee::SyscallProgram& program) {
  RemotePtr from(round_up(at.value(), kHugePageSize));
  RemotePtr until(round_down((at + size).value(), kHugePageSize));
  if (made_from_ <= from && from < made_until_) from = std::min(made_until_, std::max(from, until));
  if (from >= until) return;
  until = RemotePtr(round_down((at + size + std::min(ahead, kMostAhead)).value(), kHugePageSize));
  for (RemotePtr page = from; page < until; page = page + kHugePageSize) {
    program.call("populating memory", SYS_madvise, {page, kPageSize, kernel::kMadvPopulateWrite});
  }
  // Where it cannot be had, small pages will do.
  program.call_any("making huge pages", SYS_madvise, {from, until - from, kernel::kMadvCollapse});
  made_from_ = from;
  made_until_ = until;
}

}  // namespace telefork::restore
