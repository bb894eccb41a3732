#include "kernel/userfault.h"

#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_system.h"

namespace telefork::kernel {
namespace {

constexpr std::uint64_t kEvents = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                  UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;

// Of UFFDIO_COPY and UFFDIO_ZEROPAGE. Where some were done the next attempt tells of the others.
Userfault::Placed outcome_of(int result, int error, std::int64_t done) {
  using Outcome = Userfault::Outcome;
  const std::uint64_t bytes = done > 0 ? static_cast<std::uint64_t>(done) : 0;
  if (result == 0) return {Outcome::kDone, bytes};
  switch (error) {
    case EEXIST:
      return {Outcome::kPresent, bytes};
    case ENOENT:
      return {Outcome::kNotThere, bytes};
    case EAGAIN:
      return {Outcome::kChanging, bytes};
    case ESRCH:
      return {Outcome::kOver, 0};
    case ENOMEM:
      throw Error(Code::kResources, "there is no memory for a page that has come", error);
    default:
      throw_errno("putting a page that has come in its place", error);
  }
}

Userfault::Event event_of(const uffd_msg& message) {
  using Kind = Userfault::Event::Kind;
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      return {Kind::kFault,
              RemotePtr(round_down(message.arg.pagefault.address, kPageSize)),
              {},
              {},
              {}};
    case UFFD_EVENT_FORK:
      return {Kind::kForked, {}, {}, {}, UniqueFd(static_cast<int>(message.arg.fork.ufd))};
    case UFFD_EVENT_REMAP: {
      const RemotePtr from(message.arg.remap.from);
      return {
          Kind::kMoved, from, from + message.arg.remap.len, RemotePtr(message.arg.remap.to), {}};
    }
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      return {message.event == UFFD_EVENT_REMOVE ? Kind::kDropped : Kind::kUnmapped,
              RemotePtr(message.arg.remove.start),
              RemotePtr(message.arg.remove.end),
              {},
              {}};
    default:
      throw Error(Code::kUnsupported, fmt::format("userfaultfd(2) tells of an event {:#x}",
                                                  static_cast<unsigned>(message.event)));
  }
}

}  // namespace

int Userfault::flags() { return O_CLOEXEC | O_NONBLOCK; }

Userfault::Userfault(UniqueFd fd, bool watches_writes) : fd_(std::move(fd)) {
  uffdio_api api{.api = UFFD_API,
                 .features = kEvents | (watches_writes ? kUffdFeatureWpAsync : 0),
                 .ioctls = 0};
  if (::ioctl(fd_.get(), UFFDIO_API, &api) != 0) {
    throw_errno("asking to be told of missing pages", errno, Code::kUnsupported);
  }
}

void Userfault::enlist(RemotePtr start, std::uint64_t size, bool watch_writes) const {
  uffdio_register wanted{
      .range = {start.value(), size},
      .mode = UFFDIO_REGISTER_MODE_MISSING | (watch_writes ? UFFDIO_REGISTER_MODE_WP : 0),
      .ioctls = 0};
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &wanted) == 0) return;
  throw_errno(
      fmt::format("watching {:#x}-{:#x} for missing pages", start.value(), start.value() + size));
}

std::optional<Userfault::Event> Userfault::try_read() const {
  uffd_msg message;
  const ssize_t got = ::read(fd_.get(), &message, sizeof(message));
  if (got == static_cast<ssize_t>(sizeof(message))) return event_of(message);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  throw_errno("reading what happens to the guest's memory", got < 0 ? errno : EIO);
}

Userfault::Placed Userfault::copy(RemotePtr at, std::span<const std::byte> bytes,
                                  bool protect) const {
  uffdio_copy copy{.dst = at.value(),
                   .src = reinterpret_cast<std::uintptr_t>(bytes.data()),
                   .len = bytes.size(),
                   .mode = protect ? UFFDIO_COPY_MODE_WP : 0,
                   .copy = 0};
  const int result = ::ioctl(fd_.get(), UFFDIO_COPY, &copy);
  return outcome_of(result, errno, copy.copy);
}

Userfault::Placed Userfault::fill_with_zeros(RemotePtr at, std::uint64_t size) const {
  uffdio_zeropage zero{.range = {at.value(), size}, .mode = 0, .zeropage = 0};
  const int result = ::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &zero);
  return outcome_of(result, errno, zero.zeropage);
}

// That is looked at first, before it is seen that no process has a place of this address.
bool Userfault::is_changing() const {
  alignas(kPageSize) static const std::byte page[kPageSize] = {};
  uffdio_copy nowhere{.dst = ~std::uint64_t{0} << 12,
                      .src = reinterpret_cast<std::uintptr_t>(page),
                      .len = kPageSize,
                      .mode = 0,
                      .copy = 0};
  return ::ioctl(fd_.get(), UFFDIO_COPY, &nowhere) != 0 && errno == EAGAIN;
}

void Userfault::wake(RemotePtr at, std::uint64_t size) const {
  uffdio_range range{at.value(), size};
  if (::ioctl(fd_.get(), UFFDIO_WAKE, &range) != 0) throw_errno("waking who waits for a page");
}

FaultBar find_fault_bar(bool as_other_user) {
  if (as_other_user && !read_unprivileged_userfaultfd()) return FaultBar::kUser;
  UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, Userfault::flags())));
  if (!fd) return errno == EPERM ? FaultBar::kUser : FaultBar::kKernel;
  try {
    const Userfault tried(std::move(fd), true);
    return FaultBar::kNone;
  } catch (const Error& error) {
    if (error.code() != Code::kUnsupported) throw;
    return FaultBar::kKernel;
  }
}

const char* say_bar(FaultBar bar) {
  switch (bar) {
    case FaultBar::kNone:
      return "";
    case FaultBar::kUser:
      return "only root may wait for missing memory (userfaultfd(2)); have root set "
             "vm.unprivileged_userfaultfd to 1, or use mode eager";
    case FaultBar::kKernel:
      return "its kernel cannot tell of missing memory (userfaultfd(2) of Linux 6.7 can); use mode "
             "eager";
  }
  return "";
}

}  // namespace telefork::kernel
