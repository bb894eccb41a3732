// A program whose file was deleted since it was started.
#include "victim.h"

int main(int argc, char** argv) {
  if (argc == 1) {
    char buffer[4096];
    const int from = open("/proc/self/exe", O_RDONLY);
    const int to = open("copy", O_WRONLY | O_CREAT, 0700);
    for (ssize_t n; (n = read(from, buffer, sizeof buffer)) > 0;) {
      VICTIM_CHECK(write(to, buffer, static_cast<std::size_t>(n)) == n);
    }
    close(from);
    close(to);
    execl("copy", argv[0], "again", nullptr);
    victim_fail("exec: %s", std::strerror(errno));
  }
  VICTIM_CHECK(unlink("copy") == 0);
  VICTIM_REFUSED_TO_PLAIN_USERS("this user may not open the old one");
  victim_ready();
  victim_wait();
  char path[256] = "";
  VICTIM_CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
  VICTIM_CHECK(std::strstr(path, "(deleted)") != nullptr);
  victim_pass();
}
