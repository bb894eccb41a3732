// Pages of an image into the memory of a process with a stub in it: received by the process itself
// where their bytes come raw on a stream that it has, else read here and written there.
//
//     std::uint64_t received = receive_pages(stub, program, bulk, pieces, huge_pages);
//     source.payload_taken_elsewhere(received);
//     write_pages(pid, drop_first(pieces, received), source, buffer);
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "image/record_source.h"
#include "restore/huge_pages.h"
#include "tracee/stub.h"
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

// A piece is no larger than what is populated and received at a time. A socket's buffer should hold
// as much: then the sender goes on while the memory is made.
inline constexpr std::uint64_t kReceptionChunk = 2 * 1024 * 1024;
static_assert(kReceptionChunk % kHugePageSize == 0);

// Memory is made present before the process receives into it: the kernel fills a page that is there
// ten times as fast as one that it has to make on a fault. process_vm_writev(2) makes pages without
// a fault, so that only huge ones are worth a step then.
void add_population(std::span<const PagePiece> pieces, const HugePages& huge, bool only_huge,
                    tracee::SyscallProgram& program);

// Runs `program`, and behind it receives the next bytes of `bulk`, a descriptor of the process,
// into the pieces. Returns how many came. Fewer, where something has ended the system call early (a
// SIGSTOP, a frozen cgroup), and where nothing more came, for whatever reason.
std::uint64_t receive_pages(tracee::Stub& stub, tracee::SyscallProgram program, int bulk,
                            std::span<const PagePiece> pieces, const HugePages& huge);
// What is left of them.
std::vector<PagePiece> drop_first(std::vector<PagePiece> pieces, std::uint64_t bytes);

// What `read` gives, one buffer after the other, through `buffer`.
void write_pages(pid_t pid, std::span<const PagePiece> pieces,
                 const std::function<void(std::span<std::byte>)>& read,
                 std::span<std::byte> buffer);
// The next bytes of the payload.
void write_pages(pid_t pid, std::span<const PagePiece> pieces, image::RecordSource& source,
                 std::span<std::byte> buffer);

}  // namespace telefork::restore
