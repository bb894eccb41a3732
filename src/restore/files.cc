#include "restore/files.h"

#include <algorithm>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "image/hash.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_system.h"
#include "restore/removed_directory.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;
using image::schema::FileRef;

bool same_kind(std::uint32_t mode, const struct stat& stat) {
  return (mode & S_IFMT) == (stat.st_mode & S_IFMT);
}

bool is_of_size(const kernel::FileIdentity& identity, FileRef::Reader ref) {
  if (kernel::is_made_up(identity.fs_type)) {
    return identity.fs_type == ref.getIdentity().getFsType();
  }
  return identity.size == ref.getSize();
}

bool has_changed(const kernel::FileIdentity& now, const kernel::FileIdentity& then) {
  if (kernel::is_made_up(now.fs_type)) return false;
  return now.size != then.size || now.mtime_ns != then.mtime_ns;
}

[[noreturn]] void refuse(FileRef::Reader ref, const std::string& why) {
  throw Error(Code::kRefused, fmt::format("file {}: {}", ref.getPath().cStr(), why));
}

// As touch -d takes it.
std::string format_time(std::int64_t nanoseconds) {
  return fmt::format("@{}.{:09}", nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000);
}

// The program would go on writing where it was, over what somebody else wrote.
[[noreturn]] void refuse_changed(FileRef::Reader ref, const kernel::FileIdentity& now,
                                 const kernel::FileIdentity& then) {
  refuse(ref, fmt::format("it was open for writing, and has been changed since it was saved ({} "
                          "bytes, modified at {}; now {} bytes, {}); give it the content of then, "
                          "and, as for one that will do as it is, that size and time: truncate -s "
                          "{}, then touch -d {}",
                          then.size, format_time(then.mtime_ns), now.size,
                          format_time(now.mtime_ns), then.size, format_time(then.mtime_ns)));
}

}  // namespace

kernel::FileIdentity decode_identity(image::schema::FileIdentity::Reader from) {
  kernel::FileIdentity identity;
  identity.boot_id = from.getBootId();
  identity.device = from.getDevice();
  identity.inode = from.getInode();
  identity.mtime_ns = from.getMtime();
  identity.ctime_ns = from.getCtime();
  identity.fs_type = from.getFsType();
  identity.fs_id = from.getFsId();
  auto handle = from.getHandle();
  const auto* bytes = reinterpret_cast<const std::byte*>(handle.begin());
  identity.handle.assign(bytes, bytes + handle.size());
  return identity;
}

kernel::FileIdentity decode_identity(FileRef::Reader ref) {
  kernel::FileIdentity identity = decode_identity(ref.getIdentity());
  identity.size = ref.getSize();
  return identity;
}

void ArrivedFiles::note(const UniqueFd& file, FileRef::Reader ref) {
  struct stat stat;
  if (::fstat(file.get(), &stat) != 0) throw_errno("looking at " + std::string(ref.getPath()));
  auto message = std::make_shared<::capnp::MallocMessageBuilder>();
  message->setRoot(ref);
  message->getRoot<FileRef>().setContentId(0);
  refs_[{stat.st_dev, stat.st_ino}] = std::move(message);
}

std::optional<FileRef::Reader> ArrivedFiles::find(std::uint64_t device, std::uint64_t inode) const {
  auto found = refs_.find({device, inode});
  if (found == refs_.end()) return std::nullopt;
  return found->second->getRoot<FileRef>().asReader();
}

unsigned kept_flags(FileDescription::Reader description) {
  return description.getFlags() & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT |
                                   O_LARGEFILE | O_NOATIME | O_DIRECTORY | O_PATH);
}

OpenFiles::OpenFiles(bool live) : boot_id_(kernel::read_boot_id()), live_(live) {}

bool OpenFiles::is_same(const kernel::FileIdentity& a, const kernel::FileIdentity& b) const {
  return live_ ? kernel::same_file_whatever_its_content(a, b) : kernel::same_file(a, b);
}

const std::vector<std::byte>& OpenFiles::hash_of(const UniqueFd& file,
                                                 const kernel::FileIdentity& identity,
                                                 const std::string& path) {
  KnownHash& known = hashes_[{identity.device, identity.inode}];
  if (known.hash.empty() || known.ctime_ns != identity.ctime_ns) {
    image::Hash128 hash;
    if (!kernel::is_made_up(identity.fs_type)) {
      read_in_pieces(file, identity.size, path,
                     [&hash](std::span<const std::byte> bytes) { hash.add(bytes); });
    }
    auto value = hash.value();
    known = {identity.ctime_ns, {value.begin(), value.end()}};
  }
  return known.hash;
}

