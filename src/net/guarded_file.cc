#include "net/guarded_file.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <span>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "base/shell_word.h"

namespace telefork::net {
namespace {

constexpr std::size_t kMaxFile = 1024 * 1024;

std::string folder_of(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder;
}

void check_guarded(const std::string& path, const struct stat& status, unsigned forbidden) {
  if (status.st_uid != ::geteuid() && status.st_uid != 0) {
    throw Error(Code::kUnauthorised,
                fmt::format("{} belongs to user {}, who could change it: chown {} {}", path,
                            status.st_uid, ::geteuid(), quote_for_shell(path)));
  }
  if ((status.st_mode & forbidden) != 0) {
    bool writable = (status.st_mode & 022) != 0;
    throw Error(
        Code::kUnauthorised,
        fmt::format("{} (mode {:04o}) can be {} by others: chmod go-rwx {}", path,
                    status.st_mode & 07777U, writable ? "written" : "read", quote_for_shell(path)));
  }
}

// The first folder on the way to `path` that keeps this process out; empty: none does.
std::string closed_folder(const std::string& path) {
  std::string closed;
  std::string folder = folder_of(path);
  while (folder != closed && ::faccessat(AT_FDCWD, folder.c_str(), X_OK, AT_EACCESS) != 0) {
    closed = folder;
    folder = folder_of(folder);
  }
  return closed;
}

// -1, which is nobody's: it cannot be seen.
uid_t owner_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_uid : static_cast<uid_t>(-1);
}

// The remedy depends on whose the file is, and whose the folder that it is looked for in.
std::string why_unreadable(const std::string& path) {
  const uid_t user = ::geteuid();
  const std::string closed = closed_folder(path);
  if (!closed.empty() && owner_of(closed) == user) {
    return fmt::format("{} may not be entered by its own user: chmod u+rwx {}", closed,
                       quote_for_shell(closed));
  }
  if (!closed.empty() || owner_of(folder_of(path)) != user) {
    return fmt::format(
        "user {} may not {} {}: have HOME, XDG_CONFIG_HOME or --keys name a folder "
        "of that user's",
        user, closed.empty() ? "read" : "enter", closed.empty() ? path : closed);
  }
  if (owner_of(path) == user) {
    return fmt::format("{} may not be read by its own user: chmod u+r {}", path,
                       quote_for_shell(path));
  }
  return fmt::format("{} belongs to user {}, and user {} may not read it: chown {} {}", path,
                     owner_of(path), user, user, quote_for_shell(path));
}

UniqueFd open_readable(const std::string& path) {
  try {
    // A FIFO in its place must not hold us.
    return open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  } catch (const Error& error) {
    if (error.error() != EACCES && error.error() != EPERM) throw;
    throw Error(Code::kUnauthorised, why_unreadable(path));
  }
}

void check_folder(const std::string& folder) {
  // It may be one whose names nobody may list.
  UniqueFd fd = open_file(folder, O_PATH | O_DIRECTORY);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_errno("looking at " + folder);
  check_guarded(folder, status, 022);
}

struct Opened {
  UniqueFd file;
  std::size_t size;
};

Opened open_guarded(const std::string& path, unsigned forbidden) {
  UniqueFd file = open_readable(path);
  check_folder(folder_of(path));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw_errno("looking at " + path);
  if (!S_ISREG(status.st_mode)) throw Error(Code::kUnauthorised, path + " is no regular file");
  check_guarded(path, status, forbidden);
  if (static_cast<std::size_t>(status.st_size) > kMaxFile) {
    throw Error(Code::kUnauthorised, path + " is larger than 1 MB");
  }
  return {std::move(file), static_cast<std::size_t>(status.st_size)};
}

}  // namespace

std::string read_guarded(const std::string& path) {
  Opened opened = open_guarded(path, 022);
  std::string content(opened.size, '\0');
  read_fully(opened.file, std::as_writable_bytes(std::span(content)), path);
  return content;
}

SecretBytes read_guarded_secret(const std::string& path) {
  Opened opened = open_guarded(path, 077);
  SecretBytes content(opened.size);
  read_fully(opened.file, content, path);
  return content;
}

void write_guarded(const std::string& path, const std::string& content) {
  std::string temporary = fmt::format("{}.{}", path, ::getpid());
  ::unlink(temporary.c_str());
  UniqueFd file = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
  try {
    write_fully(file, std::as_bytes(std::span(content)), temporary);
    if (::fsync(file.get()) != 0) throw_errno("writing " + temporary);
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw_errno("renaming to " + path);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void make_guarded_folder(const std::string& path) {
  // ~/.config may be missing too, or all of a path that is asked for.
  for (std::size_t end = path.find('/', 1); end != std::string::npos;
       end = path.find('/', end + 1)) {
    ::mkdir(path.substr(0, end).c_str(), 0700);
  }
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) throw_errno("making " + path);
  check_folder(path);
}

FolderLock::FolderLock(const std::string& folder)
    : fd_(open_file(folder, O_RDONLY | O_DIRECTORY).release()) {
  while (::flock(fd_, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    int error = errno;
    ::close(fd_);
    throw_errno("locking " + folder, error);
  }
}

FolderLock::~FolderLock() { ::close(fd_); }

}  // namespace telefork::net
