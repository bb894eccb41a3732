// The kernel's own pages in the guest: vvar and vDSO.
#include <algorithm>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_maps.h"
#include "restore/restorer.h"
#include "restore/vdso.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

using tracee::SyscallProgram;

}  // namespace

// Out of the way of the guest's own.
void Restorer::move_vdso_aside(SyscallProgram& program) {
  std::vector<kernel::Vma> parts;
  for (const kernel::Vma& vma : blank_maps_) {
    if (vma.is_vdso_or_vvar()) parts.push_back(vma);
  }
  if (parts.empty()) return;
  std::uint64_t span = parts.back().end - parts.front().start;
  RemotePtr parking = space_.allocate(span, RemotePtr());
  for (const kernel::Vma& part : parts) {
    RemotePtr to = parking + (part.start - parts.front().start);
    program.call_expecting(
        "moving " + part.path, static_cast<std::int64_t>(to.value()), SYS_mremap,
        {part.start, part.size(), part.size(), MREMAP_MAYMOVE | MREMAP_FIXED, to});
    kernel::Vma moved = part;
    moved.start = to;
    moved.end = to + part.size();
    if (part.is_vdso()) {
      vdso_code_.resize(part.size());
      tracee::read_memory(blank_->pid(), part.start, vdso_code_);
    }
    vdso_parts_.push_back(std::move(moved));
  }
}

// Whether this kernel's pages may stand where the guest's were: the same code, and the data in
// front of it as large.
bool Restorer::has_same_vdso() const {
  auto vdso = process().getVdso();
  auto code = vdso.getCode();
  std::span<const std::byte> old_code(reinterpret_cast<const std::byte*>(code.begin()),
                                      code.size());
  auto mine = std::find_if(vdso_parts_.begin(), vdso_parts_.end(),
                           [](const kernel::Vma& part) { return part.is_vdso(); });
  return mine != vdso_parts_.end() && std::ranges::equal(old_code, vdso_code_) &&
         vdso.getVvarStart() != 0 &&
         vdso.getStart() - vdso.getVvarStart() == mine->start - vdso_parts_.front().start;
}

void Restorer::place_vdso(SyscallProgram& program) {
  auto vdso = process().getVdso();
  if (vdso.getStart() == 0 || vdso_parts_.empty()) return;
  if (has_same_vdso()) {
    // Its pages go where the guest's were, all of them together.
    for (const kernel::Vma& part : vdso_parts_) {
      RemotePtr to = RemotePtr(vdso.getVvarStart()) + (part.start - vdso_parts_.front().start);
      program.call_expecting(
          "placing " + part.path, static_cast<std::int64_t>(to.value()), SYS_mremap,
          {part.start, part.size(), part.size(), MREMAP_MAYMOVE | MREMAP_FIXED, to});
    }
    return;
  }
  auto mine = std::find_if(vdso_parts_.begin(), vdso_parts_.end(),
                           [](const kernel::Vma& part) { return part.is_vdso(); });
  auto code = vdso.getCode();
  std::span<const std::byte> old_code(reinterpret_cast<const std::byte*>(code.begin()),
                                      code.size());
  RemotePtr start(vdso.getStart());
  std::vector<std::byte> redirected = redirect_vdso(old_code, start, vdso_code_, mine->start);
  redirected.resize(round_up(redirected.size(), kPageSize));
  program.call("mapping the old vDSO", SYS_mmap,
               {start, redirected.size(), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0});
  run_if_large(program, true);
  tracee::write_memory(blank_->pid(), start, redirected);
  program.call("making the old vDSO executable", SYS_mprotect,
               {start, redirected.size(), PROT_READ | PROT_EXEC});
}

}  // namespace telefork::restore
