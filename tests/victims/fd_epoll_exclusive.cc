// An eventfd that two epolls watch with EPOLLEXCLUSIVE, as servers of several threads do.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "victim.h"

static int watch(int target, unsigned events) {
  const int epoll = epoll_create1(0);
  epoll_event event{};
  event.events = events | EPOLLEXCLUSIVE;
  event.data.u64 = 0x1234'5678'9abcULL + events;
  VICTIM_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, target, &event) == 0);
  return epoll;
}

static void check(int epoll, int target, unsigned events) {
  epoll_event event{};
  VICTIM_CHECK(epoll_wait(epoll, &event, 1, 0) == 1);
  VICTIM_CHECK(event.events == EPOLLIN && event.data.u64 == 0x1234'5678'9abcULL + events);
  // What is exclusive cannot be changed (epoll_ctl(2)).
  event.events = EPOLLIN;
  VICTIM_CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, target, &event) == -1 && errno == EINVAL);
}

int main() {
  const int target = eventfd(0, EFD_NONBLOCK);
  const int level = watch(target, EPOLLIN);
  const int edge = watch(target, EPOLLIN | EPOLLET);
  victim_ready();
  victim_wait();
  epoll_event event{};
  VICTIM_CHECK(epoll_wait(level, &event, 1, 0) == 0 && epoll_wait(edge, &event, 1, 0) == 0);
  VICTIM_CHECK(eventfd_write(target, 1) == 0);
  check(level, target, EPOLLIN);
  check(edge, target, EPOLLIN | EPOLLET);
  VICTIM_CHECK(epoll_wait(edge, &event, 1, 0) == 0);
  victim_pass();
}
