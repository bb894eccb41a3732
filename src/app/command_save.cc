// telefork save PID FILE
#include <csignal>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/held.h"
#include "app/output.h"
#include "app/places.h"
#include "base/soft_limits.h"
#include "kernel/yama.h"
#include "migrate/save.h"
#include "session/signal_fd.h"
#include "session/watch_loan.h"

namespace telefork::app {
namespace {

// The process is saved, and has ended: not to be able to say so where it was asked for is no reason
// to say nothing.
void tell(const migrate::SaveReport& report, const SaveCommand& command) {
  const std::string others =
      report.processes == 1 ? "" : fmt::format(" with {} more", report.processes - 1);
  std::string line = fmt::format(
      "process {}{} is saved in {}: {}, frozen for {:.0f} ms{}", command.pid, others, command.file,
      format_bytes(report.totals.bytes), report.freeze_ms, command.keep ? "; it runs on" : "");
  if (!command.json) return print_note(line);
  try {
    print_json({{"pid", command.pid},
                {"file", command.file},
                {"processes", report.processes},
                {"kept", command.keep},
                {"bytes_written", report.totals.bytes},
                {"pages_written", report.totals.pages},
                {"freeze_ms", report.freeze_ms},
                {"total_ms", report.total_ms}});
    finish_stdout();
  } catch (const StdoutError&) {
    print_note(line);
    throw;
  }
}

}  // namespace

int save_command(const SaveCommand& command) {
  // Not the default: that would end this process in the middle.
  session::SignalFd signals({SIGINT, SIGTERM, SIGHUP, SIGQUIT});
  set_own_signals();
  raise_soft_limits();
  refuse_held(command.pid);
  bool asked_to_end = false;
  migrate::SaveSettings settings;
  settings.pid = command.pid;
  settings.path = command.file;
  settings.creator = "telefork " TELEFORK_VERSION;
  settings.keep = command.keep;
  settings.embed_files = command.embed_files;
  settings.copy_shared = command.copy_shared;
  settings.pagemap = best_pagemap_abi();
  settings.trace_bar = kernel::read_trace_bar();
  const auto keeper = session::find_keeper_call(command.pid, visible_registries());
  if (keeper) settings.own_namespaces = keeper->namespaces;
  settings.interrupted = [&] {
    while (signals.try_read()) asked_to_end = true;
    return asked_to_end;
  };
  settings.interrupt_fd = signals.fd();
  migrate::Save save(std::move(settings));
  try {
    migrate::SaveReport report = save.run();
    tell(report, command);
    return 0;
  } catch (const StdoutError&) {
    throw;
  } catch (const Error& error) {
    int code = save.freeze_undone() ? kUndone : exit_code(error);
    if (command.json) print_json(error_object(error, code));
    print_error(error);
    if (save.freeze_undone()) print_note(fmt::format("process {} runs on", command.pid));
    return code;
  }
}

}  // namespace telefork::app
