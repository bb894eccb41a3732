// An edge-triggered watch whose edge has been seen: no second event comes of it.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "victim.h"

int main() {
  const int epoll = epoll_create1(0);
  const int counter = eventfd(1, EFD_NONBLOCK);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  VICTIM_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) == 0);
  VICTIM_CHECK(epoll_wait(epoll, &event, 1, 0) == 1 && epoll_wait(epoll, &event, 1, 0) == 0);
  VICTIM_LOSES("What is ready is told once more with EPOLLET");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(epoll_wait(epoll, &event, 1, 0) == 0);
  VICTIM_CHECK(eventfd_write(counter, 1) == 0 && epoll_wait(epoll, &event, 1, 0) == 1);
  victim_pass();
}
