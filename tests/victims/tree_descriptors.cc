// Open file descriptions that a parent and its child share, and some that only look like it.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "victim.h"

namespace {

// One lock for both, and nobody else's.
void check_others_are_locked_out(int shared) {
  const pid_t stranger = fork();
  if (stranger == 0) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", getppid(), shared);
    const int again = open(path, O_RDWR);
    _exit(again >= 0 && flock(again, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK ? 0 : 1);
  }
  victim_check_child(stranger);
}

}  // namespace

int main() {
  const int shared = open("shared", O_RDWR | O_CREAT | O_TRUNC, 0600);
  unlink("shared");
  VICTIM_CHECK(write(shared, "0123456789", 10) == 10 && lseek(shared, 3, SEEK_SET) == 3);
  VICTIM_CHECK(flock(shared, LOCK_EX) == 0);
  const int words = open("/etc/passwd", O_RDONLY);
  const int counter = eventfd(5, EFD_NONBLOCK);
  const int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  const itimerspec never{{0, 0}, {100'000, 0}};
  VICTIM_CHECK(timerfd_settime(timer, 0, &never, nullptr) == 0);
  const int memory = memfd_create("both", MFD_CLOEXEC);
  VICTIM_CHECK(ftruncate(memory, 8192) == 0 && pwrite(memory, "memory", 6, 4096) == 6);
  int pair[2];
  VICTIM_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
  VICTIM_CHECK(send(pair[0], "to the child", 12, 0) == 12);
  const int epoll = epoll_create1(0);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 77;
  VICTIM_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) == 0);
  int told[2];
  VICTIM_CHECK(pipe(told) == 0);
  const pid_t child = fork();
  if (child == 0) {
    close(pair[0]);
    close(told[0]);
    close(words);
    const int own = open("/etc/passwd", O_RDONLY);  // at the number of the one just closed
    VICTIM_CHECK(own == words && lseek(own, 9, SEEK_SET) == 9);
    VICTIM_CHECK(send(pair[1], "to the parent", 13, 0) == 13);
    VICTIM_CHECK(write(told[1], "x", 1) == 1);
    victim_await_signal();
    char text[16] = "";
    VICTIM_CHECK(lseek(own, 0, SEEK_CUR) == 9);
    VICTIM_CHECK(lseek(shared, 0, SEEK_CUR) == 5 && read(shared, text, 2) == 2);
    VICTIM_CHECK(std::strcmp(text, "56") == 0);
    VICTIM_CHECK(recv(pair[1], text, sizeof text, 0) == 12);
    eventfd_t count = 0;
    VICTIM_CHECK(eventfd_read(counter, &count) == 0 && count == 7);
    VICTIM_CHECK(pwrite(memory, "MEMORY", 6, 4096) == 6);
    itimerspec left{};
    VICTIM_CHECK(timerfd_gettime(timer, &left) == 0 && left.it_value.tv_sec > 90'000);
    VICTIM_CHECK(timerfd_settime(timer, 0, &left, nullptr) == 0);
    VICTIM_CHECK(write(told[1], "x", 1) == 1);
    victim_await_signal();
    _exit(0);
  }
  close(pair[1]);
  close(told[1]);
  char done;
  VICTIM_CHECK(read(told[0], &done, 1) == 1);
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  char text[16] = "";
  VICTIM_CHECK(read(shared, text, 2) == 2 && std::strcmp(text, "34") == 0);
  VICTIM_CHECK(lseek(words, 0, SEEK_CUR) == 0);
  VICTIM_CHECK(eventfd_write(counter, 2) == 0);
  epoll_event got{};
  VICTIM_CHECK(epoll_wait(epoll, &got, 1, 0) == 1 && got.data.u64 == 77);
  VICTIM_CHECK(kill(child, SIGTERM) == 0 && read(told[0], &done, 1) == 1);
  VICTIM_CHECK(lseek(shared, 0, SEEK_CUR) == 7);
  VICTIM_CHECK(epoll_wait(epoll, &got, 1, 0) == 0);
  VICTIM_CHECK(pread(memory, text, 6, 4096) == 6 && std::strcmp(text, "MEMORY") == 0);
  char packet[16] = "";
  VICTIM_CHECK(recv(pair[0], packet, sizeof packet, 0) == 13);
  check_others_are_locked_out(shared);
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  VICTIM_CHECK(recv(pair[0], packet, sizeof packet, 0) == 0);
  victim_pass();
}
