#include "capture/file_table.h"

#include <algorithm>

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "base/file_io.h"
#include "image/hash.h"

namespace telefork::capture {
namespace {

void look(const UniqueFd& file, const std::string& path, struct stat& stat) {
  if (::fstat(file.get(), &stat) != 0) throw_errno("looking at " + path);
}

// A descriptor to read the content by where that is possible, else one that only names the file.
void open_quietly(const std::string& path, FileEntry& entry) {
  entry.file = open_file(path, O_PATH);
  look(entry.file, path, entry.stat);
  // Opening anything but a regular file can have effects.
  if (!S_ISREG(entry.stat.st_mode)) return;
  UniqueFd readable(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!readable) return;
  entry.file = std::move(readable);
  entry.readable = true;
  look(entry.file, path, entry.stat);
}

bool is_same_inode(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool is_unchanged(const struct stat& a, const struct stat& b) {
  return is_same_inode(a, b) && a.st_mode == b.st_mode && a.st_size == b.st_size &&
         a.st_nlink == b.st_nlink && a.st_ctim.tv_sec == b.st_ctim.tv_sec &&
         a.st_ctim.tv_nsec == b.st_ctim.tv_nsec;
}

}  // namespace

std::optional<std::size_t> FileTable::take_known(const FileEntry& wanted) {
  auto known = std::find_if(known_.begin(), known_.end(), [&wanted](const FileEntry& entry) {
    return is_same_inode(entry.stat, wanted.stat) && entry.path == wanted.path &&
           entry.deleted == wanted.deleted;
  });
  if (known == known_.end()) return std::nullopt;
  FileEntry entry = std::move(*known);
  known_.erase(known);
  struct stat now;
  look(entry.file, entry.path, now);
  if (!is_unchanged(entry.stat, now)) return std::nullopt;
  entry.must_be_same = false;
  entry.content_id = 0;
  entries_.push_back(std::move(entry));
  return entries_.size() - 1;
}

std::optional<std::size_t> FileTable::find(const kernel::Vma& vma) {
  FileEntry wanted;
  wanted.path = vma.path;
  wanted.deleted = vma.deleted;
  wanted.stat.st_dev = makedev(vma.dev_major, vma.dev_minor);
  wanted.stat.st_ino = vma.inode;
  for (std::size_t i = entries_.size(); i-- > 0;) {
    const FileEntry& entry = entries_[i];
    if (is_same_inode(entry.stat, wanted.stat) && entry.path == wanted.path &&
        entry.deleted == wanted.deleted) {
      return i;
    }
  }
  return take_known(wanted);
}

void FileTable::know(FileTable&& earlier) { known_ = std::move(earlier.entries_); }

std::size_t FileTable::find_or_add(FileEntry entry) {
  auto found = std::find_if(entries_.begin(), entries_.end(), [&entry](const FileEntry& other) {
    return is_same_inode(other.stat, entry.stat);
  });
  if (found != entries_.end()) return static_cast<std::size_t>(found - entries_.begin());
  if (std::optional<std::size_t> known = take_known(entry)) return *known;
  entry.identity = kernel::identify_file(entry.file.get(), entry.stat, boot_id_);
  entries_.push_back(std::move(entry));
  return entries_.size() - 1;
}

std::size_t FileTable::add(const std::string& open_path, const std::string& path, bool deleted) {
  FileEntry entry;
  entry.path = path;
  entry.deleted = deleted;
  open_quietly(open_path, entry);
  return find_or_add(std::move(entry));
}

void FileTable::compute_hash(std::size_t index) {
  FileEntry& entry = entries_.at(index);
  if (!entry.hash.empty() || !entry.readable) return;
  image::Hash128 hash;
  read_in_pieces(entry.file, static_cast<std::uint64_t>(entry.stat.st_size), entry.path,
                 [&hash](std::span<const std::byte> bytes) { hash.add(bytes); });
  auto value = hash.value();
  entry.hash.assign(value.begin(), value.end());
}

void FileTable::carry_content(std::size_t index) {
  entries_.at(index).content_id = static_cast<std::uint32_t>(index + 1);
}

void FileTable::fill(std::size_t index, image::schema::FileRef::Builder file) const {
  const FileEntry& entry = entries_.at(index);
  file.setPath(entry.path);
  file.setSize(static_cast<std::uint64_t>(entry.stat.st_size));
  file.setMode(entry.stat.st_mode);
  file.setDeleted(entry.deleted);
  file.setDevice(entry.stat.st_rdev);
  file.setContentId(entry.content_id);
  if (!entry.hash.empty()) {
    file.setHash(
        kj::arrayPtr(reinterpret_cast<const kj::byte*>(entry.hash.data()), entry.hash.size()));
  }
  auto identity = file.initIdentity();
  identity.setBootId(entry.identity.boot_id);
  identity.setDevice(entry.identity.device);
  identity.setInode(entry.identity.inode);
  identity.setMtime(entry.identity.mtime_ns);
  identity.setCtime(entry.identity.ctime_ns);
  identity.setFsType(entry.identity.fs_type);
  identity.setFsId(entry.identity.fs_id);
  identity.setHandle(kj::arrayPtr(reinterpret_cast<const kj::byte*>(entry.identity.handle.data()),
                                  entry.identity.handle.size()));
}

void FileTable::capture_contents(image::RecordSink& sink) const {
  for (const FileEntry& entry : entries_) {
    if (entry.content_id == 0) continue;
    auto size = static_cast<std::uint64_t>(entry.stat.st_size);
    ::capnp::MallocMessageBuilder message;
    auto content = message.initRoot<image::schema::FileContent>();
    content.setId(entry.content_id);
    content.setSize(size);
    sink.begin_payload_record(image::RecordType::kFileContent, message, size);
    read_in_pieces(entry.file, size, entry.path,
                   [&sink](std::span<const std::byte> bytes) { sink.payload(bytes); });
  }
}

}  // namespace telefork::capture
