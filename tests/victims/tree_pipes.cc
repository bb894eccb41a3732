// A pipeline of three processes, with something in each pipe, and pipes that only children have.
#include "victim.h"

int main() {
  int first[2], second[2], packets[2];
  VICTIM_CHECK(pipe(first) == 0 && pipe(second) == 0 && pipe2(packets, O_DIRECT) == 0);
  // What lies there when it goes.
  VICTIM_CHECK(write(first[1], "one", 3) == 3 && write(second[1], "two", 3) == 3);
  VICTIM_CHECK(write(packets[1], "ab", 2) == 2 && write(packets[1], "cde", 3) == 3);
  const pid_t copier = fork();
  if (copier == 0) {
    close(first[1]);
    close(second[0]);
    close(packets[0]);
    close(packets[1]);
    victim_await_signal();
    char text[16];
    ssize_t n;
    while ((n = read(first[0], text, sizeof text)) > 0) {
      VICTIM_CHECK(write(second[1], text, static_cast<size_t>(n)) == n);
    }
    _exit(n == 0 ? 0 : 1);
  }
  const pid_t reader = fork();
  if (reader == 0) {
    close(first[0]);
    close(first[1]);
    close(second[1]);
    close(packets[1]);
    victim_await_signal();
    char text[16] = "";
    VICTIM_CHECK(read(packets[0], text, sizeof text) == 2);
    VICTIM_CHECK(read(packets[0], text, sizeof text) == 3);
    VICTIM_CHECK(read(packets[0], text, sizeof text) == 0);
    char all[32] = "";
    size_t size = 0;
    ssize_t n;
    while ((n = read(second[0], all + size, sizeof all - size)) > 0) size += static_cast<size_t>(n);
    VICTIM_CHECK(n == 0 && std::strcmp(all, "twoonethree") == 0);
    _exit(0);
  }
  close(first[0]);
  close(second[0]);
  close(second[1]);
  close(packets[0]);
  close(packets[1]);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(write(first[1], "three", 5) == 5);
  close(first[1]);
  VICTIM_CHECK(kill(copier, SIGTERM) == 0 && kill(reader, SIGTERM) == 0);
  victim_check_child(copier);
  victim_check_child(reader);
  victim_pass();
}
