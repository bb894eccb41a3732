// Descriptors on their way through a stream, with bytes before and behind those that they came
// with: a file that is open nowhere else, one that is open, and the end of a pipe that has the
// other one.
#include "sending.h"

int main() {
  int ends[2];
  int pipes[2];
  VICTIM_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && pipe(pipes) == 0);
  const int alone = open("/etc/passwd", O_RDONLY);
  const int shared = open("/etc/passwd", O_RDONLY);
  VICTIM_CHECK(lseek(alone, 8, SEEK_SET) == 8 && lseek(shared, 5, SEEK_SET) == 5);
  VICTIM_CHECK(write(ends[0], "before", 6) == 6);
  send_with(ends[0], "with", {alone, shared});
  send_with(ends[0], "pipe", {pipes[1]});
  VICTIM_CHECK(write(ends[0], "behind", 6) == 6);
  VICTIM_CHECK(write(pipes[1], "inside", 6) == 6 && close(pipes[1]) == 0 && close(alone) == 0);
  victim_ready();
  victim_wait();
  // Whoever reads no further gets none of them.
  const SentMessage before = receive_with(ends[1], 6);
  VICTIM_CHECK(before.size == 6 && before.count == 0);
  const SentMessage with = receive_with(ends[1], 2);
  VICTIM_CHECK(with.size == 2 && with.count == 2 && std::memcmp(with.bytes, "wi", 2) == 0);
  VICTIM_CHECK(lseek(with.fds[0], 0, SEEK_CUR) == 8 && lseek(with.fds[1], 0, SEEK_CUR) == 5);
  VICTIM_CHECK(lseek(shared, 3, SEEK_SET) == 3 && lseek(with.fds[1], 0, SEEK_CUR) == 3);
  char rest[16];
  VICTIM_CHECK(read(ends[1], rest, 2) == 2);
  const SentMessage last = receive_with(ends[1], sizeof rest);
  VICTIM_CHECK(last.size >= 4 && last.count == 1 && std::memcmp(last.bytes, "pipe", 4) == 0);
  VICTIM_CHECK(read(pipes[0], rest, sizeof rest) == 6 && write(last.fds[0], "more", 4) == 4 &&
               close(last.fds[0]) == 0 && read(pipes[0], rest, sizeof rest) == 4 &&
               read(pipes[0], rest, sizeof rest) == 0);
  if (last.size == 4) VICTIM_CHECK(read(ends[1], rest, sizeof rest) == 6);
  victim_pass();
}
