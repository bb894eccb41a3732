// The filters of system calls, which all of its threads have alike.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/error.h"
#include "capture/capture.h"

namespace telefork::capture {
namespace {

using Filter = tracee::TracedThread::SeccompFilter;

// Whoever listened for its questions stays behind, and cannot be seen from here.
bool asks_a_process(const Filter& filter) {
  std::vector<sock_filter> code(filter.program.size() / sizeof(sock_filter));
  std::memcpy(code.data(), filter.program.data(), code.size() * sizeof(sock_filter));
  return std::any_of(code.begin(), code.end(), [](const sock_filter& step) {
    return step.code == (BPF_RET | BPF_K) &&
           (step.k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF;
  });
}

}  // namespace

void Capture::fill_seccomp(image::schema::Process::Builder process) {
  if (survey_.status.seccomp != SECCOMP_MODE_FILTER) return;
  const std::string name = fmt::format("process {} ({})", survey_.pid, survey_.status.name);
  const std::vector<Filter> filters = frozen_.leader().seccomp_filters();
  if (std::any_of(filters.begin(), filters.end(), asks_a_process)) {
    throw Error(Code::kRefused, refuse(name, Reason::kSeccompListener).text());
  }
  for (const tracee::TracedThread& thread : frozen_.threads()) {
    if (thread.tid() == frozen_.leader().tid() || thread.seccomp_filters() == filters) continue;
    throw Error(Code::kRefused, refuse(fmt::format("thread {} of {}", thread.tid(), name),
                                       Reason::kThreadDiffers, "seccomp filters")
                                    .text());
  }
  auto list = process.initSeccompFilters(static_cast<unsigned>(filters.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setProgram({filters[i].program.data(), filters[i].program.size()});
    list[i].setFlags(filters[i].flags);
  }
}

}  // namespace telefork::capture
