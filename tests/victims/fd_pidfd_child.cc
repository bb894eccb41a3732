// A pidfd of a child, which becomes readable when that ends.
#include <poll.h>

#include "victim.h"

int main() {
  const pid_t child = fork();
  VICTIM_CHECK(child >= 0);
  if (child == 0) {
    victim_await_signal();
    _exit(0);
  }
  const long fd = syscall(SYS_pidfd_open, child, 0);
  VICTIM_CHECK(fd >= 0);
  victim_ready();
  victim_wait();
  pollfd entry{static_cast<int>(fd), POLLIN, 0};
  VICTIM_CHECK(poll(&entry, 1, 0) == 0);
  VICTIM_CHECK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, nullptr, 0) == 0);
  VICTIM_CHECK(poll(&entry, 1, -1) == 1);
  victim_check_child(child);
  victim_pass();
}
