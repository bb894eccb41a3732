#include "app/settings.h"

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include <fmt/format.h>
#include <toml++/toml.h>
#include <unistd.h>

#include "app/places.h"
#include "base/error.h"
#include "net/tcp_stream.h"

namespace telefork::app {
namespace {

using session::Lease;

constexpr const char* kCompressVariable = "TELEFORK_COMPRESS";
constexpr const char* kNoCompression = "not one of auto, none, lz4, zstd";
constexpr const char* kMachineFile = "/etc/telefork/telepad.toml";

struct NumberKey {
  const char* table;
  const char* key;
  const char* variable;
  const char* unit;
  void (*set)(Settings& settings, std::uint32_t number);
};

template <Lease::Duration Lease::*value>
void set_lease(Settings& settings, std::uint32_t ms) {
  settings.lease.*value = Lease::Duration(ms);
}

template <auto value>
void set_laziness(Settings& settings, std::uint32_t kb) {
  settings.laziness.*value = kb;
}

template <auto value>
void set_keep(Settings& settings, std::uint32_t number) {
  settings.keep.*value = number;
}

using session::KeepLimits;
using session::Laziness;
constexpr NumberKey kNumberKeys[] = {
    {"lease", "stop_ms", "TELEFORK_LEASE_STOP_MS", "ms", set_lease<&Lease::stop>},
    {"lease", "kill_ms", "TELEFORK_LEASE_KILL_MS", "ms", set_lease<&Lease::kill>},
    {"lease", "home_ms", "TELEFORK_LEASE_HOME_MS", "ms", set_lease<&Lease::home>},
    {"lazy", "process_kb", "TELEFORK_LAZY_PROCESS_KB", "KB", set_laziness<&Laziness::process_kb>},
    {"lazy", "mapping_kb", "TELEFORK_LAZY_MAPPING_KB", "KB", set_laziness<&Laziness::mapping_kb>},
    {"keep", "memory_kb", "TELEFORK_KEEP_MEMORY_KB", "KB", set_keep<&KeepLimits::memory_kb>},
    {"keep", "images", "TELEFORK_KEEP_IMAGES", "images", set_keep<&KeepLimits::images>},
    {"keep", "seconds", "TELEFORK_KEEP_SECONDS", "s", set_keep<&KeepLimits::seconds>}};

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

std::uint32_t number_of(const std::string& path, const toml::node& node, const char* unit) {
  std::optional<std::int64_t> number = node.value_exact<std::int64_t>();
  if (!number || *number < 0 || *number > UINT32_MAX) {
    refuse(path, node, fmt::format("not a number of {}", unit));
  }
  return static_cast<std::uint32_t>(*number);
}

void take_numbers(const std::string& path, std::string_view table, const toml::node& node,
                  Settings& settings) {
  if (!node.is_table()) refuse(path, node, fmt::format("{} is a table", table));
  for (const auto& [key, value] : *node.as_table()) {
    const NumberKey* found = nullptr;
    for (const NumberKey& one : kNumberKeys) {
      if (table == one.table && key == one.key) found = &one;
    }
    if (found == nullptr) refuse(path, value, fmt::format("unknown key {}.{}", table, key.str()));
    found->set(settings, number_of(path, value, found->unit));
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

void take_link(const std::string& path, const toml::node& node, session::NodeAccess& access) {
  if (!node.is_table()) refuse(path, node, "link is a table");
  for (const auto& [key, value] : *node.as_table()) {
    if (key != "compress") refuse(path, value, fmt::format("unknown key link.{}", key.str()));
    std::optional<net::Compression> word =
        net::find_compression(value.value_exact<std::string>().value_or(""));
    if (!word) refuse(path, value, kNoCompression);
    access.compression = *word;
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
    } else if (key == "lease" || key == "lazy" || key == "keep") {
      take_numbers(path, key.str(), value, settings);
    } else if (key == "link") {
      take_link(path, value, settings.access);
    } else if (key == "ssh") {
      take_ssh(path, value, settings.access);
    } else {
      refuse(path, value, fmt::format("unknown key {}", key.str()));
    }
  }
}

void take_environment(Settings& settings) {
  for (const NumberKey& one : kNumberKeys) {
    const char* text = ::secure_getenv(one.variable);
    if (text == nullptr || *text == '\0') continue;
    std::uint32_t number = 0;
    const char* end = text + std::strlen(text);
    auto [stopped_at, error] = std::from_chars(text, end, number);
    if (error != std::errc() || stopped_at != end) {
      throw Error(Code::kUsage,
                  fmt::format("{}={}: not a number of {}", one.variable, text, one.unit));
    }
    one.set(settings, number);
  }
  if (const char* text = ::secure_getenv(kCompressVariable); text != nullptr && *text != '\0') {
    std::optional<net::Compression> word = net::find_compression(text);
    if (!word) {
      throw Error(Code::kUsage, fmt::format("{}={}: {}", kCompressVariable, text, kNoCompression));
    }
    settings.access.compression = *word;
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
