// Two thousand descriptors, with numbers beyond 1024 and holes between them.
#include <sys/resource.h>

#include "victim.h"

int main() {
  rlimit limit{};
  VICTIM_CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  if (limit.rlim_max < 5000) victim_skip("5000 descriptors");
  limit.rlim_cur = 5000;
  VICTIM_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  const int file = open("/etc/passwd", O_RDONLY);
  for (int i = 0; i < 2000; ++i) VICTIM_CHECK(fcntl(file, F_DUPFD, 100 + 2 * i) == 100 + 2 * i);
  VICTIM_CHECK(lseek(file, 6, SEEK_SET) == 6);
  victim_ready();
  victim_wait();
  for (int i = 0; i < 2000; ++i) {
    VICTIM_CHECK(lseek(100 + 2 * i, 0, SEEK_CUR) == 6);
    VICTIM_CHECK(fcntl(101 + 2 * i, F_GETFD) == -1 && errno == EBADF);
  }
  victim_pass();
}
