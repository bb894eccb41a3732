// An eventfd with a count in it, and one in semaphore mode.
#include <sys/eventfd.h>

#include "victim.h"

int main() {
  const int counter = eventfd(7, EFD_NONBLOCK);
  const int semaphore = eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE);
  VICTIM_CHECK(counter >= 0 && semaphore >= 0);
  victim_ready();
  victim_wait();
  eventfd_t value = 0;
  VICTIM_CHECK(eventfd_read(counter, &value) == 0 && value == 7);
  VICTIM_CHECK(eventfd_read(counter, &value) == -1 && errno == EAGAIN);
  for (int i = 0; i < 3; ++i) VICTIM_CHECK(eventfd_read(semaphore, &value) == 0 && value == 1);
  VICTIM_CHECK(eventfd_read(semaphore, &value) == -1 && errno == EAGAIN);
  VICTIM_CHECK(eventfd_write(counter, 5) == 0 && eventfd_read(counter, &value) == 0 && value == 5);
  victim_pass();
}
