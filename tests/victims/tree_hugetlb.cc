// Memory of hugetlb pages that parent and child share, mapped in other parts by each, and a memory
// file of them.
#include <sys/mman.h>

#include "victim.h"

namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

char* map(size_t size, int flags, int file) {
  void* memory = mmap(nullptr, size, kReadWrite, flags, file, 0);
  if (memory == MAP_FAILED && errno == ENOMEM) victim_skip("huge pages");
  VICTIM_CHECK(memory != MAP_FAILED);
  return static_cast<char*>(memory);
}

}  // namespace

int main() {
  char* shared = map(4 * kHuge, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1);
  char* own = map(kHuge, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
  const int file = memfd_create("of huge pages", MFD_HUGETLB);
  VICTIM_CHECK(file >= 0 && ftruncate(file, 2 * kHuge) == 0);
  char* mapped = map(2 * kHuge, MAP_SHARED, file);
  std::memset(shared, 's', kHuge);
  std::strcpy(shared + 3 * kHuge, "of both");
  std::strcpy(own, "the parent's");
  std::strcpy(mapped + kHuge, "in the file");
  int told[2];
  VICTIM_CHECK(pipe(told) == 0);
  const pid_t child = fork();
  if (child == 0) {
    VICTIM_CHECK(munmap(shared, kHuge) == 0 && munmap(own, kHuge) == 0);
    VICTIM_CHECK(mprotect(shared + 2 * kHuge, kHuge, PROT_READ) == 0);
    VICTIM_CHECK(munmap(mapped, 2 * kHuge) == 0);
    VICTIM_CHECK(write(told[1], "x", 1) == 1);
    victim_await_signal();
    VICTIM_CHECK(std::strcmp(shared + 3 * kHuge, "OF BOTH") == 0);
    VICTIM_CHECK(shared[kHuge] == 0 && shared[2 * kHuge] == 'p');
    std::strcpy(shared + kHuge, "the child's");
    char text[12] = "";
    VICTIM_CHECK(pread(file, text, sizeof text, kHuge) == sizeof text);
    VICTIM_CHECK(std::strcmp(text, "IN THE FILE") == 0);
    _exit(0);
  }
  close(told[1]);
  char done;
  VICTIM_CHECK(read(told[0], &done, 1) == 1);
  close(told[0]);
  victim_ready();
  victim_wait();
  for (size_t i = 0; i < kHuge; ++i) VICTIM_CHECK(shared[i] == 's');
  VICTIM_CHECK(std::strcmp(own, "the parent's") == 0 && mapped[0] == 0);
  std::strcpy(shared + 3 * kHuge, "OF BOTH");
  shared[2 * kHuge] = 'p';
  std::strcpy(mapped + kHuge, "IN THE FILE");
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  VICTIM_CHECK(std::strcmp(shared + kHuge, "the child's") == 0);
  VICTIM_CHECK(munmap(shared, 4 * kHuge) == 0);
  victim_pass();
}
