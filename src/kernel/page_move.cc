#include "kernel/page_move.h"

#include <span>

#include <fcntl.h>
#include <linux/userfaultfd.h>

#include "kernel/abi.h"

namespace telefork::kernel {
namespace {

template <class T>
IoctlCall make_call(unsigned long request, const T& argument) {
  auto bytes = std::as_bytes(std::span(&argument, 1));
  return {request, {bytes.begin(), bytes.end()}};
}

}  // namespace

int page_move_flags() { return O_CLOEXEC | UFFD_USER_MODE_ONLY; }

IoctlCall ask_for_page_moves() {
  return make_call(UFFDIO_API,
                   uffdio_api{.api = UFFD_API,
                              .features = kUffdFeatureMove | UFFD_FEATURE_PAGEFAULT_FLAG_WP,
                              .ioctls = 0});
}

// For write protection, of which nothing is made: so no fault is in the way.
IoctlCall let_pages_move_to(RemotePtr start, std::uint64_t bytes) {
  return make_call(UFFDIO_REGISTER, uffdio_register{.range = {start.value(), bytes},
                                                    .mode = UFFDIO_REGISTER_MODE_WP,
                                                    .ioctls = 0});
}

IoctlCall move_pages(RemotePtr to, RemotePtr from, std::uint64_t bytes) {
  return make_call(
      kUffdioMove,
      UffdMove{.dst = to.value(), .src = from.value(), .len = bytes, .mode = 0, .move = 0});
}

}  // namespace telefork::kernel
