// Memory that parent and child share, mapped differently by each, and memory that each has a copy
// of.
#include <sys/mman.h>

#include "victim.h"

namespace {

constexpr size_t kSize = 64 * 4096;

struct Shared {
  volatile int from_parent;
  volatile int from_child;
};

}  // namespace

int main() {
  void* both = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  void* part = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char* own = static_cast<char*>(
      mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  // Where the child is to have one half: kept free, for anything may lie at an address made up.
  void* elsewhere = mmap(nullptr, kSize / 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int file = memfd_create("mapped", 0);
  VICTIM_CHECK(elsewhere != MAP_FAILED);
  VICTIM_CHECK(both != MAP_FAILED && part != MAP_FAILED && own != MAP_FAILED);
  VICTIM_CHECK(ftruncate(file, kSize) == 0);
  auto* memfd =
      static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  VICTIM_CHECK(memfd != MAP_FAILED);
  close(file);
  auto* shared = static_cast<Shared*>(both);
  auto* middle = reinterpret_cast<volatile int*>(static_cast<char*>(part) + kSize / 2);
  shared->from_parent = 1;
  *middle = 3;
  std::memset(own, 'p', kSize);
  std::strcpy(memfd, "of both");
  int told[2];
  VICTIM_CHECK(pipe(told) == 0);
  const pid_t child = fork();
  if (child == 0) {
    // The child keeps one half of one of them, at another address.
    void* moved = mremap(static_cast<char*>(part) + kSize / 2, kSize / 2, kSize / 2,
                         MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere);
    VICTIM_CHECK(moved != MAP_FAILED && munmap(part, kSize / 2) == 0);
    auto* here = static_cast<volatile int*>(moved);
    own[0] = 'c';
    shared->from_child = 2;
    VICTIM_CHECK(write(told[1], "x", 1) == 1);
    victim_await_signal();
    VICTIM_CHECK(shared->from_parent == 10 && own[0] == 'c' && own[kSize - 1] == 'p');
    VICTIM_CHECK(*here == 30 && std::strcmp(memfd, "OF BOTH") == 0);
    shared->from_child = 20;
    *here = 31;
    std::strcpy(memfd + 4096, "back");
    _exit(0);
  }
  close(told[1]);
  char done;
  VICTIM_CHECK(read(told[0], &done, 1) == 1);
  close(told[0]);
  VICTIM_REFUSED_TO_PLAIN_USERS("memory that others may share stays at home");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(own[0] == 'p' && shared->from_child == 2 && shared->from_parent == 1);
  own[kSize - 1] = 'P';
  shared->from_parent = 10;
  *middle = 30;
  std::strcpy(memfd, "OF BOTH");
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  VICTIM_CHECK(shared->from_child == 20 && *middle == 31);
  VICTIM_CHECK(std::strcmp(memfd + 4096, "back") == 0);
  victim_pass();
}
