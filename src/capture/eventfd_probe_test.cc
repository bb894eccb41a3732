#include "capture/eventfd_probe.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kernel/procfs_fdinfo.h"

namespace telefork::capture {
namespace {

TEST(EventfdProbe, TellsASemaphoreAndLeavesItsCount) {
  for (int flags : {0, int{EFD_SEMAPHORE}}) {
    for (std::uint64_t count :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{3}, UINT64_MAX - 1}) {
      UniqueFd file(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | flags));
      ASSERT_EQ(::eventfd_write(file.get(), count), 0);
      EXPECT_EQ(probe_semaphore(file, count), flags == EFD_SEMAPHORE) << count;
      EXPECT_EQ(kernel::parse_eventfd(kernel::read_fdinfo(::getpid(), file.get())).count, count);
    }
  }
}

}  // namespace
}  // namespace telefork::capture
