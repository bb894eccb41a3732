// Pages of an image into the memory of a process with a stub in it: received by the process itself
// where their bytes come raw on a stream that it has, else read here and written there.
//
//     SyscallProgram program;
//     add_population(pieces, huge_pages, false, program);
//     add_reception(bulk, pieces, program);
//     stub.run(program);
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "image/record_source.h"
#include "restore/huge_pages.h"
#include "tracee/syscall_program.h"

namespace telefork::restore {

// A part of a run of pages.
struct PagePiece {
  RemotePtr at;
  std::uint64_t size;
  bool huge_allowed;
  RemotePtr first_huge() const { return RemotePtr(round_up(at.value(), kHugePageSize)); }
  RemotePtr huge_end() const { return RemotePtr(round_down((at + size).value(), kHugePageSize)); }
  bool has_huge() const { return huge_allowed && first_huge() < huge_end(); }
};

// What is populated and received at a time. A socket's buffer should hold as much: then the sender
// goes on while the memory is made.
inline constexpr std::uint64_t kReceptionChunk = 2 * 1024 * 1024;
static_assert(kReceptionChunk % kHugePageSize == 0);

// How many of the first pieces make a chunk; never more than one system call takes.
std::size_t count_in_chunk(std::span<const PagePiece> pieces);

// Memory is made present before the process receives into it: the kernel fills a page that is there
// ten times as fast as one that it has to make on a fault. process_vm_writev(2) makes pages without
// a fault, so that only huge ones are worth a step then.
void add_population(std::span<const PagePiece> pieces, const HugePages& huge, bool only_huge,
                    tracee::SyscallProgram& program);

// The next bytes of `bulk`, a descriptor of the process, into a chunk of pieces. The step fails
// where fewer came; its result tells how many.
tracee::Result add_reception(int bulk, std::span<const PagePiece> pieces,
                             tracee::SyscallProgram& program);

// The next bytes of the payload, through `buffer`.
void write_pages(pid_t pid, std::span<const PagePiece> pieces, image::RecordSource& source,
                 std::span<std::byte> buffer);

}  // namespace telefork::restore