std::string OpenFiles::why_another(FileRef::Reader ref, const struct stat& stat,
                                   const kernel::FileIdentity& identity) const {
  kernel::FileIdentity wanted = decode_identity(ref);
  if (S_ISDIR(stat.st_mode)) {
    // Elsewhere no directory is the same, and that of the path is meant.
    bool comparable = !ref.getByPath() && identity.boot_id == wanted.boot_id;
    if (!comparable || kernel::same_file_whatever_its_content(identity, wanted)) return "";
    return "another directory";
  }
  return stat.st_rdev == ref.getDevice() ? "" : "another device";
}

FileVerdict OpenFiles::examine(FileRef::Reader ref, int access) {
  FileVerdict verdict;
  std::string path = ref.getPath();
  // Naming it needs no permission on the file; opening it does.
  int named = ::open(path.c_str(), O_PATH | O_CLOEXEC);
  if (named < 0) {
    verdict.why = fmt::format("{} there: {}", path, std::strerror(errno));
    return verdict;
  }
  UniqueFd file(named);
  compare(file, ref, verdict);
  // Asked, not tried: opening a device may do something.
  if (verdict.kind == FileVerdict::Kind::kSame && access != 0 &&
      ::faccessat(file.get(), "", access, AT_EMPTY_PATH | AT_EACCESS) != 0) {
    verdict.kind = FileVerdict::Kind::kDifferent;
    verdict.why = fmt::format("{} there: {}", path, std::strerror(errno));
    verdict.denied = true;
  }
  return verdict;
}

void OpenFiles::compare(const UniqueFd& file, FileRef::Reader ref, FileVerdict& verdict) {
  std::string path = ref.getPath();
  struct stat stat;
  if (::fstat(file.get(), &stat) != 0) throw_errno("looking at " + path);
  kernel::FileIdentity identity = kernel::identify_file(file.get(), boot_id_);
  if (is_same(identity, decode_identity(ref))) {
    verdict.kind = FileVerdict::Kind::kSame;
    return;
  }
  verdict.kind = FileVerdict::Kind::kDifferent;
  bool regular = S_ISREG(stat.st_mode);
  if (!same_kind(ref.getMode(), stat)) {
    verdict.why = path + " there is another kind of file";
  } else if (!regular) {
    std::string another = why_another(ref, stat, identity);
    if (!another.empty()) {
      verdict.why = fmt::format("{} there is {}", path, another);
    } else if (ref.getByPath() && ::access(path.c_str(), X_OK) != 0) {
      verdict.why = fmt::format("changing to directory {} there: {}", path, std::strerror(errno));
    } else {
      verdict.kind = FileVerdict::Kind::kSame;
    }
  } else if (!is_of_size(identity, ref)) {
    verdict.why = fmt::format("{} there has {} bytes, not {}", path, identity.size, ref.getSize());
  } else if (int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC); fd < 0) {
    verdict.why = fmt::format("{} there: {}", path, std::strerror(errno));
  } else {
    UniqueFd readable(fd);
    verdict.kind = FileVerdict::Kind::kHashed;
    verdict.hash = hash_of(readable, identity, path);
  }
}

UniqueFd OpenFiles::open_here(FileRef::Reader ref, int flags) {
  return open_file(std::string(ref.getPath()), flags | O_NOCTTY);
}

void OpenFiles::verify(FileRef::Reader ref, const UniqueFd& file, Use use) {
  kernel::FileIdentity identity = kernel::identify_file(file.get(), boot_id_);
  struct stat stat;
  if (::fstat(file.get(), &stat) != 0) throw_errno("looking at " + std::string(ref.getPath()));
  if (!same_kind(ref.getMode(), stat)) refuse(ref, "it is another kind of file here");
  if (!S_ISREG(stat.st_mode)) {
    std::string another = why_another(ref, stat, identity);
    if (!another.empty()) refuse(ref, "it is " + another + " here");
    return;
  }
  kernel::FileIdentity wanted = decode_identity(ref);
  if (is_same(identity, wanted)) return;
  if (use != Use::kRead) {
    if (!kernel::same_file_whatever_its_content(identity, wanted)) {
      refuse(ref,
             "it is open for writing there, and the file here is not known to be the same one");
    }
    const bool grew = use == Use::kAppend && identity.size >= wanted.size;
    if (!grew && has_changed(identity, wanted)) refuse_changed(ref, identity, wanted);
    return;
  }
  if (!is_of_size(identity, ref)) {
    refuse(ref, fmt::format("it has {} bytes here, {} there", identity.size, ref.getSize()));
  }
  auto hash = ref.getHash();
  // As of one that it has open for writing too.
  if (hash.size() == 0 && kernel::same_file_whatever_its_content(identity, wanted) &&
      !has_changed(identity, wanted)) {
    return;
  }
  if (hash.size() == 0) refuse(ref, "it is another file here, and its content was not compared");
  const std::vector<std::byte>& mine = hash_of(file, identity, std::string(ref.getPath()));
  if (hash.size() != mine.size() || std::memcmp(hash.begin(), mine.data(), mine.size()) != 0) {
    refuse(ref, "its content differs from the one there");
  }
}

