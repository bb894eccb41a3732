#include "app/places.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/procfs_system.h"
#include "net/unix_stream.h"

namespace telefork::app {
namespace {

// su(1) leaves that of another user in the environment.
bool is_usable(const char* runtime) {
  struct stat stat;
  return runtime != nullptr && runtime[0] == '/' && ::stat(runtime, &stat) == 0 &&
         S_ISDIR(stat.st_mode) && stat.st_uid == ::geteuid() && (stat.st_mode & 022) == 0;
}

std::string replacement_folder() { return fmt::format("/tmp/telefork-{}", ::geteuid()); }

std::string runtime_folder() {
  if (::geteuid() == 0) return "/run/telefork";
  const char* runtime = ::secure_getenv("XDG_RUNTIME_DIR");
  return is_usable(runtime) ? std::string(runtime) + "/telefork" : replacement_folder();
}

// /tmp is everybody's: what is there must be ours.
bool is_own_folder(const std::string& path) {
  struct stat stat;
  return ::lstat(path.c_str(), &stat) == 0 && S_ISDIR(stat.st_mode) && stat.st_uid == ::geteuid() &&
         (::geteuid() == 0 || (stat.st_mode & 077) == 0);
}

}  // namespace

std::string user_folder() {
  const char* config = ::secure_getenv("XDG_CONFIG_HOME");
  if (config != nullptr && config[0] == '/') return std::string(config) + "/telefork";
  const char* home = ::secure_getenv("HOME");
  if (home == nullptr || home[0] != '/') {
    const passwd* entry = ::getpwuid(::geteuid());
    home = entry != nullptr ? entry->pw_dir : "/nonexistent";
  }
  return std::string(home) + "/.config/telefork";
}

std::string telepad_folder() { return ::geteuid() == 0 ? "/etc/telefork" : user_folder(); }

std::string default_socket() { return runtime_folder() + "/telepad.sock"; }

void make_runtime_folder() {
  std::string folder = runtime_folder();
  net::make_socket_directory(default_socket(), ::geteuid() == 0 ? 0666 : 0600);
  if (::geteuid() == 0 || is_own_folder(folder)) return;
  throw Error(Code::kRefused,
              fmt::format("{}: is not a folder of user {}, who alone may enter it; remove it, or "
                          "set XDG_RUNTIME_DIR to a folder of this user's",
                          folder, ::geteuid()));
}

std::string why_replacement_folder() {
  const char* runtime = ::secure_getenv("XDG_RUNTIME_DIR");
  if (::geteuid() == 0 || is_usable(runtime)) return "";
  if (runtime == nullptr || runtime[0] == '\0') return "XDG_RUNTIME_DIR is not set";
  return fmt::format("XDG_RUNTIME_DIR is {}, which is no folder of user {}", runtime, ::geteuid());
}

std::string registry_folder() {
  std::string folder = runtime_folder();
  ::mkdir(folder.c_str(), ::geteuid() == 0 ? 0755 : 0700);
  if (!is_own_folder(folder)) return "";
  std::string sessions = folder + "/sessions";
  ::mkdir(sessions.c_str(), 0700);
  return is_own_folder(sessions) ? sessions : "";
}

std::string user_registries() { return "/run/telefork/users"; }

std::vector<std::string> visible_registries() {
  std::vector<std::string> folders = {registry_folder()};
  if (::geteuid() != 0) {
    folders.push_back(fmt::format("{}/{}", user_registries(), ::geteuid()));
    // Of what was started without an XDG_RUNTIME_DIR.
    std::string other = replacement_folder();
    if (other != runtime_folder() && is_own_folder(other)) folders.push_back(other + "/sessions");
    return folders;
  }
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(user_registries(), missing)) {
    folders.push_back(entry.path());
  }
  return folders;
}

int exit_code(const Error& error) {
  switch (error.code()) {
    case Code::kUsage:
    case Code::kRefused:
    case Code::kUnreachable:
    case Code::kUnauthorised:
      return static_cast<int>(error.code());
    default:
      return 1;
  }
}

void set_own_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);
}

session::Steps stop_at_step(const std::string& name) {
  if (name.empty()) return {};
  const auto* found = std::find_if(std::begin(session::kStepNames), std::end(session::kStepNames),
                                   [&](const session::StepName& one) { return one.name == name; });
  if (found == std::end(session::kStepNames)) {
    throw Error(Code::kUsage, fmt::format("there is no step {}", name));
  }
  return session::Steps([stop = found->step](session::Step step) {
    if (step == stop) ::raise(SIGSTOP);
  });
}

kernel::PageMapAbi best_pagemap_abi() {
  // Where the kernel's version says it is there it is: the ioctl has no configuration of its own.
  kernel::KernelVersion version = kernel::parse_kernel_version(kernel::kernel_release());
  if (version >= kernel::KernelVersion{6, 15}) return kernel::PageMapAbi::kScanGuards;
  if (version >= kernel::KernelVersion{6, 7}) return kernel::PageMapAbi::kScan;
  return kernel::PageMapAbi::kEntries;
}

std::map<std::string, kernel::PageMapAbi> pagemap_names() {
  return {{"entries", kernel::PageMapAbi::kEntries},
          {"scan", kernel::PageMapAbi::kScan},
          {"scan-guards", kernel::PageMapAbi::kScanGuards}};
}

}  // namespace telefork::app
