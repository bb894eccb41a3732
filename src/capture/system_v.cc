#include "capture/system_v.h"

#include <cerrno>

#include <sys/ipc.h>
#include <sys/shm.h>

#include "base/error.h"
#include "base/remote_ptr.h"

namespace telefork::capture {
namespace {

// The kernel counts a mapping each (shm_open and shm_close in ipc/shm.c).
std::uint64_t count_mappings(const kernel::Vma& wanted, const std::set<pid_t>& movers) {
  std::uint64_t count = 0;
  for (pid_t pid : movers) {
    try {
      for (const kernel::Vma& vma : kernel::read_maps(pid)) {
        if (vma.is_system_v() && vma.inode == wanted.inode) ++count;
      }
    } catch (const Error& error) {
      if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    }
  }
  return count;
}

}  // namespace

std::optional<Segment> find_own_segment(const kernel::Vma& vma, const std::set<pid_t>& movers) {
  const auto id = static_cast<int>(vma.inode);
  shmid_ds about{};
  if (::shmctl(id, IPC_STAT, &about) != 0) return std::nullopt;
  const std::uint64_t page =
      vma.has(kernel::VmFlag::kHugeTlb) ? std::uint64_t{1} << vma.huge_shift() : kPageSize;
  const bool whole = vma.offset == 0 && vma.size() == round_up(about.shm_segsz, page);
  const bool locked = (about.shm_perm.mode & SHM_LOCKED) != 0;
  if (!whole || locked || about.shm_nattch != count_mappings(vma, movers)) return std::nullopt;
  return Segment{id,
                 static_cast<std::uint32_t>(about.shm_perm.__key),
                 about.shm_segsz,
                 static_cast<std::uint32_t>(about.shm_perm.mode),
                 about.shm_perm.uid,
                 about.shm_perm.gid};
}

}  // namespace telefork::capture
