// Listeners of a process that has another root directory: one that was bound before, as a daemon's,
// and one within it, with a connection by its name.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <initializer_list>

#include "victim.h"

static int listen_at(const char* path) {
  sockaddr_un address{AF_UNIX, ""};
  std::strcpy(address.sun_path, path);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  VICTIM_CHECK(listen(fd, 5) == 0);
  return fd;
}

static int connect_to(const char* path) {
  sockaddr_un address{AF_UNIX, ""};
  std::strcpy(address.sun_path, path);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

static void check_pair(int client, int accepted) {
  for (const int fd : {client, accepted}) {
    ucred other{};
    socklen_t size = sizeof other;
    VICTIM_CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &size) == 0);
    VICTIM_CHECK(other.pid == getpid());
  }
  char text[8];
  VICTIM_CHECK(write(client, "to", 2) == 2 && read(accepted, text, sizeof text) == 2);
  VICTIM_CHECK(write(accepted, "fro", 3) == 3 && read(client, text, sizeof text) == 3);
}

static void check_name(int fd, const char* path) {
  sockaddr_un found{};
  socklen_t size = sizeof found;
  VICTIM_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&found), &size) == 0);
  VICTIM_CHECK(std::strcmp(found.sun_path, path) == 0);
}

int main() {
  if (geteuid() != 0) victim_skip("root");
  char before[100];
  VICTIM_CHECK(getcwd(before, sizeof before - 16) != nullptr);
  std::strcat(before, "/before");
  const int folder = open(".", O_PATH | O_DIRECTORY);
  const int outside = listen_at(before);
  const int first = connect_to(before);
  const int first_accepted = accept(outside, nullptr, nullptr);
  VICTIM_CHECK(mkdir("root", 0700) == 0 && chroot("root") == 0 && chdir("/") == 0);
  const int inside = listen_at("/within");
  const int client = connect_to("/within");
  const int accepted = accept(inside, nullptr, nullptr);
  VICTIM_CLASHES_IN_FILES("Address already in use");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  VICTIM_NOT_COPIED("a socket cannot move yet");
  victim_ready();
  victim_wait();
  check_name(outside, before);
  check_name(first_accepted, before);
  check_name(inside, "/within");
  check_name(accepted, "/within");
  check_pair(first, first_accepted);
  check_pair(client, accepted);
  const int next = connect_to("/within");
  check_pair(next, accept(inside, nullptr, nullptr));
  VICTIM_CHECK(unlink("/within") == 0 && fchdir(folder) == 0);
  const int last = connect_to("before");
  check_pair(last, accept(outside, nullptr, nullptr));
  VICTIM_CHECK(unlink("before") == 0 && rmdir("root") == 0);
  victim_pass();
}
