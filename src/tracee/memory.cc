#include "tracee/memory.h"

#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/procfs.h"

namespace telefork::tracee {

std::size_t try_read_memory(pid_t pid, RemotePtr from, std::span<std::byte> to) {
  iovec local = {to.data(), to.size()};
  iovec remote = {reinterpret_cast<void*>(from.value()), to.size()};
  ssize_t count = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
  if (count >= 0) return static_cast<std::size_t>(count);
  if (errno == EFAULT) return 0;
  throw_errno(fmt::format("reading memory of process {} at {:#x}", pid, from.value()));
}

void read_memory(pid_t pid, RemotePtr from, std::span<std::byte> to) {
  std::size_t done = 0;
  while (done < to.size()) {
    std::size_t count = try_read_memory(pid, from + done, to.subspan(done));
    if (count == 0) {
      throw_errno(fmt::format("reading memory of process {} at {:#x}", pid, from.value() + done),
                  EFAULT);
    }
    done += count;
  }
}

void write_memory(pid_t pid, RemotePtr to, std::span<const std::byte> from) {
  std::size_t done = 0;
  while (done < from.size()) {
    iovec local = {const_cast<std::byte*>(from.data()) + done, from.size() - done};
    iovec remote = {reinterpret_cast<void*>(to.value() + done), from.size() - done};
    ssize_t count = ::process_vm_writev(pid, &local, 1, &remote, 1, 0);
    if (count <= 0) {
      throw_errno(fmt::format("writing memory of process {} at {:#x}", pid, to.value() + done),
                  count == 0 ? EFAULT : errno);
    }
    done += static_cast<std::size_t>(count);
  }
}

bool try_write_as_tracer(pid_t pid, RemotePtr to, std::span<const std::byte> from) {
  const UniqueFd memory(::open(kernel::mem_path(pid).c_str(), O_WRONLY | O_CLOEXEC));
  if (!memory) return false;
  return ::pwrite(memory.get(), from.data(), from.size(), static_cast<off_t>(to.value())) ==
         static_cast<ssize_t>(from.size());
}

void write_scattered(pid_t pid, std::span<iovec> to, std::span<const std::byte> bytes) {
  while (!to.empty()) {
    iovec local = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    ssize_t count = ::process_vm_writev(pid, &local, 1, to.data(), to.size(), 0);
    if (count <= 0) {
      throw_errno(fmt::format("writing memory of process {} at {}", pid, to[0].iov_base),
                  count == 0 ? EFAULT : errno);
    }
    auto done = static_cast<std::size_t>(count);
    bytes = bytes.subspan(done);
    while (!to.empty() && done >= to[0].iov_len) {
      done -= to[0].iov_len;
      to = to.subspan(1);
    }
    if (done == 0) continue;
    to[0].iov_base = static_cast<char*>(to[0].iov_base) + done;
    to[0].iov_len -= done;
  }
}

}  // namespace telefork::tracee
