// The memory map of a process, from /proc/PID/maps or, with flags and sizes, /proc/PID/smaps.
//
//     for (const Vma& vma : read_smaps(pid))
//       if (vma.is_anonymous() && vma.has(VmFlag::kLocked)) ...
//
// Both are one consistent list only while the process is stopped: the kernel locks a VMA at a time
// (since 6.17, before it a page of text), between which a running process may map and unmap. What
// it shows is then each VMA as it was or as it became; where that is two that overlap, as after a
// merge, the later one counts, and the earlier is cut or left out. smaps costs 1.3-3.7 us a VMA
// (it walks the page tables), maps a fraction of that.
//
// Two things in these texts are ambiguous, and no parser can help it: a newline in a path is
// written \012 while a backslash is not escaped, and " (deleted)" may be the end of a file's true
// name, which read_maps() and read_smaps() find by the inode. Whoever must be sure compares
// (device, inode) with a stat of what was opened, or opens map_files_path().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"

namespace telefork::kernel {

// The bits of Vma::flags; ours, not the kernel's, so that they mean the same on every kernel. The
// two letters are those of the VmFlags line (fs/proc/task_mmu.c, show_smap_vma_flags).
enum class VmFlag : std::uint64_t {
  kRead = 1ull << 0,             // rd
  kWrite = 1ull << 1,            // wr
  kExecute = 1ull << 2,          // ex
  kShared = 1ull << 3,           // sh
  kMayRead = 1ull << 4,          // mr: mprotect may give it
  kMayWrite = 1ull << 5,         // mw
  kMayExecute = 1ull << 6,       // me
  kMayShare = 1ull << 7,         // ms
  kGrowsDown = 1ull << 8,        // gd: a stack
  kPfnMap = 1ull << 9,           // pf: device memory, or vvar
  kDenyWrite = 1ull << 10,       // dw: kernels before 5.15
  kLocked = 1ull << 11,          // lo: mlock
  kIo = 1ull << 12,              // io: memory-mapped I/O
  kSequentialRead = 1ull << 13,  // sr: MADV_SEQUENTIAL
  kRandomRead = 1ull << 14,      // rr: MADV_RANDOM
  kDontCopy = 1ull << 15,        // dc: MADV_DONTFORK
  kDontExpand = 1ull << 16,      // de: mremap may not grow it
  kLockOnFault = 1ull << 17,     // lf: mlock2(MLOCK_ONFAULT)
  kAccount = 1ull << 18,         // ac: counted as committed memory
  kNoReserve = 1ull << 19,       // nr: MAP_NORESERVE
  kHugeTlb = 1ull << 20,         // ht
  kSync = 1ull << 21,            // sf: MAP_SYNC
  kNonLinear = 1ull << 22,       // nl: kernels before 4.0
  kArch1 = 1ull << 23,           // ar: of the architecture
  kWipeOnFork = 1ull << 24,      // wf: MADV_WIPEONFORK
  kDontDump = 1ull << 25,        // dd: MADV_DONTDUMP
  kSoftDirty = 1ull << 26,       // sd
  kMixedMap = 1ull << 27,        // mm
  kHugePage = 1ull << 28,        // hg: MADV_HUGEPAGE
  kNoHugePage = 1ull << 29,      // nh: MADV_NOHUGEPAGE
  kMergeable = 1ull << 30,       // mg: MADV_MERGEABLE
  kUffdMissing = 1ull << 31,     // um: registered with a userfaultfd
  kUffdWp = 1ull << 32,          // uw
  kUffdMinor = 1ull << 33,       // ui
  kShadowStack = 1ull << 34,     // ss
  kSealed = 1ull << 35,          // sl: mseal
  kDroppable = 1ull << 36,       // dp: MAP_DROPPABLE
  kGuard = 1ull << 37,           // gu: may hold guard pages
  kMte = 1ull << 38,             // mt: arm64 memory tagging
  kBti = 1ull << 39,             // bt: arm64 branch target identification
};

struct Vma {
  RemotePtr start;
  RemotePtr end;
  bool read = false;
  bool write = false;
  bool execute = false;
  bool shared = false;
  std::uint64_t offset = 0;
  unsigned dev_major = 0;
  unsigned dev_minor = 0;
  std::uint64_t inode = 0;
  std::string path;      // without " (deleted)"; "[heap]" and the like as they are; may be empty
  bool deleted = false;  // the path ended in " (deleted)"

  // From smaps only; otherwise 0 and empty.
  std::uint64_t flags = 0;
  std::vector<std::string> unknown_flags;  // of a newer kernel: whoever restores should refuse them
  std::uint64_t rss_kb = 0;
  std::uint64_t anonymous_kb = 0;
  std::uint64_t swap_kb = 0;
  std::uint64_t locked_kb = 0;
  std::uint64_t private_huge_kb = 0;  // pages of hugetlb that are there, which Rss has not
  std::uint64_t shared_huge_kb = 0;   // and those that others have mapped too
  std::uint64_t kernel_page_kb = 0;   // 4, or the size of a hugetlb page
  int protection_key = 0;             // pkey_mprotect

  std::uint64_t size() const { return end - start; }
  // Of hugetlb: log2 of the bytes of a page. 0 of all else.
  unsigned huge_shift() const;
  bool has(VmFlag flag) const { return (flags & static_cast<std::uint64_t>(flag)) != 0; }
  // PROT_READ, PROT_WRITE and PROT_EXEC as mmap(2) takes them.
  int protection() const;

  // Private memory without a file: also the heap, the stack and what prctl(PR_SET_VMA) named.
  bool is_anonymous() const;
  // Shared memory without a file of its own: MAP_SHARED|MAP_ANONYMOUS, also after fork.
  bool is_shared_anonymous() const;
  // The file that the kernel makes for MAP_ANONYMOUS|MAP_HUGETLB, mapped private or shared.
  bool is_anonymous_hugetlb() const { return deleted && path == "/anon_hugepage"; }
  // The kernel's own pages: [vdso], [vvar], [vvar_vclock] and what later kernels call [vvar*].
  // They are moved together or not at all, and never read: [vvar] answers EIO.
  bool is_vdso_or_vvar() const;
  bool is_vdso() const { return path == "[vdso]"; }
  bool is_vsyscall() const { return path == "[vsyscall]"; }
  bool is_stack() const { return path == "[stack]"; }
  bool is_heap() const { return path == "[heap]"; }
  // The first segment of System V memory has inode 0.
  bool is_file() const { return (inode != 0 || path.starts_with("/")) && !is_shared_anonymous(); }
  bool is_system_v() const { return shared && path.starts_with("/SYSV"); }
};

// The two letters of a flag: "rd".
std::string_view vm_flag_name(VmFlag flag);

// `what` is named in errors. At most kMaxVmas; more is Code::kCorrupt, as is text that is not a
// map, a VMA that is empty or not aligned, or one that ends where the last one did or before.
constexpr std::size_t kMaxVmas = std::size_t{1} << 20;
std::vector<Vma> parse_maps(std::string_view text, std::string_view what = "maps");
std::vector<Vma> parse_smaps(std::string_view text, std::string_view what = "smaps");

// Of a process or of any of its threads. A zombie has no VMAs: the list is empty.
std::vector<Vma> read_maps(pid_t pid);
std::vector<Vma> read_smaps(pid_t pid);

}  // namespace telefork::kernel
