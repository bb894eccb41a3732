// Kernel interfaces that are newer than the headers of Debian 12 (Linux 6.1) or of the oldest
// distribution that telefork builds on, declared by hand. Whether the running kernel has them is
// not asked here: see probe.h.
//
// Each comes with the kernel release that brought it and the file that defines it. Structures are
// ours by name (in namespace telefork::kernel, so that a newer header does no harm) and have their
// size asserted; constants that newer headers define as macros are constexpr with our naming.
#pragma once

#include <cstddef>
#include <cstdint>

#include <linux/ioctl.h>

namespace telefork::kernel {

// ---- PAGEMAP_SCAN: Linux 6.7, include/uapi/linux/fs.h ----

struct PageRegion {  // struct page_region
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t categories = 0;
};
static_assert(sizeof(PageRegion) == 24);

struct PagemapScanArg {  // struct pm_scan_arg
  std::uint64_t size = 0;
  std::uint64_t flags = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t walk_end = 0;  // out: where the walk stopped
  std::uint64_t vec = 0;
  std::uint64_t vec_len = 0;
  std::uint64_t max_pages = 0;
  std::uint64_t category_inverted = 0;
  std::uint64_t category_mask = 0;
  std::uint64_t category_anyof_mask = 0;
  std::uint64_t return_mask = 0;
};
static_assert(sizeof(PagemapScanArg) == 96);

constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScanArg);

constexpr std::uint64_t kPageIsWpAllowed = 1 << 0;
constexpr std::uint64_t kPageIsWritten = 1 << 1;
constexpr std::uint64_t kPageIsFile = 1 << 2;
constexpr std::uint64_t kPageIsPresent = 1 << 3;
constexpr std::uint64_t kPageIsSwapped = 1 << 4;
constexpr std::uint64_t kPageIsPfnZero = 1 << 5;
constexpr std::uint64_t kPageIsHuge = 1 << 6;
constexpr std::uint64_t kPageIsSoftDirty = 1 << 7;
constexpr std::uint64_t kPageIsGuard = 1 << 8;  // Linux 6.15; EINVAL in a mask before

constexpr std::uint64_t kScanWriteProtectMatching = 1 << 0;  // PM_SCAN_WP_MATCHING
constexpr std::uint64_t kScanCheckWpAsync = 1 << 1;          // PM_SCAN_CHECK_WPASYNC

// Bits of an entry of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst.
constexpr std::uint64_t kPagemapUffdWp = 1ull << 57;
constexpr std::uint64_t kPagemapGuard = 1ull << 58;  // Linux 6.15
constexpr std::uint64_t kPagemapFile = 1ull << 61;   // a page of a file or of shared memory
constexpr std::uint64_t kPagemapSwapped = 1ull << 62;
constexpr std::uint64_t kPagemapPresent = 1ull << 63;

// ---- userfaultfd: include/uapi/linux/userfaultfd.h ----

constexpr std::uint64_t kUffdFeatureWpUnpopulated = 1 << 13;  // Linux 6.4
constexpr std::uint64_t kUffdFeaturePoison = 1 << 14;         // Linux 6.6
constexpr std::uint64_t kUffdFeatureWpAsync = 1 << 15;        // Linux 6.7
constexpr std::uint64_t kUffdFeatureMove = 1 << 16;           // Linux 6.8

struct UffdMove {  // struct uffdio_move
  std::uint64_t dst = 0;
  std::uint64_t src = 0;
  std::uint64_t len = 0;
  std::uint64_t mode = 0;
  std::int64_t move = 0;  // out: bytes moved, or a negative errno
};
static_assert(sizeof(UffdMove) == 40);
constexpr unsigned long kUffdioMove = _IOWR(0xAA, 0x05, UffdMove);
constexpr std::uint64_t kUffdMoveDontWake = 1 << 0;
constexpr std::uint64_t kUffdMoveAllowSourceHoles = 1 << 1;

struct UffdPoison {  // struct uffdio_poison
  std::uint64_t start = 0;
  std::uint64_t len = 0;
  std::uint64_t mode = 0;
  std::int64_t updated = 0;
};
static_assert(sizeof(UffdPoison) == 32);
constexpr unsigned long kUffdioPoison = _IOWR(0xAA, 0x08, UffdPoison);

// ---- pidfds: include/uapi/linux/pidfd.h ----

constexpr int kPidfdSelf = -10000;  // Linux 6.15: the calling thread, without a descriptor

// ---- madvise: include/uapi/asm-generic/mman-common.h ----

constexpr int kMadvPopulateRead = 22;   // Linux 5.14
constexpr int kMadvPopulateWrite = 23;  // Linux 5.14
constexpr int kMadvCollapse = 25;       // Linux 6.1
constexpr int kMadvGuardInstall = 102;  // Linux 6.13
constexpr int kMadvGuardRemove = 103;   // Linux 6.13

// ---- mmap: include/uapi/linux/mman.h, mman-common.h ----

constexpr int kMapFixedNoReplace = 0x100000;  // Linux 4.17
constexpr int kMapDroppable = 0x08;           // Linux 6.11
constexpr unsigned kMremapDontUnmap = 4;      // Linux 5.7

// ---- syscall numbers that are the same on every architecture since Linux 5.0 ----

constexpr long kNrPidfdSendSignal = 424;
constexpr long kNrPidfdOpen = 434;
constexpr long kNrClone3 = 435;
constexpr long kNrCloseRange = 436;
constexpr long kNrPidfdGetfd = 438;
constexpr long kNrProcessMadvise = 440;
constexpr long kNrMemfdSecret = 447;  // Linux 5.14
constexpr long kNrMseal = 462;        // Linux 6.10

// ---- membarrier: include/uapi/linux/membarrier.h ----

