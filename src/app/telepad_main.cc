// telepad: the daemon of a node. See session/telepad.h.
#include <cstdio>
#include <filesystem>

#include <fcntl.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include "app/places.h"
#include "app/settings.h"
#include "base/error.h"
#include "base/soft_limits.h"
#include "session/telepad.h"

namespace {

using telefork::Error;

// Nobody else is to hold them: their end is the connection's.
void take_standard_streams(telefork::session::TelepadSettings& settings) {
  settings.input.reset(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  settings.output.reset(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  if (!settings.input || !settings.output) telefork::throw_errno("taking stdin and stdout");
  telefork::UniqueFd null = telefork::open_file("/dev/null", O_RDWR);
  for (int fd : {STDIN_FILENO, STDOUT_FILENO}) ::dup2(null.get(), fd);
}

void make_default_folder() {
  if (std::string why = telefork::app::why_replacement_folder(); !why.empty()) {
    spdlog::warn("{}: its socket is {}", why, telefork::app::default_socket());
  }
  telefork::app::make_runtime_folder();
}

int run(int argc, char** argv) {
  CLI::App app("The telefork daemon: other machines' processes come to this one through it.",
               "telepad");
  std::string socket;
  std::vector<int> connections;
  std::vector<std::string> listen;
  std::string keys;
  bool stdio = false;
  bool quiet = false;
  app.set_version_flag("--version", "telepad " TELEFORK_VERSION);
  app.add_option("--socket", socket,
                 "listen on this socket (default: " + telefork::app::default_socket() + ")");
  // One at a time: CLI11 would take the brackets of an IPv6 address for those of a list.
  app.add_option(
         "--listen", listen,
         "ADDR[:PORT]: listen there too, for those whose key is trusted (port 7335; default: "
         "`listen` of the settings)")
      ->allow_extra_args(false);
  app.add_option("--keys", keys,
                 "the folder of this telepad's key and of trusted_keys (default: " +
                     telefork::app::telepad_folder() + ")");
  app.add_flag("--stdio", stdio, "serve one connection, on stdin and stdout, and listen nowhere");
  app.add_option("--connection", connections, "serve this inherited connection, listen nowhere")
      ->group("");
  app.add_flag("--quiet", quiet, "log errors only");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(telefork::Code::kUsage);
  }
  if (quiet) spdlog::set_level(spdlog::level::err);

  telefork::raise_soft_limits();
  telefork::app::Settings said = telefork::app::read_settings();
  telefork::session::check_lease(said.lease);  // its agents will need it
  telefork::session::TelepadSettings settings;
  settings.keep = said.keep;
  settings.programs = telefork::session::find_programs();
  settings.user_registries = telefork::app::user_registries();
  for (int connection : connections) settings.connections.emplace_back(connection);
  settings.listen = listen;
  settings.keys_are_default = keys.empty();
  // Whoever reads of it in a message is elsewhere.
  settings.keys =
      keys.empty() ? telefork::app::telepad_folder() : std::filesystem::absolute(keys).string();
  if (stdio) {
    if (!socket.empty() || !listen.empty()) {
      throw Error(telefork::Code::kUsage, "with --stdio it listens nowhere");
    }
    take_standard_streams(settings);
  } else if (connections.empty()) {
    if (app.count("--socket") != 0 && socket.empty()) {
      throw Error(telefork::Code::kUsage, "--socket: the path is empty");
    }
    if (listen.empty()) settings.listen = said.listen;
    settings.socket = socket.empty() ? telefork::app::default_socket() : socket;
    // Root's telepad serves everybody, each as himself.
    settings.socket_mode = ::geteuid() == 0 ? 0666 : 0600;
    // Another than its own is the user's to make.
    if (socket.empty()) make_default_folder();
  }
  settings.registry = telefork::app::registry_folder();
  telefork::session::run_telepad(std::move(settings));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  telefork::app::set_own_signals();
  spdlog::set_default_logger(spdlog::stderr_logger_st("telepad"));
  spdlog::set_pattern("telepad: %v");
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "telepad: %s\n", error.what());
    return telefork::app::exit_code(error);
  }
}
