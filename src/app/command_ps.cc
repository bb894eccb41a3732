// telefork ps
#include <algorithm>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/output.h"
#include "app/places.h"
#include "session/registry.h"

namespace telefork::app {
namespace {

using Row = std::vector<std::string>;

// The command that leads on from a state that does not go by itself, or takes its time.
std::string remedy_of(const session::SessionInfo& info) {
  const bool lost = info.left || info.state == "unknown";
  return info.hold && lost ? fmt::format("telefork resume {}", info.pid) : "";
}

// Columns as wide as their widest entry; the last is left as it is.
void print_table(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i + 1 < row.size(); ++i) {
      line += fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    print("{}{}\n", line, row.back());
  }
}

// How much of it is known where it runs alone.
bool follows(const session::SessionInfo& info) {
  return !info.left && (info.follows || info.pages_missing > 0);
}

}  // namespace

int ps_command(const PsCommand& command) {
  if (registry_folder().empty()) {
    try {
      make_runtime_folder();
    } catch (const Error& error) {
      print_note("note: sessions of this user are not listed: " + error.text());
    }
  }
  std::vector<session::SessionInfo> sessions = session::list_sessions(visible_registries());
  if (command.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const session::SessionInfo& info : sessions) {
      list.push_back({{"pid", info.pid},
                      {"guest_pid", info.guest_pid},
                      {"role", info.role},
                      {"node", info.node},
                      {"state", info.state},
                      {"changes_found_by", info.changes_found_by},
                      {"mode", info.mode},
                      {"mode_reason", info.mode_reason},
                      {"connection_lost", info.connection_lost},
                      {"memory_follows", follows(info)},
                      {"pages_missing", info.pages_missing},
                      {"pages_came", info.pages_came},
                      {"faults", info.faults},
                      {"blocked_ms", static_cast<double>(info.blocked_us) / 1000},
                      {"bytes", info.bytes},
                      {"pages_sent", info.pages_sent},
                      {"pages_kept", info.pages_kept},
                      {"command", info.command},
                      {"remedy", remedy_of(info)},
                      {"warnings", info.warnings}});
    }
    print_json({{"sessions", std::move(list)}});
    return 0;
  }
  std::vector<Row> rows = {{"PID", "GUEST", "ROLE", "NODE", "STATE", "COMMAND"}};
  for (const session::SessionInfo& info : sessions) {
    rows.push_back({std::to_string(info.pid),
                    info.guest_pid == 0 ? "-" : std::to_string(info.guest_pid), escape(info.role),
                    escape(info.node),
                    escape(info.state) + (follows(info) ? ", memory follows" : "") +
                        (info.connection_lost ? ", connection lost" : ""),
                    escape(info.command)});
  }
  print_table(rows);
  for (const session::SessionInfo& info : sessions) {
    if (const std::string remedy = remedy_of(info); !remedy.empty()) {
      print("{}: it is here too, whole, and nothing of it runs; `{}` takes it up\n", info.pid,
            remedy);
    }
    for (const std::string& warning : info.warnings) {
      print("{}: {}\n", info.pid, escape(warning));
    }
  }
  return 0;
}

}  // namespace telefork::app
