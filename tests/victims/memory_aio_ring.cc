// A context of io_setup(2), whose ring the kernel has mapped.
#include <linux/aio_abi.h>

#include "victim.h"

int main() {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, 8, &context) != 0) victim_skip("io_setup");
  VICTIM_REFUSED("the kernel tells nobody which requests of aio are under way");
  victim_ready();
  victim_wait();
  const int file = open("/etc/passwd", O_RDONLY);
  char text[16];
  iocb request{};
  iocb* requests[] = {&request};
  io_event event{};
  request.aio_lio_opcode = IOCB_CMD_PREAD;
  request.aio_fildes = static_cast<unsigned>(file);
  request.aio_buf = reinterpret_cast<unsigned long>(text);
  request.aio_nbytes = sizeof text;
  VICTIM_CHECK(syscall(SYS_io_submit, context, 1, requests) == 1);
  VICTIM_CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, nullptr) == 1);
  VICTIM_CHECK(event.res == sizeof text && syscall(SYS_io_destroy, context) == 0);
  victim_pass();
}
