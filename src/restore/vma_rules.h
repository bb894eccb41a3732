// How a VMA of an image is mapped, and made what it was.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/remote_ptr.h"
#include "image/image.capnp.h"
#include "kernel/pagemap.h"
#include "kernel/procfs_maps.h"
#include "tracee/syscall_program.h"

namespace telefork::restore {

struct Range {
  RemotePtr start;
  std::uint64_t size = 0;
  RemotePtr end() const { return start + size; }
};

Range range_of(image::schema::PageRun::Reader run);
// As they are told, one by one.
std::vector<kernel::PageRun> runs_of(::capnp::List<image::schema::PageRun>::Reader list);

bool has_flag(image::schema::Vma::Reader vma, kernel::VmFlag flag);
// Whether pages of it may come with the image.
bool has_own_pages(image::schema::Vma::Reader vma);
// vvar, vDSO, vsyscall.
bool is_kernels_own(image::schema::Vma::Reader vma);
// MAP_*, MAP_FIXED_NOREPLACE aside.
int map_flags(image::schema::Vma::Reader vma);
// What it is mapped with. Writable costs memory that the kernel promises (VM_ACCOUNT), which a
// library's code or a large reservation without access must not take up.
int first_protection(image::schema::Vma::Reader vma);
constexpr int kWritable = 0x1 | 0x2;  // PROT_READ | PROT_WRITE
// "0x1000-0x3000"
std::string place_name(image::schema::Vma::Reader vma);
std::string place_name(Range range);
// Of hugetlb: log2 of the bytes of a page; else 0.
unsigned huge_shift(image::schema::Vma::Reader vma);
// What mmap(2), memfd_create(2) and shmget(2) call pages of hugetlb of that size; 0: nothing.
int huge_page_flags(unsigned shift);
// "huge pages (vm.nr_hugepages)", for who has too few of them, and the setting alone.
std::string huge_pages_name(unsigned shift);
std::string huge_pages_setting(unsigned shift);
// Whether pages that lie together may become huge ones. `thp_disable`: as PR_GET_THP_DISABLE has
// it, of which bit 1 (PR_THP_DISABLE_EXCEPT_ADVISED) leaves memory that asks for them alone.
bool may_have_huge_pages(image::schema::Vma::Reader vma, std::uint32_t thp_disable);
// What has to be said of memory that has the flags `had`, for it to have those of `vma`.
void add_advice(image::schema::Vma::Reader vma, std::uint64_t had, Range range,
                tracee::SyscallProgram& program);

}  // namespace telefork::restore
