#include "tracee/memory.h"

#include <algorithm>
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

namespace {

constexpr std::size_t kMostParts = 1024;  // UIO_MAXIOV

// Goes through all of `remote` in one or a few calls of `transfer`, with `local` beside it.
template <class Transfer>
void transfer_scattered(std::span<iovec> remote, iovec local, Transfer transfer) {
  while (!remote.empty()) {
    std::span<iovec> some = remote.first(std::min(remote.size(), kMostParts));
    iovec here = local;
    ssize_t count = transfer(here, some);
    auto done = static_cast<std::size_t>(count);
    local.iov_base = static_cast<char*>(local.iov_base) + done;
    local.iov_len -= done;
    while (!remote.empty() && done >= remote[0].iov_len) {
      done -= remote[0].iov_len;
      remote = remote.subspan(1);
    }
    if (done == 0) continue;
    remote[0].iov_base = static_cast<char*>(remote[0].iov_base) + done;
    remote[0].iov_len -= done;
  }
}

}  // namespace

void write_scattered(pid_t pid, std::span<iovec> to, std::span<const std::byte> bytes) {
  const iovec local = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  transfer_scattered(to, local, [pid](iovec& from, std::span<iovec> some) {
    ssize_t count = ::process_vm_writev(pid, &from, 1, some.data(), some.size(), 0);
    if (count > 0) return count;
    throw_errno(fmt::format("writing memory of process {} at {}", pid, some[0].iov_base),
                count == 0 ? EFAULT : errno);
  });
}

void ScatteredMemory::add(RemotePtr address, std::span<const std::byte> bytes) {
  places_.push_back({address, bytes_.size(), bytes.size()});
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void ScatteredMemory::add(RemotePtr address, std::size_t size) {
  places_.push_back({address, bytes_.size(), size});
  bytes_.resize(bytes_.size() + size);
}

std::vector<iovec> ScatteredMemory::remote_parts() const {
  std::vector<iovec> parts;
  parts.reserve(places_.size());
  for (const Place& place : places_) {
    parts.push_back({reinterpret_cast<void*>(place.address.value()), place.size});
  }
  return parts;
}

void ScatteredMemory::write(pid_t pid) const {
  std::vector<iovec> parts = remote_parts();
  write_scattered(pid, parts, bytes_);
}

void ScatteredMemory::read(pid_t pid) {
  std::vector<iovec> parts = remote_parts();
  transfer_scattered(
      parts, {bytes_.data(), bytes_.size()}, [pid](iovec& to, std::span<iovec> some) {
        ssize_t count = ::process_vm_readv(pid, &to, 1, some.data(), some.size(), 0);
        if (count > 0) return count;
        throw_errno(fmt::format("reading memory of process {} at {}", pid, some[0].iov_base),
                    count == 0 ? EFAULT : errno);
      });
}

std::span<const std::byte> ScatteredMemory::bytes(std::size_t index) const {
  const Place& place = places_[index];
  return std::span(bytes_).subspan(place.offset, place.size);
}

}  // namespace telefork::tracee
