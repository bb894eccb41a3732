// telefork-greeter: started by telepad, one a TCP connection. See session/greeter.h.
#include <cstdio>

#include <sys/prctl.h>
#include <CLI/CLI.hpp>

#include "app/places.h"
#include "base/error.h"
#include "session/greeter.h"

int main(int argc, char** argv) {
  telefork::app::set_own_signals();
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  int socket = -1;
  int telepad = -1;
  telefork::session::GreeterSettings settings;
  CLI::App app("Shakes hands with one connection; started by telepad.", "telefork-greeter");
  app.add_option("--socket", socket)->required();
  app.add_option("--telepad", telepad)->required();
  app.add_option("--keys", settings.keys)->required();
  CLI11_PARSE(app, argc, argv);
  try {
    settings.connection.reset(socket);
    settings.telepad.reset(telepad);
    telefork::session::run_greeter(std::move(settings));
    return 0;
  } catch (const telefork::Error& error) {
    std::fprintf(stderr, "telefork-greeter: %s\n", error.what());
    return telefork::app::exit_code(error);
  }
}
