#include "capture/file_table.h"

#include <algorithm>

#include <fcntl.h>

#include "base/error.h"
#include "base/file_io.h"
#include "image/hash.h"

namespace telefork::capture {
namespace {

// A descriptor to read the content by where that is possible, else one that only names the file.
UniqueFd open_quietly(const std::string& path, bool* readable) {
  struct stat stat;
  UniqueFd named = open_file(path, O_PATH);
  if (::fstat(named.get(), &stat) != 0) throw_errno("looking at " + path);
  *readable = false;
  // Opening anything but a regular file can have effects.
  if (!S_ISREG(stat.st_mode)) return named;
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return named;
  *readable = true;
  return UniqueFd(fd);
}

}  // namespace

std::size_t FileTable::add(const std::string& open_path, const std::string& path, bool deleted) {
  FileEntry entry;
  entry.file = open_quietly(open_path, &entry.readable);
  if (::fstat(entry.file.get(), &entry.stat) != 0) throw_errno("looking at " + path);
  auto same = [&entry](const FileEntry& other) {
    return other.stat.st_dev == entry.stat.st_dev && other.stat.st_ino == entry.stat.st_ino;
  };
  auto found = std::find_if(entries_.begin(), entries_.end(), same);
  if (found != entries_.end()) return static_cast<std::size_t>(found - entries_.begin());
  entry.path = path;
  entry.deleted = deleted;
  entry.identity = kernel::identify_file(entry.file.get(), boot_id_);
  entries_.push_back(std::move(entry));
  return entries_.size() - 1;
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