OpenFiles::Use OpenFiles::use_of(unsigned flags) {
  if ((flags & O_ACCMODE) == O_RDONLY) return Use::kRead;
  return (flags & O_APPEND) != 0 ? Use::kAppend : Use::kWrite;
}

void OpenFiles::verify_lockable(FileDescription::Reader description, const UniqueFd& file) {
  FileRef::Reader ref = description.getFile();
  if (description.getLocks().size() == 0 || ref.getContentId() != 0) return;
  if (!kernel::same_file_whatever_its_content(kernel::identify_file(file.get(), boot_id_),
                                              decode_identity(ref))) {
    refuse(ref, "it is locked there, and the file here is not known to be the same one");
  }
}

UniqueFd OpenFiles::open_for_mapping(FileRef::Reader ref, const ContentStore& contents,
                                     bool writable) {
  UniqueFd file;
  if (ref.getContentId() != 0 && contents.is_file_itself(ref.getContentId())) {
    file = open_file(kernel::self_fd_path(contents.get(ref.getContentId()).get()),
                     writable ? O_RDWR : O_RDONLY);
  } else if (ref.getContentId() != 0) {
    file = contents.get(ref.getContentId()).duplicate();
  } else {
    file = open_here(ref, writable ? O_RDWR : O_RDONLY);
    verify(ref, file, writable ? Use::kWrite : Use::kRead);
  }
  arrived_.note(file, ref);
  return file;
}

UniqueFd OpenFiles::open_fifo(FileRef::Reader ref) {
  // Looked at before it is opened: to open anything else may do something.
  UniqueFd named = open_here(ref, O_PATH);
  verify(ref, named, Use::kRead);
  struct stat stat;
  if (::fstat(named.get(), &stat) != 0) throw_errno("looking at " + std::string(ref.getPath()));
  if (!S_ISFIFO(stat.st_mode)) refuse(ref, "it is no FIFO");
  return open_file(kernel::self_fd_path(named.get()), O_RDWR | O_NONBLOCK);
}

UniqueFd OpenFiles::open_description(FileDescription::Reader description,
                                     const ContentStore& contents,
                                     const std::function<void(const std::string&)>& warn) {
  FileRef::Reader ref = description.getFile();
  unsigned flags = kept_flags(description);
  UniqueFd file;
  switch (description.getKind()) {
    case FileDescription::Kind::NULL_:
      return open_file("/dev/null", O_RDONLY);
    case FileDescription::Kind::LEFT_HOME:
      // Of a directory openat(2) and fchdir(2) would do something.
      return open_file("/dev/null", O_PATH);
    case FileDescription::Kind::REGULAR:
      if (ref.getContentId() != 0) {
        // By its name below /proc it is opened anew: its position is its own.
        file = open_file(kernel::self_fd_path(contents.get(ref.getContentId()).get()),
                         static_cast<int>(flags));
      } else {
        file = open_here(ref, static_cast<int>(flags));
        verify(ref, file, use_of(flags));
      }
      break;
    case FileDescription::Kind::DIRECTORY:
      if (ref.getDeleted()) {
        file = make_removed_directory(std::string(ref.getPath()), ref.getMode());
        arrived_.note(file, ref);
        return open_file(kernel::self_fd_path(file.get()), static_cast<int>(flags));
      }
      [[fallthrough]];
    case FileDescription::Kind::DEVICE:
      file = open_here(ref, static_cast<int>(flags));
      verify(ref, file, Use::kRead);
      break;
    default:
      throw Error(Code::kCorrupt, "it has a descriptor that is no file");
  }
  verify_lockable(description, file);
  arrived_.note(file, ref);
  if (description.getKind() == FileDescription::Kind::DEVICE || (flags & O_PATH) != 0) return file;
  auto position = static_cast<off_t>(description.getPosition());
  // That of a directory is its filesystem's own (readdir(3)): a cookie, no number of entries.
  bool lost = position != 0 && description.getKind() == FileDescription::Kind::DIRECTORY &&
              !kernel::same_file_whatever_its_content(kernel::identify_file(file.get(), boot_id_),
                                                      decode_identity(ref));
  if (lost) {
    warn(fmt::format("directory {}, which it has read in part, begins anew", ref.getPath().cStr()));
  } else if (::lseek(file.get(), position, SEEK_SET) < 0) {
    throw_errno("seeking in " + std::string(ref.getPath()));
  }
  return file;
}

}  // namespace telefork::restore
