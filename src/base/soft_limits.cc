#include "base/soft_limits.h"

#include <sys/resource.h>

namespace telefork {
namespace {

struct Raised {
  __rlimit_resource_t resource;
  bool is_raised;
  rlim_t before;
};

Raised raised[] = {{RLIMIT_NOFILE, false, 0}, {RLIMIT_CPU, false, 0},   {RLIMIT_FSIZE, false, 0},
                   {RLIMIT_DATA, false, 0},   {RLIMIT_STACK, false, 0}, {RLIMIT_AS, false, 0},
                   {RLIMIT_RSS, false, 0}};

}  // namespace

void raise_soft_limits() {
  for (Raised& one : raised) {
    rlimit limit{};
    if (::getrlimit(one.resource, &limit) != 0 || limit.rlim_cur == limit.rlim_max) continue;
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (::setrlimit(one.resource, &limit) != 0 || one.is_raised) continue;
    one.is_raised = true;
    one.before = before;
  }
}

void restore_soft_limits() noexcept {
  for (const Raised& one : raised) {
    rlimit limit{};
    if (!one.is_raised || ::getrlimit(one.resource, &limit) != 0) continue;
    limit.rlim_cur = one.before;
    ::setrlimit(one.resource, &limit);
  }
}

}  // namespace telefork
