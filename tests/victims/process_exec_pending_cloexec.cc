// A program that execs itself afterwards: what was to be closed is closed, the rest stays.
#include "victim.h"

int main(int argc, char** argv) {
  if (argc > 1) {
    VICTIM_CHECK(lseek(500, 0, SEEK_CUR) == 4);
    VICTIM_CHECK(fcntl(501, F_GETFD) == -1 && errno == EBADF);
    VICTIM_CHECK(getpid() == std::atoi(argv[1]));
    victim_pass();
  }
  const int file = open("/etc/passwd", O_RDONLY);
  VICTIM_CHECK(fcntl(file, F_DUPFD, 500) == 500 && fcntl(file, F_DUPFD_CLOEXEC, 501) == 501);
  VICTIM_CHECK(lseek(file, 4, SEEK_SET) == 4);
  char pid[16];
  snprintf(pid, sizeof pid, "%d", getpid());
  victim_ready();
  victim_wait();
  execl(argv[0], argv[0], pid, nullptr);
  victim_fail("exec: %s", std::strerror(errno));
}
