// An epoll that two processes have, which watches what only the other one has open.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "victim.h"

int main() {
  const int epoll = epoll_create1(0);
  int told[2];
  VICTIM_CHECK(pipe(told) == 0);
  const int counter = eventfd(0, 0);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 5;
  VICTIM_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) == 0);
  const pid_t child = fork();
  if (child == 0) {
    close(told[0]);
    close(told[1]);
    victim_await_signal();
    VICTIM_CHECK(eventfd_write(counter, 1) == 0);
    victim_await_signal();
    _exit(0);
  }
  close(counter);
  close(told[0]);
  close(told[1]);
  victim_ready();
  victim_wait();
  epoll_event got{};
  VICTIM_CHECK(epoll_wait(epoll, &got, 1, 0) == 0 && kill(child, SIGTERM) == 0);
  VICTIM_CHECK(epoll_wait(epoll, &got, 1, -1) == 1 && got.data.u64 == 5);
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  victim_pass();
}