constexpr int kMembarrierGetRegistrations = 1 << 9;  // Linux 6.3

// ---- clone3: include/uapi/linux/sched.h ----

struct CloneArgs {  // struct clone_args, CLONE_ARGS_SIZE_VER2
  std::uint64_t flags = 0;
  std::uint64_t pidfd = 0;
  std::uint64_t child_tid = 0;
  std::uint64_t parent_tid = 0;
  std::uint64_t exit_signal = 0;
  std::uint64_t stack = 0;
  std::uint64_t stack_size = 0;
  std::uint64_t tls = 0;
  std::uint64_t set_tid = 0;  // pid_t[], innermost namespace first: Linux 5.5
  std::uint64_t set_tid_size = 0;
  std::uint64_t cgroup = 0;  // Linux 5.7
};
static_assert(sizeof(CloneArgs) == 88);
constexpr std::uint64_t kCloneNewTime = 0x80;  // CLONE_NEWTIME, for unshare and clone3: Linux 5.6

// ---- ptrace: include/uapi/linux/ptrace.h ----

constexpr int kPtraceSeccompGetFilter = 0x420c;        // Linux 4.4
constexpr int kPtraceSeccompGetMetadata = 0x420d;      // Linux 4.16
constexpr int kPtraceGetSyscallInfo = 0x420e;          // Linux 5.3
constexpr int kPtraceGetRseqConfiguration = 0x420f;    // Linux 5.13
constexpr int kPtraceSetSyscallUserDispatch = 0x4210;  // Linux 6.4
constexpr int kPtraceGetSyscallUserDispatch = 0x4211;  // likewise
constexpr int kPtraceSetSyscallInfo = 0x4212;          // Linux 6.16

struct SyscallUserDispatch {  // struct ptrace_sud_config
  std::uint64_t mode = 0;
  std::uint64_t selector = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};
static_assert(sizeof(SyscallUserDispatch) == 32);

struct RseqConfiguration {  // struct ptrace_rseq_configuration
  std::uint64_t rseq_abi_pointer = 0;
  std::uint32_t rseq_abi_size = 0;
  std::uint32_t signature = 0;
  std::uint32_t flags = 0;
  std::uint32_t pad = 0;
};
static_assert(sizeof(RseqConfiguration) == 24);

// ---- rseq: include/uapi/linux/rseq.h ----

// What rt_sigaction(2) takes (include/linux/signal_types.h); the C library's is another.
struct Sigaction {
  std::uint64_t handler;
  std::uint64_t flags;
  std::uint64_t restorer;
  std::uint64_t mask;
};
static_assert(sizeof(Sigaction) == 32);

struct RseqCriticalSection {  // struct rseq_cs
  std::uint32_t version = 0;
  std::uint32_t flags = 0;
  std::uint64_t start_ip = 0;
  std::uint64_t post_commit_offset = 0;
  std::uint64_t abort_ip = 0;
};
static_assert(sizeof(RseqCriticalSection) == 32);
constexpr std::size_t kRseqCsOffset = 8;  // of the pointer to it in struct rseq
constexpr unsigned kRseqFlagUnregister = 1;

// ---- prctl: include/uapi/linux/prctl.h ----

constexpr int kPrGetTidAddress = 40;
constexpr int kPrSetMm = 35;
constexpr unsigned long kPrSetMmMap = 14;
constexpr unsigned long kPrSetMmMapSize = 15;

struct PrctlMmMap {  // struct prctl_mm_map
  std::uint64_t start_code = 0;
  std::uint64_t end_code = 0;
  std::uint64_t start_data = 0;
  std::uint64_t end_data = 0;
  std::uint64_t start_brk = 0;
  std::uint64_t brk = 0;
  std::uint64_t start_stack = 0;
  std::uint64_t arg_start = 0;
  std::uint64_t arg_end = 0;
  std::uint64_t env_start = 0;
  std::uint64_t env_end = 0;
  std::uint64_t auxv = 0;  // a pointer
  std::uint32_t auxv_size = 0;
  std::uint32_t exe_fd = 0;  // ~0u: keep
};
static_assert(sizeof(PrctlMmMap) == 104);

constexpr int kPrSetVma = 0x53564d41;  // Linux 5.17, CONFIG_ANON_VMA_NAME
constexpr unsigned long kPrSetVmaAnonName = 0;

constexpr int kPrSetThpDisable = 41;
constexpr int kPrGetThpDisable = 42;

constexpr int kPrSetMdwe = 65;  // Linux 6.3: memory-deny-write-execute
constexpr int kPrGetMdwe = 66;
constexpr int kPrSetMemoryMerge = 67;  // Linux 6.4
constexpr int kPrGetMemoryMerge = 68;

// Lets timer_create take the id from where its result goes: Linux 6.15.
constexpr int kPrTimerCreateRestoreIds = 77;
constexpr unsigned long kPrTimerCreateRestoreIdsOff = 0;
constexpr unsigned long kPrTimerCreateRestoreIdsOn = 1;
constexpr unsigned long kPrTimerCreateRestoreIdsGet = 2;

// ---- arch_prctl on x86-64: arch/x86/include/uapi/asm/prctl.h ----

constexpr int kArchGetXcompPerm = 0x1022;  // Linux 5.16
constexpr int kArchReqXcompPerm = 0x1023;
constexpr int kArchMapVdso64 = 0x2003;  // answers the size that it mapped, not 0

// ---- capabilities: include/uapi/linux/capability.h ----

constexpr int kCapNetAdmin = 12;
constexpr int kCapSysPtrace = 19;
constexpr int kCapSysAdmin = 21;
constexpr int kCapSysResource = 24;
constexpr int kCapCheckpointRestore = 40;  // Linux 5.9

}  // namespace telefork::kernel
