// Files that say who is trusted: nobody else may have written them.
#pragma once

#include <string>

#include "net/secret.h"

namespace telefork::net {

// The whole of a small regular file. It and its folder must belong to this process's user or to
// root and be writable by nobody else; of a secret nobody else may read the file either. Otherwise,
// and where this process may not read it, kUnauthorised, naming path and remedy. A file that does
// not exist is kFailed with ENOENT.
std::string read_guarded(const std::string& path);
SecretBytes read_guarded_secret(const std::string& path);

// Written whole with mode 0600 and renamed to `path`, so that a reader sees the old or the new one.
void write_guarded(const std::string& path, const std::string& content);

// Makes the folder with mode 0700 where it is missing, and the one above it; throws as
// read_guarded() where it is not ours alone.
void make_guarded_folder(const std::string& path);

// Of two that change a file at once the second waits. Held as long as the object lives.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

 private:
  int fd_;
};

}  // namespace telefork::net
