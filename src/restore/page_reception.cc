#include "restore/page_reception.h"

#include <algorithm>
#include <vector>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "kernel/abi.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

constexpr std::size_t kMostReceived = 1024;  // IOV_MAX
// Less is made on a fault in less time than a step and its system call take.
constexpr std::uint64_t kWorthAStep = 5 * kPageSize;

iovec vector_of(RemotePtr at, std::uint64_t size) {
  return {reinterpret_cast<void*>(at.value()), size};
}

// Of the first pieces; never more than one system call takes.
std::size_t count_in_chunk(std::span<const PagePiece> pieces) {
  std::size_t count = 0;
  for (std::uint64_t bytes = 0; count < pieces.size(); ++count) {
    bytes += pieces[count].size;
    if (count > 0 && bytes > kReceptionChunk) break;
  }
  return std::min(count, kMostReceived);
}

// Fails where fewer bytes came; its result tells how many.
struct Reception {
  tracee::Result result;
  std::uint64_t bytes;
};

Reception add_reception(int bulk, std::span<const PagePiece> pieces,
                        tracee::SyscallProgram& program) {
  std::vector<iovec> vectors;
  std::uint64_t bytes = 0;
  for (const PagePiece& piece : pieces) {
    vectors.push_back(vector_of(piece.at, piece.size));
    bytes += piece.size;
  }
  tracee::Data vector_data = program.bytes(std::as_bytes(std::span(vectors)));
  msghdr message{};
  message.msg_iovlen = vectors.size();
  tracee::Data message_data = program.object(message);
  program.point(message_data + offsetof(msghdr, msg_iov), vector_data);
  return {program.call_expecting("receiving pages", static_cast<std::int64_t>(bytes), SYS_recvmsg,
                                 {bulk, message_data, MSG_WAITALL}),
          bytes};
}

}  // namespace

void add_population(std::span<const PagePiece> pieces, const HugePages& huge, bool only_huge,
                    tracee::SyscallProgram& program) {
  for (const PagePiece& piece : pieces) {
    if (piece.has_huge()) {
      for (RemotePtr at = piece.first_huge(); at < piece.huge_end(); at = at + kHugePageSize) {
        huge.add_page(at, program);
      }
    }
    if (only_huge || piece.size < kWorthAStep) continue;
    program.call("populating memory", SYS_madvise,
                 {piece.at, piece.size, kernel::kMadvPopulateWrite});
  }
}

std::uint64_t receive_pages(tracee::Stub& stub, tracee::SyscallProgram program, int bulk,
                            std::span<const PagePiece> pieces, const HugePages& huge) {
  std::vector<Reception> receptions;
  // A chunk's memory is made while the one before it is on its way.
  for (std::span<const PagePiece> rest = pieces; !rest.empty();) {
    std::span<const PagePiece> chunk = rest.first(count_in_chunk(rest));
    add_population(chunk, huge, false, program);
    receptions.push_back(add_reception(bulk, chunk, program));
    rest = rest.subspan(chunk.size());
  }
  tracee::ProgramRun run = stub.try_run(program);
  std::uint64_t received = 0;
  for (const Reception& one : receptions) {
    if (one.result.step > run.failed()) break;
    if (one.result.step == run.failed()) {
      return received +
             static_cast<std::uint64_t>(std::max<std::int64_t>(run.result(one.result), 0));
    }
    received += one.bytes;
  }
  run.check(program);
  return received;
}

std::vector<PagePiece> drop_first(std::vector<PagePiece> pieces, std::uint64_t bytes) {
  auto whole = pieces.begin();
  while (whole != pieces.end() && whole->size <= bytes) bytes -= (whole++)->size;
  pieces.erase(pieces.begin(), whole);
  if (bytes > 0) {
    pieces.front().at = pieces.front().at + bytes;
    pieces.front().size -= bytes;
  }
  return pieces;
}

// In pieces of the buffer, each written by one call to all runs that it covers.
void write_pages(pid_t pid, std::span<const PagePiece> pieces,
                 const std::function<void(std::span<std::byte>)>& read,
                 std::span<std::byte> buffer) {
  std::uint64_t done = 0;  // of the first of them
  while (!pieces.empty()) {
    std::vector<iovec> vectors;
    std::size_t filled = 0;
    while (!pieces.empty() && filled < buffer.size() && vectors.size() < kMostReceived) {
      const PagePiece& to = pieces.front();
      std::uint64_t part = std::min<std::uint64_t>(to.size - done, buffer.size() - filled);
      vectors.push_back(vector_of(to.at + done, part));
      filled += part;
      done += part;
      if (done < to.size) break;
      pieces = pieces.subspan(1);
      done = 0;
    }
    std::span<std::byte> bytes = buffer.first(filled);
    read(bytes);
    tracee::write_scattered(pid, vectors, bytes);
  }
}

void write_pages(pid_t pid, std::span<const PagePiece> pieces, image::RecordSource& source,
                 std::span<std::byte> buffer) {
  write_pages(
      pid, pieces, [&source](std::span<std::byte> bytes) { source.read_payload(bytes); }, buffer);
}

}  // namespace telefork::restore
