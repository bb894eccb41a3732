// telefork-keeper: started by telepad, one a guest. See session/keeper.h.
#include <csignal>
#include <cstdio>

#include <sys/prctl.h>
#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include "app/places.h"
#include "base/error.h"
#include "base/soft_limits.h"
#include "session/keeper.h"

namespace {

// The guest's getppid() is the keeper, which is none of what a program may want to signal there.
// SIGTERM ends it. Who is started gets the defaults, or what it had.
void ignore_signals_of_children() {
  for (int signal : {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO,
                     SIGPWR, SIGTSTP, SIGTTIN, SIGTTOU}) {
    ::signal(signal, SIG_IGN);
  }
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) ::signal(signal, SIG_IGN);
}

}  // namespace

int main(int argc, char** argv) {
  telefork::app::set_own_signals();
  ignore_signals_of_children();
  // It holds a session's secrets, and what its guest leaves behind must come to it.
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  telefork::raise_soft_limits();
  int control = -1;
  int control_out = -1;
  int telepad = -1;
  int guard = -1;
  telefork::session::KeeperSettings settings;
  CLI::App app("Keeps one guest; started by telepad.", "telefork-keeper");
  app.add_option("--control", control)->required();
  app.add_option("--control-out", control_out);
  app.add_option("--telepad", telepad);
  app.add_option("--guard", guard);
  app.add_option("--keep-kb", settings.keep_kb);
  app.add_flag("--bulk-first", settings.bulk_first);
  app.add_flag("--resumes", settings.resumes);
  app.add_option("--registry", settings.registry);
  std::string stop;
  app.add_option("--stop-at-step", stop)->group("");
  settings.pagemap = telefork::app::best_pagemap_abi();
  app.add_option("--pagemap", settings.pagemap)
      ->transform(CLI::CheckedTransformer(telefork::app::pagemap_names()))
      ->group("");
  CLI11_PARSE(app, argc, argv);
  try {
    settings.control.reset(control);
    settings.control_out.reset(control_out);
    settings.telepad.reset(telepad);
    settings.guard.reset(guard);
    settings.node = "home";
    settings.steps = telefork::app::stop_at_step(stop);
    settings.programs = telefork::session::find_programs();
    telefork::session::run_keeper(std::move(settings));
    return 0;
  } catch (const telefork::Error& error) {
    std::fprintf(stderr, "telefork-keeper: %s\n", error.what());
    return telefork::app::exit_code(error);
  }
}
