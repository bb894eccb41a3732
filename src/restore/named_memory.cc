#include "restore/named_memory.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/file_identity.h"
#include "kernel/procfs_system.h"
#include "restore/files.h"

namespace telefork::restore {
namespace {

using image::schema::FileContent;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(Code::kRefused,
              fmt::format("its shared memory {} cannot be had here: {}", path, why));
}

// A name that is there already.
UniqueFd open_same(FileContent::Reader record, const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!file) refuse(path, std::strerror(errno));
  const kernel::FileIdentity here = kernel::identify_file(file.get(), kernel::read_boot_id());
  if (!kernel::same_file_whatever_its_content(here, decode_identity(record.getIdentity()))) {
    refuse(path, "its name is taken");
  }
  return file;
}

// A write lease can be had only where nobody else has a file open or mapped (fcntl(2)).
void empty_where_left_behind(const UniqueFd& file, const std::string& path) {
  if (::fcntl(file.get(), F_SETLEASE, F_WRLCK) != 0) {
    refuse(path, "it is there, and may be another process's");
  }
  ::fcntl(file.get(), F_SETLEASE, F_UNLCK);
  if (::ftruncate(file.get(), 0) != 0) throw_errno("emptying " + path);
}

void give_owner(FileContent::Reader record, const UniqueFd& file, const std::string& path) {
  struct stat stat;
  if (::fstat(file.get(), &stat) != 0) throw_errno("looking at " + path);
  if (stat.st_uid == record.getUid() && stat.st_gid == record.getGid()) return;
  if (::fchown(file.get(), record.getUid(), record.getGid()) == 0) return;
  refuse(path, fmt::format("giving it its owner: {}", std::strerror(errno)));
}

}  // namespace

NamedMemory::~NamedMemory() {
  for (const std::string& path : made_) ::unlink(path.c_str());
}

NamedMemory::File NamedMemory::make(FileContent::Reader record) {
  const std::string path = record.getName();
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file && errno == EEXIST) {
    File same{open_same(record, path), !live_};
    if (same.is_new) empty_where_left_behind(same.file, path);
    return same;
  }
  if (!file) refuse(path, std::strerror(errno));
  made_.push_back(path);
  give_owner(record, file, path);
  return {std::move(file), true};
}

}  // namespace telefork::restore
