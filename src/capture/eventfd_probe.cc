#include "capture/eventfd_probe.h"

#include <sys/eventfd.h>

#include "base/error.h"

namespace telefork::capture {
namespace {

std::uint64_t take(const UniqueFd& eventfd) {
  std::uint64_t value = 0;
  if (::eventfd_read(eventfd.get(), &value) != 0) throw_errno("trying an eventfd");
  return value;
}

void add(const UniqueFd& eventfd, std::uint64_t value) {
  if (value != 0 && ::eventfd_write(eventfd.get(), value) != 0) throw_errno("trying an eventfd");
}

}  // namespace

// Neither call waits: a count that is not 0 can be read, and one below its maximum be added to.
bool probe_semaphore(const UniqueFd& eventfd, std::uint64_t count) {
  if (count < 2) add(eventfd, 2);
  const std::uint64_t there = count < 2 ? count + 2 : count;
  const bool semaphore = take(eventfd) == 1;
  if (count >= 2) {
    add(eventfd, semaphore ? 1 : there);
    return semaphore;
  }
  // What is left of 2 or 3 beside the count.
  if (!semaphore) {
    add(eventfd, count);
  } else {
    take(eventfd);
  }
  return semaphore;
}

}  // namespace telefork::capture
