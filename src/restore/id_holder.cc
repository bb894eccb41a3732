#include "restore/id_holder.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "kernel/procfs_task.h"

namespace telefork::restore {
namespace {

std::string printable(std::string comm) {
  std::replace(comm.begin(), comm.end(), '\n', '?');
  return comm;
}

}  // namespace

std::string describe_holder(pid_t id) {
  try {
    kernel::Stat stat = kernel::read_stat(id);
    return fmt::format(" by {}{}", printable(stat.comm),
                       stat.state == 'Z' ? ", which has ended and was not waited for" : "");
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return "";
  }
}

std::string describe_holder_or_group(pid_t id) {
  std::string holder = describe_holder(id);
  if (!holder.empty()) return holder;
  for (pid_t pid : kernel::list_processes()) {
    try {
      kernel::Stat stat = kernel::read_stat(pid);
      if (stat.pgrp != id && stat.session != id) continue;
      return fmt::format(" by the {} of {} ({})", stat.pgrp == id ? "process group" : "session",
                         printable(stat.comm), pid);
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
  return "";
}

}  // namespace telefork::restore
