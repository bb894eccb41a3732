#include "app/settings.h"

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>

#include <fmt/format.h>
#include <toml++/toml.h>
#include <unistd.h>

#include "app/places.h"
#include "base/error.h"
#include "net/tcp_stream.h"

namespace telefork::app {
namespace {

using session::Lease;

constexpr const char* kMachineFile = "/etc/telefork/telepad.toml";

struct LeaseKey {
  const char* key;
  const char* variable;
  Lease::Duration Lease::*value;
};
constexpr LeaseKey kLeaseKeys[] = {{"stop_ms", "TELEFORK_LEASE_STOP_MS", &Lease::stop},
                                   {"kill_ms", "TELEFORK_LEASE_KILL_MS", &Lease::kill},
                                   {"home_ms", "TELEFORK_LEASE_HOME_MS", &Lease::home}};

struct SshKey {
  const char* key;
  const char* variable;
  std::string session::NodeAccess::*value;
};
constexpr SshKey kSshKeys[] = {
    {"program", "TELEFORK_SSH", &session::NodeAccess::ssh},
    {"telepad", "TELEFORK_SSH_TELEPAD", &session::NodeAccess::ssh_telepad}};

[[noreturn]] void refuse(const std::string& path, const toml::node& node, const std::string& why) {
  throw Error(Code::kUsage, fmt::format("{}:{}: {}", path, node.source().begin.line, why));
}

std::uint32_t milliseconds(const std::string& path, const toml::node& node) {
  std::optional<std::int64_t> number = node.value_exact<std::int64_t>();
  if (!number || *number < 0 || *number > UINT32_MAX) refuse(path, node, "not a number of ms");
  return static_cast<std::uint32_t>(*number);
}

void take_lease(const std::string& path, const toml::node& node, Lease& lease) {
  if (!node.is_table()) refuse(path, node, "lease is a table");
  for (const auto& [key, value] : *node.as_table()) {
    const LeaseKey* found = nullptr;
    for (const LeaseKey& one : kLeaseKeys) {
      if (key == one.key) found = &one;
    }
    if (found == nullptr) refuse(path, value, fmt::format("unknown key lease.{}", key.str()));
    lease.*(found->value) = Lease::Duration(milliseconds(path, value));
  }
}

void take_ssh(const std::string& path, const toml::node& node, session::NodeAccess& access) {
  if (!node.is_table()) refuse(path, node, "ssh is a table");
  for (const auto& [key, value] : *node.as_table()) {
    const SshKey* found = nullptr;
    for (const SshKey& one : kSshKeys) {
      if (key == one.key) found = &one;
    }
    if (found == nullptr) refuse(path, value, fmt::format("unknown key ssh.{}", key.str()));
    std::optional<std::string> text = value.value_exact<std::string>();
    if (!text || text->empty()) refuse(path, value, "not a program");
    access.*(found->value) = *text;
  }
}

std::string listen_address(const std::string& path, const toml::node& node) {
  std::optional<std::string> text = node.value_exact<std::string>();
  if (!text || text->empty()) refuse(path, node, "listen is an address, or a list of them");
  try {
    net::check_listen_address(*text);
  } catch (const Error& error) {
    refuse(path, node, error.text());
  }
  return *text;
}

void take_listen(const std::string& path, const toml::node& node,
                 std::vector<std::string>& listen) {
  listen.clear();
  if (!node.is_array()) {
    listen.push_back(listen_address(path, node));
    return;
  }
  for (const toml::node& one : *node.as_array()) listen.push_back(listen_address(path, one));
}

void take_file(const std::string& path, Settings& settings) {
  if (::access(path.c_str(), F_OK) != 0) return;
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    throw Error(Code::kUsage,
                fmt::format("{}:{}: {}", path, error.source().begin.line, error.description()));
  }
  for (const auto& [key, value] : table) {
    if (key == "listen") {
      take_listen(path, value, settings.listen);
    } else if (key == "lease") {
      take_lease(path, value, settings.lease);
    } else if (key == "ssh") {
      take_ssh(path, value, settings.access);
    } else {
      refuse(path, value, fmt::format("unknown key {}", key.str()));
    }
  }
}

void take_environment(Settings& settings) {
  for (const LeaseKey& one : kLeaseKeys) {
    const char* text = ::secure_getenv(one.variable);
    if (text == nullptr || *text == '\0') continue;
    std::uint32_t ms = 0;
    const char* end = text + std::strlen(text);
    auto [stopped_at, error] = std::from_chars(text, end, ms);
    if (error != std::errc() || stopped_at != end) {
      throw Error(Code::kUsage, fmt::format("{}={}: not a number of ms", one.variable, text));
    }
    settings.lease.*(one.value) = Lease::Duration(ms);
  }
  for (const SshKey& one : kSshKeys) {
    const char* text = ::secure_getenv(one.variable);
    if (text != nullptr && *text != '\0') settings.access.*(one.value) = text;
  }
}

}  // namespace

std::vector<std::string> settings_files() { return {user_folder() + "/config.toml", kMachineFile}; }

Settings read_settings() {
  Settings settings;
  settings.access.keys = user_folder();
  std::vector<std::string> files = settings_files();
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    take_file(*file, settings);
    if (*file == kMachineFile && ::geteuid() != 0) settings.listen.clear();
  }
  take_environment(settings);
  return settings;
}

}  // namespace telefork::app
