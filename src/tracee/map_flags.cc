#include "tracee/map_flags.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/pagemap.h"
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
std::vector<kernel::PageRun> find_large(const Stub& stub, const std::vector<Vma>& map) {
  const RemotePtr stack(stack_pointer(stub.original().registers));
  std::vector<kernel::PageRun> large;
  for (const Vma& vma : map) {
    if (!vma.is_anonymous() || vma.size() < kWorthAStep) continue;
    if (vma.start <= stack && stack < vma.end) continue;
    large.push_back({vma.start + kPageSize, vma.size() / kPageSize - 1});
  }
  return large;
}

SyscallProgram advise(const std::vector<kernel::PageRun>& runs, int advice) {
  SyscallProgram program;
  for (const kernel::PageRun& run : runs) {
    program.call_any("leaving pages behind", SYS_madvise,
                     {run.start, run.pages * kPageSize, advice});
  }
  return program;
}

void run_unless_empty(Stub& stub, const SyscallProgram& program) {
  if (!program.empty()) stub.run(program);
}

// What a process leaves behind for its clone is its own again at the end, whatever happens.
class LeftBehind {
 public:
  LeftBehind(Stub& stub, std::vector<kernel::PageRun> runs)
      : stub_(stub), runs_(std::move(runs)), undo_(advise(runs_, MADV_KEEPONFORK).as_undo()) {
    stub_.set_farewell(undo_);
    try {
      run_unless_empty(stub_, advise(runs_, MADV_WIPEONFORK));
    } catch (const Error&) {
      take_back_quietly();
      throw;
    }
  }
  LeftBehind(const LeftBehind&) = delete;
  LeftBehind& operator=(const LeftBehind&) = delete;
  ~LeftBehind() { take_back_quietly(); }

  const SyscallProgram& undo() const { return undo_; }
  // It had asked for the flag by itself.
  void leave(const Vma& vma) {
    std::erase_if(runs_, [&vma](const kernel::PageRun& run) {
      return run.start > vma.start && run.start < vma.end;
    });
  }
  void take_back() {
    const std::vector<kernel::PageRun> runs = std::exchange(runs_, {});
    run_unless_empty(stub_, advise(runs, MADV_KEEPONFORK));
    stub_.set_farewell({});
  }

 private:
  void take_back_quietly() noexcept {
    try {
      take_back();
    } catch (const Error&) {
      // It was killed.
    }
  }

  Stub& stub_;
  std::vector<kernel::PageRun> runs_;
  SyscallProgram undo_;
};

std::vector<Vma> read_smaps_of_clone(Stub& stub, const SyscallProgram& farewell) {
  Snapshot clone(stub, Snapshot::Memory::kCopied, nullptr, &farewell);
  std::vector<Vma> smaps = kernel::read_smaps(clone.pid());
  clone.end();
  reap_snapshot(stub, clone.id());
  stub.set_farewell(farewell);
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

// While pages are left behind. False: no clone can be asked.
bool try_take_flags_of_clone(Stub& stub, const SyscallProgram& farewell, std::vector<Vma>& map) {
  // A clone has nothing locked.
  if (kernel::read_status(stub.pid()).locked_kb > 0) return false;
  try {
    return take_flags(read_smaps_of_clone(stub, farewell), map);
  } catch (const Error& error) {
    // For want of memory, or of processes.
    if (error.error() != EAGAIN && error.error() != ENOMEM) throw;
    return false;
  }
}

void take_flags_of_process(pid_t pid, std::vector<Vma>& map) {
  if (take_flags(kernel::read_smaps(pid), map)) return;
  throw Error(Code::kFailed,
              fmt::format("the memory map of process {}, which stands still, has changed", pid));
}

}  // namespace

void read_flags(Stub& stub, std::vector<Vma>& map) {
  const bool may_clone = kernel::read_status(stub.pid()).locked_kb == 0;
  if (may_clone) run_unless_empty(stub, advise(find_large(stub, map), MADV_WIPEONFORK));
  if (!may_clone || !try_take_flags_of_clone(stub, {}, map)) {
    take_flags_of_process(stub.pid(), map);
  }
}

void read_flags_of_running(Stub& stub, const std::vector<Vma>& before, std::vector<Vma>& map) {
  std::vector<kernel::PageRun> large = find_large(stub, map);
  for (const Vma& vma : before) {
    if (!vma.has(kernel::VmFlag::kWipeOnFork)) continue;
    std::erase_if(large, [&vma](const kernel::PageRun& run) {
      return run.start < vma.end && vma.start < run.end();
    });
  }
  LeftBehind left(stub, std::move(large));
  if (!try_take_flags_of_clone(stub, left.undo(), map)) take_flags_of_process(stub.pid(), map);
  for (const Vma& vma : map) {
    if (vma.has(kernel::VmFlag::kWipeOnFork)) left.leave(vma);
  }
  left.take_back();
}

}  // namespace telefork::tracee
