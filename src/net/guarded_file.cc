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
                            status.st_uid, ::geteuid(), path));
  }
  if ((status.st_mode & forbidden) != 0) {
    bool writable = (status.st_mode & 022) != 0;
    throw Error(Code::kUnauthorised, fmt::format("{} can be {} by others: chmod go-rwx {}", path,
                                                 writable ? "written" : "read", path));
  }
}

void check_folder(const std::string& folder) {
  UniqueFd fd = open_file(folder, O_RDONLY | O_DIRECTORY);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_errno("looking at " + folder);
  check_guarded(folder, status, 022);
}

struct Opened {
  UniqueFd file;
  std::size_t size;
};

Opened open_guarded(const std::string& path, unsigned forbidden) {
  // A FIFO in its place must not hold us.
  UniqueFd file = open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
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
  // ~/.config may be missing too.
  ::mkdir(folder_of(path).c_str(), 0700);
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
