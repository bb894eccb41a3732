#include "session/status_report.h"

#include <sys/wait.h>

namespace telefork::session {

void fill_status(int status, protocol::schema::Status::Builder report) {
  if (WIFEXITED(status)) {
    report.setExited(WEXITSTATUS(status));
  } else if (WIFSIGNALED(status)) {
    auto killed = report.initKilled();
    killed.setSignal(static_cast<std::uint32_t>(WTERMSIG(status)));
    killed.setCore(WCOREDUMP(status));
  } else if (WIFSTOPPED(status)) {
    report.setStopped(static_cast<std::uint32_t>(WSTOPSIG(status)));
  } else {
    report.setContinued();
  }
}

}  // namespace telefork::session
