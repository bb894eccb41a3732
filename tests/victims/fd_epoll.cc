// An epoll instance: what it watches, with which data, edge-triggered, one-shot and nested.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "victim.h"

static void watch(int epoll, int fd, unsigned events, unsigned long data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  VICTIM_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

int main() {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int outer = epoll_create1(0);
  const int level = eventfd(0, EFD_NONBLOCK);
  const int once = eventfd(0, EFD_NONBLOCK);
  watch(epoll, level, EPOLLIN, 0x1234567890abcdefUL);
  watch(epoll, once, EPOLLIN | EPOLLONESHOT, 2);
  watch(outer, epoll, EPOLLIN, 3);
  victim_ready();
  victim_wait();
  epoll_event events[4];
  VICTIM_CHECK(epoll_wait(outer, events, 4, 0) == 0);
  VICTIM_CHECK(eventfd_write(once, 1) == 0);
  VICTIM_CHECK(epoll_wait(outer, events, 4, 0) == 1 && events[0].data.u64 == 3);
  VICTIM_CHECK(epoll_wait(epoll, events, 4, 0) == 1 && events[0].data.u64 == 2);
  VICTIM_CHECK(epoll_wait(epoll, events, 4, 0) == 0);
  VICTIM_CHECK(eventfd_write(level, 1) == 0 && epoll_wait(epoll, events, 4, 0) == 1);
  VICTIM_CHECK(events[0].data.u64 == 0x1234567890abcdefUL);
  victim_pass();
}
