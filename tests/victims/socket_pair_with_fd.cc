// A descriptor that is on its way through a socket, and open nowhere else.
#include <sys/socket.h>

#include "victim.h"

union Control {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

static msghdr message_of(iovec& data, Control& control) {
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof control;
  return message;
}

int main() {
  int ends[2];
  VICTIM_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  int file = open("/etc/passwd", O_RDONLY);
  VICTIM_CHECK(lseek(file, 8, SEEK_SET) == 8);
  char byte = 'x';
  iovec data{&byte, 1};
  Control control{};
  control.header = {CMSG_LEN(sizeof file), SOL_SOCKET, SCM_RIGHTS};
  std::memcpy(CMSG_DATA(&control.header), &file, sizeof file);
  msghdr message = message_of(data, control);
  VICTIM_CHECK(sendmsg(ends[0], &message, 0) == 1 && close(file) == 0);
  victim_ready();
  victim_wait();
  control = {};
  message = message_of(data, control);
  VICTIM_CHECK(recvmsg(ends[1], &message, 0) == 1 && control.header.cmsg_type == SCM_RIGHTS);
  std::memcpy(&file, CMSG_DATA(&control.header), sizeof file);
  VICTIM_CHECK(lseek(file, 0, SEEK_CUR) == 8);
  victim_pass();
}
