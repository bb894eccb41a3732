#include "restore/huge_pages.h"

#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/page_move.h"
#include "kernel/procfs_file.h"
#include "restore/free_numbers.h"

namespace telefork::restore {

using tracee::Result;
using tracee::SyscallProgram;

int HugePages::lowest_free_fd() const {
  std::vector<int> open = kernel::list_fds(stub_.pid());
  return FreeNumbers({open.begin(), open.end()}).next();
}

void HugePages::make_ready(RemotePtr scratch, int fd) {
  TELEFORK_ASSERT(!ready_ && scratch.value() % kHugePageSize == 0);
  ready_ = true;
  if (!moves_) return;
  scratch_ = scratch;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  const kernel::IoctlCall ask = kernel::ask_for_page_moves();
  SyscallProgram program;
  program.call("mapping memory to make huge pages in", SYS_mmap,
               {scratch, kHugePageSize, kWritable, kFlags, -1, 0});
  program.call("asking for huge pages", SYS_madvise, {scratch, kHugePageSize, MADV_HUGEPAGE});
  Result made = program.call("making a userfaultfd", SYS_userfaultfd, {kernel::page_move_flags()});
  program.call("asking for UFFDIO_MOVE", SYS_ioctl,
               {made, ask.request, program.bytes(ask.argument)});
  tracee::ProgramRun run = stub_.try_run(program);
  const bool was_made = run.failed() > made.step && run.result(made) >= 0;
  TELEFORK_ASSERT(!was_made || run.result(made) == fd);
  if (was_made) uffd_ = fd;
  moves_ = run.failed() == tracee::kStubDone;
}

void HugePages::add_mapping(Range range, SyscallProgram& program) const {
  if (!moves_) return;
  const kernel::IoctlCall let = kernel::let_pages_move_to(range.start, range.size);
  program.call_any("registering memory", SYS_ioctl,
                   {uffd_, let.request, program.bytes(let.argument)});
}

void HugePages::add_page(RemotePtr at, SyscallProgram& program) const {
  if (!moves_) {
    program.call_any("populating memory", SYS_madvise, {at, kPageSize, kernel::kMadvPopulateWrite});
    program.call_any("making a huge page", SYS_madvise, {at, kHugePageSize, kernel::kMadvCollapse});
    return;
  }
  program.call_any("making a huge page", SYS_madvise,
                   {scratch_, kHugePageSize, kernel::kMadvPopulateWrite});
  const kernel::IoctlCall move = kernel::move_pages(at, scratch_, kHugePageSize);
  program.call_any("moving a huge page", SYS_ioctl,
                   {uffd_, move.request, program.bytes(move.argument)});
}

void HugePages::add_end(SyscallProgram& program) {
  moves_ = false;
  if (scratch_) {
    program.call("unmapping what huge pages were made in", SYS_munmap,
                 {std::exchange(scratch_, RemotePtr()), kHugePageSize});
  }
  if (uffd_ >= 0) program.call("closing the userfaultfd", SYS_close, {std::exchange(uffd_, -1)});
}

}  // namespace telefork::restore
