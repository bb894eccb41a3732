// telefork-agent: the tracer on the source's side, one a program. See session/agent.h.
#include <csignal>
#include <cstdio>

#include <sys/prctl.h>
#include <CLI/CLI.hpp>

#include "app/places.h"
#include "base/error.h"
#include "kernel/probe.h"
#include "session/agent.h"

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  int fd = -1;
  CLI::App app("Serves one program's telefork calls; started by libtelefork or telepad.",
               "telefork-agent");
  app.add_option("--fd", fd, "the socket to the program")->required();
  std::string stop;
  app.add_option("--stop-at-step", stop)->group("");
  CLI11_PARSE(app, argc, argv);
  try {
    telefork::session::AgentSettings settings;
    settings.programs = telefork::session::find_programs();
    settings.registry = telefork::app::registry_folder();
    settings.steps = telefork::app::stop_at_step(stop);
    settings.pagemap = telefork::app::best_pagemap_abi();
    telefork::session::run_agent(telefork::UniqueFd(fd), settings);
    return 0;
  } catch (const telefork::Error& error) {
    std::fprintf(stderr, "telefork-agent: %s\n", error.what());
    return telefork::app::exit_code(error);
  }
}
