// Huge pages for memory that does not ask for them, made before anything is in it.
//
//     HugePages huge(stub, settings.moves_pages);
//     huge.make_ready(scratch, fd);                // both free in the process
//     huge.add_mapping(range, program);            // once, ahead of the first page in it
//     huge.add_page(at, program);
//     ...
//     huge.add_end(program);                       // nothing of it is left in the process
//
// MADV_HUGEPAGE would leave its flag on the VMA for ever. So a page is made in a mapping that has
// the flag, and moved from there: UFFDIO_MOVE (Linux 6.8), at no cost. Without it a small page is
// made where it belongs, and collapsed (MADV_COLLAPSE), which waits for every CPU to empty its
// lists of pages (lru_add_drain_all() in mm/swap.c): milliseconds, where one is busy.
//
// What cannot be had is left out: small pages will do. Owned by the thread that owns the stub.
#pragma once

#include "base/remote_ptr.h"
#include "restore/vma_rules.h"
#include "tracee/stub.h"
#include "tracee/syscall_program.h"

namespace telefork::restore {

class HugePages {
 public:
  HugePages(tracee::Stub& stub, bool moves) : stub_(stub), moves_(moves) {}

  // Takes kHugePageSize bytes at `scratch`, a multiple of that, and the lowest free descriptor
  // `fd`, if any. To be taken back by the caller if its tracer dies.
  void make_ready(RemotePtr scratch, int fd);
  bool ready() const { return ready_; }
  // What `fd` has to be.
  int lowest_free_fd() const;

  void add_mapping(Range range, tracee::SyscallProgram& program) const;
  // One at `at`, in memory that was told of and can be written to, where no page is yet.
  void add_page(RemotePtr at, tracee::SyscallProgram& program) const;
  void add_end(tracee::SyscallProgram& program);

 private:
  tracee::Stub& stub_;
  bool moves_;
  bool ready_ = false;
  RemotePtr scratch_;
  int uffd_ = -1;  // in the process
};

}  // namespace telefork::restore
