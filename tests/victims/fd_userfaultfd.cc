// A userfaultfd that watches a page, of which nothing was touched.
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "victim.h"

int main() {
  const long fd = syscall(SYS_userfaultfd, O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0) victim_skip("userfaultfd");
  uffdio_api api{UFFD_API, 0, 0};
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uffdio_register range{};
  range.range = {reinterpret_cast<unsigned long>(page), 4096};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  VICTIM_CHECK(ioctl(static_cast<int>(fd), UFFDIO_API, &api) == 0);
  VICTIM_CHECK(ioctl(static_cast<int>(fd), UFFDIO_REGISTER, &range) == 0);
  VICTIM_REFUSED("this kind of descriptor cannot move yet");
  VICTIM_REFUSED("a userfaultfd of the program watches it");
  victim_ready();
  victim_wait();
  uffdio_zeropage zero{};
  zero.range = range.range;
  VICTIM_CHECK(ioctl(static_cast<int>(fd), UFFDIO_ZEROPAGE, &zero) == 0 && zero.zeropage == 4096);
  VICTIM_CHECK(*static_cast<int*>(page) == 0);
  victim_pass();
}
