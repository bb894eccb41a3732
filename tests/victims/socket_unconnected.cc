// Sockets that are nothing yet, with options that were set.
#include <sys/socket.h>

#include "victim.h"

int main() {
  const int tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const int local = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const int stream = socket(AF_UNIX, SOCK_STREAM, 0);
  const int one = 1;
  VICTIM_CHECK(setsockopt(tcp, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one) == 0);
  VICTIM_CHECK(setsockopt(local, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
  victim_ready();
  victim_wait();
  int value = 0;
  socklen_t size = sizeof value;
  VICTIM_CHECK(getsockopt(tcp, SOL_SOCKET, SO_KEEPALIVE, &value, &size) == 0 && value == 1);
  VICTIM_CHECK(getsockopt(local, SOL_SOCKET, SO_PASSCRED, &value, &size) == 0 && value == 1);
  char byte = 0;
  VICTIM_CHECK(recv(stream, &byte, 1, MSG_DONTWAIT) == -1 && errno == EINVAL);
  VICTIM_CHECK((fcntl(tcp, F_GETFL) & O_NONBLOCK) != 0 && fcntl(local, F_GETFD) == FD_CLOEXEC);
  victim_pass();
}
