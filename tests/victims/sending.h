// Messages with descriptors.
#pragma once

#include <initializer_list>

#include <sys/socket.h>

#include "victim.h"

struct SentMessage {
  char bytes[16] = "";
  ssize_t size = 0;
  int fds[4] = {-1, -1, -1, -1};
  int count = 0;
};

union SentControl {
  cmsghdr header;
  char bytes[CMSG_SPACE(4 * sizeof(int))];
};

inline void send_with(int socket, const char* text, std::initializer_list<int> fds) {
  iovec data{const_cast<char*>(text), std::strlen(text)};
  SentControl control{};
  control.header = {CMSG_LEN(fds.size() * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  std::memcpy(CMSG_DATA(&control.header), fds.begin(), fds.size() * sizeof(int));
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
  VICTIM_CHECK(sendmsg(socket, &message, 0) == static_cast<ssize_t>(data.iov_len));
}

inline SentMessage receive_with(int socket, size_t most) {
  SentMessage received;
  iovec data{received.bytes, most};
  SentControl control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof control;
  received.size = recvmsg(socket, &message, MSG_DONTWAIT);
  VICTIM_CHECK(received.size >= 0 && (message.msg_flags & MSG_CTRUNC) == 0);
  if (message.msg_controllen == 0) return received;
  received.count = static_cast<int>((control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int));
  std::memcpy(received.fds, CMSG_DATA(&control.header), received.count * sizeof(int));
  return received;
}
