// telefork move PID NODE
#include <fmt/format.h>

#include "app/commands.h"
#include "app/departing.h"
#include "app/output.h"
#include "session/move_session.h"

namespace telefork::app {

int move_command(const MoveCommand& command) {
  DepartureKind kind;
  kind.moves_on = true;
  kind.make = [&command](session::DepartureSettings settings, session::DepartureRequest request) {
    request.detach = command.detach;
    return std::make_unique<session::MoveSession>(std::move(settings), std::move(request));
  };
  kind.say = [&command](const session::DepartureReport& report) {
    const bool alone = report.processes == 1;
    const bool follows = report.mode == "lazy" && !command.detach;
    return fmt::format("process {}{} on {}, as {} there: {} sent, stopped for {:.0f} ms{}",
                       command.pid,
                       alone ? " runs" : fmt::format(" and {} more run", report.processes - 1),
                       command.node, report.pid, format_bytes(report.bytes_sent), report.freeze_ms,
                       follows ? "; its memory follows" : "");
  };
  kind.lost = fmt::format(
      "the process that moved {0} was killed; if it had not gone by then, it runs on here when its "
      "lease is over, or is held: `telefork resume {0}` takes it up",
      command.pid);
  return depart(command, kind);
}

}  // namespace telefork::app
