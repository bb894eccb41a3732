// Moving pages within a process (UFFDIO_MOVE, Linux 6.8; Documentation/admin-guide/mm/
// userfaultfd.rst): the system calls that it makes, as data, for whoever has it make them.
//
//     fd = userfaultfd(page_move_flags());
//     ioctl(fd, ask_for_page_moves());             // fails where the kernel cannot
//     ioctl(fd, let_pages_move_to(start, bytes));  // once for a mapping, as it is then
//     ioctl(fd, move_pages(to, from, bytes));      // present, private, anonymous, not shared
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/remote_ptr.h"

namespace telefork::kernel {

int page_move_flags();

struct IoctlCall {
  unsigned long request = 0;
  std::vector<std::byte> argument;
};
IoctlCall ask_for_page_moves();
IoctlCall let_pages_move_to(RemotePtr start, std::uint64_t bytes);
IoctlCall move_pages(RemotePtr to, RemotePtr from, std::uint64_t bytes);

}  // namespace telefork::kernel
