#include "capture/file_table.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string_view>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "base/file_io.h"
#include "base/remote_ptr.h"
#include "capture/zero_page.h"
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

struct FileExtent {
  std::uint64_t offset;
  std::uint64_t size;
};

// Where it has data. A filesystem without holes says that it is one piece.
std::vector<FileExtent> find_extents(const UniqueFd& file, const std::string& path) {
  std::vector<FileExtent> extents;
  for (off_t at = 0;;) {
    const off_t data = ::lseek(file.get(), at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return extents;
    const off_t hole = data < 0 ? data : ::lseek(file.get(), data, SEEK_HOLE);
    if (hole < 0) throw_errno("looking for holes in " + path);
    extents.push_back({static_cast<std::uint64_t>(data), static_cast<std::uint64_t>(hole - data)});
    at = hole;
  }
}

// Whether all of those bytes are zero.
bool is_zero(const UniqueFd& file, const FileEntry& entry, const FileExtent& part) {
  bool zero = true;
  read_in_pieces(file, part.offset, part.size, entry.path, [&zero](auto bytes) {
    for (; zero && bytes.size() >= kPageSize; bytes = bytes.subspan(kPageSize)) {
      zero = is_zero_page(bytes.first(kPageSize));
    }
    zero = zero && std::all_of(bytes.begin(), bytes.end(),
                               [](std::byte byte) { return byte == std::byte{0}; });
  });
  return zero;
}

// hugetlbfs tells nobody where its files have holes, only how much of them is none: a page that is
// all zeros counts as one (hugetlbfs_file_operations in fs/hugetlbfs/inode.c).
std::vector<FileExtent> find_huge_extents(const UniqueFd& file, const FileEntry& entry) {
  constexpr std::uint64_t kBlock = 512;  // of st_blocks
  struct stat stat {};
  look(file, entry.path, stat);
  const auto size = static_cast<std::uint64_t>(stat.st_size);
  const std::uint64_t filled = static_cast<std::uint64_t>(stat.st_blocks) * kBlock;
  const std::uint64_t page = std::uint64_t{1} << entry.huge_shift();
  std::vector<FileExtent> extents;
  for (std::uint64_t at = 0; filled > 0 && at < size; at += page) {
    if (filled < size && is_zero(file, entry, {at, page})) continue;
    if (!extents.empty() && extents.back().offset + extents.back().size == at) {
      extents.back().size += page;
    } else {
      extents.push_back({at, page});
    }
  }
  return extents;
}

// Cap'n Proto has no such copy for a part of a message that is there already.
void copy(image::schema::FileRef::Reader from, image::schema::FileRef::Builder to) {
  to.setPath(from.getPath());
  to.setSize(from.getSize());
  to.setMode(from.getMode());
  to.setIdentity(from.getIdentity());
  to.setHash(from.getHash());
  to.setDeleted(from.getDeleted());
  to.setDevice(from.getDevice());
}

void fill_identity(const kernel::FileIdentity& identity,
                   image::schema::FileIdentity::Builder record) {
  record.setBootId(identity.boot_id);
  record.setDevice(identity.device);
  record.setInode(identity.inode);
  record.setMtime(identity.mtime_ns);
  record.setCtime(identity.ctime_ns);
  record.setFsType(identity.fs_type);
  record.setFsId(identity.fs_id);
  record.setHandle(kj::arrayPtr(reinterpret_cast<const kj::byte*>(identity.handle.data()),
                                identity.handle.size()));
}

}  // namespace

// What an earlier table knows of a file that is still as it was.
bool FileTable::take_known(FileEntry& wanted) {
  if (known_.empty() || ::stat(wanted.open_path.c_str(), &wanted.stat) != 0) return false;
  auto found = known_by_inode_.find({wanted.stat.st_dev, wanted.stat.st_ino});
  if (found == known_by_inode_.end()) return false;
  const FileEntry& known = known_[found->second];
  if (!is_unchanged(known.stat, wanted.stat) || known.path != wanted.path ||
      known.deleted != wanted.deleted) {
    return false;
  }
  wanted.identity = known.identity;
  wanted.readable = known.readable;
  wanted.hash = known.hash;
  return true;
}

std::optional<std::size_t> FileTable::find(const kernel::Vma& vma) const {
  auto found = by_inode_.find({makedev(vma.dev_major, vma.dev_minor), vma.inode});
  if (found == by_inode_.end()) return std::nullopt;
  const FileEntry& entry = entries_[found->second];
  if (entry.path != vma.path || entry.deleted != vma.deleted) return std::nullopt;
  return found->second;
}

void FileTable::know(FileTable&& earlier) {
  known_ = std::exchange(earlier.entries_, {});
  known_by_inode_ = std::exchange(earlier.by_inode_, {});
}

void FileTable::let_go() {
  for (FileEntry& entry : entries_) entry.file.reset();
}

std::size_t FileTable::add(const std::string& open_path, const std::string& path, bool deleted) {
  FileEntry entry;
  entry.open_path = open_path;
  entry.path = path;
  entry.deleted = deleted;
  bool known = take_known(entry);
  if (!known) open_quietly(open_path, entry);
  auto [same, is_new] =
      by_inode_.try_emplace({entry.stat.st_dev, entry.stat.st_ino}, entries_.size());
  if (!is_new) return same->second;
  if (!known) entry.identity = kernel::identify_file(entry.file.get(), entry.stat, boot_id_);
  entries_.push_back(std::move(entry));
  return entries_.size() - 1;
}

