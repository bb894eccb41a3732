#include "restore/vma_rules.h"

#include <asm-generic/hugetlb_encode.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "image/format.h"
#include "kernel/abi.h"

namespace telefork::restore {

using image::schema::Vma;
using kernel::VmFlag;
using tracee::SyscallProgram;

constexpr unsigned kShiftOf2Mb = 21;

static_assert(kWritable == (PROT_READ | PROT_WRITE));
// Of MFD_HUGETLB and SHM_HUGETLB too.
static_assert(HUGETLB_FLAG_ENCODE_SHIFT == MAP_HUGE_SHIFT);

Range range_of(image::schema::PageRun::Reader run) {
  return {RemotePtr(run.getStart()), run.getPages() * kPageSize};
}

std::vector<kernel::PageRun> runs_of(::capnp::List<image::schema::PageRun>::Reader list) {
  std::vector<kernel::PageRun> runs;
  runs.reserve(list.size());
  for (image::schema::PageRun::Reader run : list) {
    runs.push_back({RemotePtr(run.getStart()), run.getPages()});
  }
  return runs;
}

bool has_flag(Vma::Reader vma, VmFlag flag) {
  return (vma.getFlags() & static_cast<std::uint64_t>(flag)) != 0;
}

bool has_own_pages(Vma::Reader vma) {
  return !is_kernels_own(vma) && vma.getKind() != Vma::Kind::SHARED_FILE;
}

bool is_kernels_own(Vma::Reader vma) {
  return vma.getKind() == Vma::Kind::VDSO || vma.getKind() == Vma::Kind::VVAR ||
         vma.getKind() == Vma::Kind::VSYSCALL;
}

unsigned huge_shift(Vma::Reader vma) {
  if (!has_flag(vma, VmFlag::kHugeTlb)) return 0;
  return vma.getHugeShift() == 0 ? kShiftOf2Mb : vma.getHugeShift();
}

int huge_page_flags(unsigned shift) {
  TELEFORK_ASSERT(shift <= image::kMostHugeShift);  // image/record_rules.h
  return static_cast<int>(shift << MAP_HUGE_SHIFT);
}

std::string huge_pages_setting(unsigned shift) {
  if (shift == kShiftOf2Mb) return "vm.nr_hugepages or vm.nr_overcommit_hugepages";
  return fmt::format("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
                     (std::uint64_t{1} << shift) / 1024);
}

std::string huge_pages_name(unsigned shift) {
  if (shift == kShiftOf2Mb) return "huge pages (vm.nr_hugepages)";
  return fmt::format("huge pages of {} kB ({})", (std::uint64_t{1} << shift) / 1024,
                     huge_pages_setting(shift));
}

int map_flags(Vma::Reader vma) {
  int flags = 0;
  switch (vma.getKind()) {
    case Vma::Kind::PRIVATE_FILE:
      flags = MAP_PRIVATE;
      break;
    case Vma::Kind::SHARED_FILE:
      flags = MAP_SHARED;
      break;
    case Vma::Kind::SHARED_ANONYMOUS:
      flags = MAP_SHARED | MAP_ANONYMOUS;
      break;
    default:
      flags = MAP_PRIVATE | MAP_ANONYMOUS;
  }
  // A file says itself what its pages are.
  const unsigned shift = huge_shift(vma);
  if (shift != 0 && (flags & MAP_ANONYMOUS) != 0) flags |= MAP_HUGETLB | huge_page_flags(shift);
  if (has_flag(vma, VmFlag::kDroppable)) flags = (flags & ~MAP_TYPE) | kernel::kMapDroppable;
  if (has_flag(vma, VmFlag::kNoReserve)) flags |= MAP_NORESERVE;
  if (has_flag(vma, VmFlag::kGrowsDown)) flags |= MAP_GROWSDOWN;
  return flags;
}

int first_protection(Vma::Reader vma) {
  auto protection = static_cast<int>(vma.getProtection());
  if (vma.getKind() == Vma::Kind::SHARED_FILE) return protection;
  bool writable = (protection & PROT_WRITE) != 0 || has_flag(vma, VmFlag::kAccount) ||
                  has_flag(vma, VmFlag::kNoReserve) || vma.getKind() == Vma::Kind::SHARED_ANONYMOUS;
  return writable ? kWritable : protection;
}

std::string place_name(Range range) {
  return fmt::format("{:#x}-{:#x}", range.start.value(), range.end().value());
}

std::string place_name(Vma::Reader vma) {
  return place_name({RemotePtr(vma.getStart()), vma.getEnd() - vma.getStart()});
}

// A kernel without huge pages or KSM has nothing to advise.
bool may_have_huge_pages(Vma::Reader vma, std::uint32_t thp_disable) {
  if (has_flag(vma, VmFlag::kNoHugePage) || has_flag(vma, VmFlag::kHugeTlb)) return false;
  if (vma.getKind() != Vma::Kind::ANONYMOUS && vma.getKind() != Vma::Kind::STACK) return false;
  return thp_disable == 0 || ((thp_disable & 2) != 0 && has_flag(vma, VmFlag::kHugePage));
}

void add_advice(Vma::Reader vma, std::uint64_t had, Range range, SyscallProgram& program) {
  struct Rule {
    VmFlag flag;
    int advice;
    int opposite;  // -1: there is none
    const char* name;
  };
  static constexpr Rule kRules[] = {
      {VmFlag::kDontCopy, MADV_DONTFORK, MADV_DOFORK, "MADV_DONTFORK"},
      {VmFlag::kDontDump, MADV_DONTDUMP, MADV_DODUMP, "MADV_DONTDUMP"},
      {VmFlag::kWipeOnFork, MADV_WIPEONFORK, MADV_KEEPONFORK, "MADV_WIPEONFORK"},
      {VmFlag::kSequentialRead, MADV_SEQUENTIAL, MADV_NORMAL, "MADV_SEQUENTIAL"},
      {VmFlag::kRandomRead, MADV_RANDOM, MADV_NORMAL, "MADV_RANDOM"},
      {VmFlag::kHugePage, MADV_HUGEPAGE, -1, "MADV_HUGEPAGE"},
      {VmFlag::kNoHugePage, MADV_NOHUGEPAGE, -1, "MADV_NOHUGEPAGE"},
      {VmFlag::kMergeable, MADV_MERGEABLE, MADV_UNMERGEABLE, "MADV_MERGEABLE"},
  };
  auto add = [&](const Rule& rule, int advice) {
    program.call_any(rule.name, SYS_madvise, {range.start, range.size, advice});
  };
  // What is taken away comes first: it is one advice for two of them.
  for (const Rule& rule : kRules) {
    bool has = (had & static_cast<std::uint64_t>(rule.flag)) != 0;
    if (has && !has_flag(vma, rule.flag) && rule.opposite >= 0) add(rule, rule.opposite);
  }
  for (const Rule& rule : kRules) {
    bool has = (had & static_cast<std::uint64_t>(rule.flag)) != 0;
    if (!has && has_flag(vma, rule.flag)) add(rule, rule.advice);
  }
}

}  // namespace telefork::restore
