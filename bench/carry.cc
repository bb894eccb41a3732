#include "carry.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace telefork::bench {
namespace {

constexpr std::size_t kHugePageSize = 2 * 1024 * 1024;

std::size_t round_up(std::size_t size) {
  return (size + kHugePageSize - 1) / kHugePageSize * kHugePageSize;
}

std::byte* map_aligned(std::size_t size) {
  void* at = mmap(nullptr, size + kHugePageSize, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) fail_errno("mmap");
  return reinterpret_cast<std::byte*>(round_up(reinterpret_cast<std::uintptr_t>(at)));
}

}  // namespace

pid_t fork_bound_child() {
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) fail_errno("fork");
  if (pid > 0) return pid;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail_errno("PR_SET_PDEATHSIG");
  if (getppid() != parent) _exit(1);  // it was too late
  return 0;
}

Source::Source(std::size_t size, Pages pages) {
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) fail_errno("pipe2");
  pid_ = fork_bound_child();
  if (pid_ == 0) {
    TouchedMemory memory(size, pages);
    const std::byte* at = memory.data();
    if (write(ready[1], &at, sizeof at) != sizeof at) _exit(1);
    for (;;) pause();
  }
  close(ready[1]);
  if (read(ready[0], &memory_, sizeof memory_) != sizeof memory_) fail("no source");
  close(ready[0]);
}

Source::~Source() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

std::byte* make_buffer() {
  std::byte* buffer = map_aligned(kPiece);
  if (madvise(buffer, kPiece, MADV_DONTFORK) != 0) fail_errno("MADV_DONTFORK");
  std::memset(buffer, 1, kPiece);
  return buffer;
}

void read_piece(pid_t source, const std::byte* from, std::byte* to, std::size_t size) {
  const iovec here{to, size};
  const iovec there{const_cast<std::byte*>(from), size};
  if (process_vm_readv(source, &here, 1, &there, 1, 0) != static_cast<ssize_t>(size)) {
    fail_errno("process_vm_readv");
  }
}

Staging::Staging(std::size_t size)
    : staging_(map_aligned(round_up(size))), place_(map_aligned(round_up(size))), size_(size) {
  if (madvise(staging_, round_up(size), MADV_HUGEPAGE) != 0) fail_errno("MADV_HUGEPAGE");
}

void Staging::put_in_place() {
  if (mremap(staging_, size_, size_, MREMAP_MAYMOVE | MREMAP_FIXED, place_) == MAP_FAILED) {
    fail_errno("mremap");
  }
}

void reap(pid_t pid) {
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || status != 0) fail("a child failed");
}

}  // namespace telefork::bench
