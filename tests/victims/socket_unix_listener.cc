// Listeners with names in the file system: of streams and of packets, and a name that is bound to
// only.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "victim.h"

static sockaddr_un name_of(const char* file) {
  sockaddr_un address{AF_UNIX, ""};
  VICTIM_CHECK(getcwd(address.sun_path, sizeof address.sun_path - 16) != nullptr);
  std::strcat(address.sun_path, "/");
  std::strcat(address.sun_path, file);
  return address;
}

static int make(const char* file, int type, mode_t mode) {
  const sockaddr_un address = name_of(file);
  const int fd = socket(AF_UNIX, type, 0);
  VICTIM_CHECK(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  VICTIM_CHECK(chmod(file, mode) == 0);
  return fd;
}

static void check_name(int fd, const char* file, mode_t mode) {
  const sockaddr_un address = name_of(file);
  sockaddr_un found{};
  socklen_t size = sizeof found;
  struct stat stat;
  VICTIM_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&found), &size) == 0);
  VICTIM_CHECK(std::strcmp(found.sun_path, address.sun_path) == 0);
  VICTIM_CHECK(lstat(file, &stat) == 0 && S_ISSOCK(stat.st_mode));
  VICTIM_CHECK((stat.st_mode & 07777) == mode);
}

static void check_client(int listener, const char* file, int type) {
  const sockaddr_un address = name_of(file);
  const int client = socket(AF_UNIX, type, 0);
  ucred server{};
  socklen_t size = sizeof server;
  VICTIM_CHECK(connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  VICTIM_CHECK(getsockopt(client, SOL_SOCKET, SO_PEERCRED, &server, &size) == 0);
  VICTIM_CHECK(server.pid == getpid() && server.uid == getuid());
  const int accepted = accept(listener, nullptr, nullptr);
  char text[8];
  VICTIM_CHECK(accepted >= 0 && write(client, "hello", 5) == 5);
  VICTIM_CHECK(read(accepted, text, sizeof text) == 5);
  close(accepted);
  close(client);
}

int main() {
  const int streams = make("streams", SOCK_STREAM, 0660);
  const int packets = make("packets", SOCK_SEQPACKET, 0777);
  const int bound = make("bound", SOCK_STREAM, 0600);
  VICTIM_CHECK(listen(streams, 5) == 0 && listen(packets, 3) == 0);
  VICTIM_CLASHES_IN_FILES("Address already in use");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  check_name(streams, "streams", 0660);
  check_name(packets, "packets", 0777);
  check_name(bound, "bound", 0600);
  check_client(streams, "streams", SOCK_STREAM);
  check_client(packets, "packets", SOCK_SEQPACKET);
  VICTIM_CHECK(listen(bound, 1) == 0);
  check_client(bound, "bound", SOCK_STREAM);
  VICTIM_CHECK(unlink("streams") == 0 && unlink("packets") == 0 && unlink("bound") == 0);
  victim_pass();
}
