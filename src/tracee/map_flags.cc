#include "tracee/map_flags.h"

#include <cerrno>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "tracee/registers.h"
#include "tracee/snapshot.h"
#include "tracee/syscall_program.h"

namespace telefork::tracee {
namespace {

using kernel::Vma;

// To copy a page table entry costs a tenth of what a step of a program does.
constexpr std::uint64_t kWorthAStep = 256 * 1024;

// What its first page is not part of. Not where the steps find their frame.
void leave_pages_behind(Stub& stub, const std::vector<Vma>& map) {
  const RemotePtr stack(stack_pointer(stub.original().registers));
  SyscallProgram program;
  for (const Vma& vma : map) {
    if (!vma.is_anonymous() || vma.size() < kWorthAStep) continue;
    if (vma.start <= stack && stack < vma.end) continue;
    program.call_any("leaving pages behind", SYS_madvise,
                     {vma.start + kPageSize, vma.size() - kPageSize, MADV_WIPEONFORK});
  }
  if (!program.empty()) stub.run(program);
}

std::vector<Vma> read_smaps_of_clone(Stub& stub) {
  Snapshot clone(stub);
  std::vector<Vma> smaps = kernel::read_smaps(clone.pid());
  clone.end();
  reap_snapshot(stub, clone.id());
  stub.set_farewell({});
  return smaps;
}

// The flags of each of `map`, which are those of its first page. False: not all of one is there
// (MADV_DONTFORK).
bool take_flags(const std::vector<Vma>& smaps, std::vector<Vma>& map) {
  auto found = smaps.begin();
  for (Vma& vma : map) {
    while (found != smaps.end() && found->end <= vma.start) ++found;
    if (found == smaps.end() || found->start > vma.start) return false;
    vma.flags = found->flags;
    vma.unknown_flags = found->unknown_flags;
    vma.protection_key = found->protection_key;
    vma.kernel_page_kb = found->kernel_page_kb;
    for (auto part = found; part->end < vma.end; ++part) {
      const auto next = part + 1;
      if (next == smaps.end() || next->start != part->end) return false;
    }
  }
  return true;
}

}  // namespace

void read_flags(Stub& stub, std::vector<Vma>& map) {
  // A clone has nothing locked.
  if (kernel::read_status(stub.pid()).locked_kb == 0) {
    leave_pages_behind(stub, map);
    try {
      if (take_flags(read_smaps_of_clone(stub), map)) return;
    } catch (const Error& error) {
      // For want of memory, or of processes.
      if (error.error() != EAGAIN && error.error() != ENOMEM) throw;
    }
  }
  if (!take_flags(kernel::read_smaps(stub.pid()), map)) {
    throw Error(
        Code::kFailed,
        fmt::format("the memory map of process {}, which stands still, has changed", stub.pid()));
  }
}

}  // namespace telefork::tracee