void FileTable::add_directory(const std::string& path) {
  FileEntry entry;
  entry.path = path;
  entry.stat.st_mode = S_IFDIR;
  entry.by_path = true;
  entries_.push_back(std::move(entry));
}

const UniqueFd& FileTable::open(std::size_t index) const {
  const FileEntry& entry = entries_.at(index);
  if (entry.file) return entry.file;
  FileEntry now;
  open_quietly(entry.open_path, now);
  if (!is_same_inode(now.stat, entry.stat)) {
    throw Error(Code::kRefused, "file " + entry.path + ": it has just been replaced by another");
  }
  entry.file = std::move(now.file);
  return entry.file;
}

// The block of such a file is its page (fs/hugetlbfs/inode.c, hugetlbfs_fill_super).
unsigned FileEntry::huge_shift() const {
  if (identity.fs_type != HUGETLBFS_MAGIC) return 0;
  return static_cast<unsigned>(std::countr_zero(static_cast<std::uint64_t>(stat.st_blksize)));
}

void FileTable::compute_hash(std::size_t index) {
  FileEntry& entry = entries_.at(index);
  if (!entry.hash.empty() || !entry.readable) return;
  image::Hash128 hash;
  if (!kernel::is_made_up(entry.identity.fs_type)) {
    read_in_pieces(open(index), static_cast<std::uint64_t>(entry.stat.st_size), entry.path,
                   [&hash](std::span<const std::byte> bytes) { hash.add(bytes); });
  }
  auto value = hash.value();
  entry.hash.assign(value.begin(), value.end());
}

void FileTable::carry_content(std::size_t index) {
  entries_.at(index).content_id = static_cast<std::uint32_t>(index + 1);
}

void FileTable::move(std::size_t index, FileEntry::Content content) {
  entries_.at(index).content = content;
  carry_content(index);
}

void FileTable::fill(std::size_t index, image::schema::FileRef::Builder file) const {
  const FileEntry& entry = entries_.at(index);
  // What moves itself has nothing that it is at home.
  if (find_original_ && !entry.moves()) {
    if (auto original = find_original_(entry.stat.st_dev, entry.stat.st_ino)) {
      copy(*original, file);
      return;
    }
  }
  file.setPath(entry.path);
  file.setSize(static_cast<std::uint64_t>(entry.stat.st_size));
  file.setMode(entry.stat.st_mode);
  file.setDeleted(entry.deleted);
  file.setDevice(entry.stat.st_rdev);
  file.setByPath(entry.by_path);
  file.setContentId(entry.content_id);
  if (!entry.hash.empty()) {
    file.setHash(
        kj::arrayPtr(reinterpret_cast<const kj::byte*>(entry.hash.data()), entry.hash.size()));
  }
  if (entry.moves()) return;  // it is another file there
  fill_identity(entry.identity, file.initIdentity());
}

void FileTable::capture_copy(std::size_t index, image::RecordSink& sink) const {
  const FileEntry& entry = entries_[index];
  auto size = static_cast<std::uint64_t>(entry.stat.st_size);
  ::capnp::MallocMessageBuilder message;
  auto content = message.initRoot<image::schema::FileContent>();
  content.setId(entry.content_id);
  content.setSize(size);
  sink.begin_payload_record(image::RecordType::kFileContent, message, size);
  read_in_pieces(open(index), size, entry.path,
                 [&sink](std::span<const std::byte> bytes) { sink.payload(bytes); });
}

void FileTable::capture_itself(std::size_t index, image::RecordSink& sink) const {
  const FileEntry& entry = entries_[index];
  const UniqueFd& file = open(index);
  const std::vector<FileExtent> extents =
      entry.huge_shift() != 0 ? find_huge_extents(file, entry) : find_extents(file, entry.path);
  ::capnp::MallocMessageBuilder message;
  auto content = message.initRoot<image::schema::FileContent>();
  content.setId(entry.content_id);
  content.setKind(entry.content);
  content.setMode(entry.stat.st_mode & 07777);
  content.setFileSize(static_cast<std::uint64_t>(entry.stat.st_size));
  if (entry.content == FileEntry::Content::MEMORY_FILE) {
    content.setName(entry.path.substr(std::string_view(kMemoryFilePrefix).size()));
    content.setHugeShift(static_cast<std::uint8_t>(entry.huge_shift()));
    content.setSeals(static_cast<std::uint32_t>(std::max(0, ::fcntl(file.get(), F_GET_SEALS))));
  } else if (entry.content == FileEntry::Content::NAMED_MEMORY) {
    content.setName(entry.path);
    content.setUid(entry.stat.st_uid);
    content.setGid(entry.stat.st_gid);
    fill_identity(entry.identity, content.initIdentity());
  } else {
    content.setFolder(entry.path.substr(0, entry.path.rfind('/') + 1));
  }
  std::uint64_t size = 0;
  auto list = content.initExtents(static_cast<unsigned>(extents.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setOffset(extents[i].offset);
    list[i].setSize(extents[i].size);
    size += extents[i].size;
  }
  content.setSize(size);
  sink.begin_payload_record(image::RecordType::kFileContent, message, size);
  for (const FileExtent& extent : extents) {
    read_in_pieces(file, extent.offset, extent.size, entry.path,
                   [&sink](std::span<const std::byte> bytes) { sink.payload(bytes); });
  }
}

void FileTable::capture_contents(image::RecordSink& sink) const {
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].content_id == 0) continue;
    if (entries_[i].moves()) {
      capture_itself(i, sink);
    } else {
      capture_copy(i, sink);
    }
  }
}

}  // namespace telefork::capture
