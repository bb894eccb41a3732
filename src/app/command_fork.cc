// telefork fork PID NODE
#include <fmt/format.h>

#include "app/commands.h"
#include "app/departing.h"
#include "app/output.h"
#include "session/copy_session.h"

namespace telefork::app {

int fork_command(const ForkCommand& command) {
  DepartureKind kind;
  kind.make = [&command](session::DepartureSettings settings, session::DepartureRequest request) {
    request.leave_fds = command.leave_fds;
    return std::make_unique<session::CopySession>(std::move(settings), std::move(request));
  };
  kind.say = [&command](const session::DepartureReport& report) {
    const std::string more =
        report.processes == 1 ? "" : fmt::format(" and {} more", report.processes - 1);
    return fmt::format(
        "a copy of process {}{} runs on {}, as {} there and {} here: {} sent, stopped for {:.0f} "
        "ms{}",
        command.pid, more, command.node, report.pid, report.home_pid,
        format_bytes(report.bytes_sent), report.freeze_ms,
        report.mode == "lazy" ? "; its memory follows" : "");
  };
  kind.lost = fmt::format("the process that copied {} was killed; {} itself runs on here",
                          command.pid, command.pid);
  return depart(command, kind);
}

}  // namespace telefork::app
