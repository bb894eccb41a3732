// telefork-agent: the tracer on the source's side, one a program. See session/agent.h.
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include <sys/prctl.h>
#include <CLI/CLI.hpp>

#include "app/foreground.h"
#include "app/places.h"
#include "app/settings.h"
#include "base/error.h"
#include "base/soft_limits.h"
#include "kernel/probe.h"
#include "kernel/yama.h"
#include "session/agent.h"

int main(int argc, char** argv) {
  telefork::app::set_own_signals();
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  telefork::raise_soft_limits();
  int fd = -1;
  CLI::App app("Serves one program's telefork calls; started by libtelefork or telepad.",
               "telefork-agent");
  app.add_option("--fd", fd, "the socket to the program")->required();
  std::string stop;
  app.add_option("--stop-at-step", stop)->group("");
  std::optional<std::uint32_t> lease_stop;
  std::optional<std::uint32_t> lease_kill;
  std::optional<std::uint32_t> lease_home;
  app.add_option("--lease-stop-ms", lease_stop,
                 "a child whose node hears nothing from here for so long is stopped (10000)");
  app.add_option("--lease-kill-ms", lease_kill, "and killed (60000)");
  app.add_option("--lease-home-ms", lease_home,
                 "a pid whose node says nothing, and cannot be asked, ends after (90000)");
  std::string registry;
  app.add_option("--registry", registry, "where its sessions are listed");
  CLI11_PARSE(app, argc, argv);
  telefork::UniqueFd program(fd);
  try {
    telefork::session::AgentSettings settings;
    try {
      using Ms = telefork::session::Lease::Duration;
      telefork::app::Settings told = telefork::app::read_settings();
      settings.lease = told.lease;
      settings.access = told.access;
      settings.laziness = told.laziness;
      settings.keeps = told.keep.memory_kb != 0;
      if (lease_stop) settings.lease.stop = Ms(*lease_stop);
      if (lease_kill) settings.lease.kill = Ms(*lease_kill);
      if (lease_home) settings.lease.home = Ms(*lease_home);
      telefork::session::check_lease(settings.lease);
      settings.programs = telefork::session::find_programs();
      settings.registry = registry.empty() ? telefork::app::registry_folder() : registry;
      settings.steps = telefork::app::stop_at_step(stop);
      settings.pagemap = telefork::app::best_pagemap_abi();
      settings.trace_bar = telefork::kernel::read_trace_bar();
      settings.watch_input = telefork::app::watch_foreground_of_all;
    } catch (const telefork::Error& error) {
      telefork::session::refuse_all(std::move(program), error);
      throw;
    }
    telefork::session::run_agent(std::move(program), settings);
    return 0;
  } catch (const telefork::Error& error) {
    std::fprintf(stderr, "telefork-agent: %s\n", error.what());
    return telefork::app::exit_code(error);
  }
}
