// telefork resume PID
//
// What a move has left here whole, all that went together, when it is not known whether it runs
// there. ^C only ends the wait: whatever was left is left still.
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/output.h"
#include "app/places.h"
#include "app/settings.h"
#include "session/resume.h"

namespace telefork::app {
namespace {

using KnownBy = session::ResumeReport::KnownBy;

// For a script, and for people.
struct Words {
  const char* name;
  const char* text;
};

Words words_for(KnownBy known_by) {
  switch (known_by) {
    case KnownBy::kNode:
      return {"node", "has confirmed that nothing of it runs there"};
    case KnownBy::kLease:
      return {"lease", "has not been heard of, and its lease is over"};
    case KnownBy::kSession:
      break;
  }
  return {"session", "does not run it, as its own session has found out"};
}

}  // namespace

int resume_command(const ResumeCommand& command) {
  set_own_signals();
  session::Resumption::Settings settings;
  settings.registries = visible_registries();
  settings.access = read_settings().access;
  settings.on_wait_for_session = [&command](const session::SessionInfo& info) {
    print_note(fmt::format("the session of process {} asks {} already", command.pid, info.node));
  };
  settings.on_wait_for_lease = [&command](const session::SessionInfo& info) {
    print_note(fmt::format("{} cannot be asked: process {} runs on here when its lease is over",
                           info.node, command.pid));
  };
  const session::ResumeReport report = session::Resumption(std::move(settings), command.pid).run();
  const Words words = words_for(report.known_by);
  const std::chrono::duration<double> lost = report.lost;
  if (!command.json) {
    const bool alone = report.processes == 1;
    print_note(fmt::format("process {}{} on here, as {} {:.3g} s ago: {} {}", report.pid,
                           alone ? " runs" : fmt::format(" and {} more run", report.processes - 1),
                           alone ? "it was" : "they were", lost.count(), report.node, words.text));
    return 0;
  }
  print_json({{"pid", report.pid},
              {"guest_pid", report.pid},
              {"processes", report.processes},
              {"node", report.node},
              {"known_by", words.name},
              {"lost_s", lost.count()}});
  finish_stdout();
  return 0;
}

}  // namespace telefork::app
