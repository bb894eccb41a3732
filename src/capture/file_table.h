// The files that something of a process refers to, each once: mapped, open, or executed.
//
//     FileTable files(boot_id);
//     std::size_t index = files.add(fd, path, deleted);     // the same file gives the same index
//     ...
//     for (FileEntry& file : files.entries()) ...           // asked after at the destination
//     files.fill(index, vma.initFile());                    // into a record
//
// Of each file it keeps a descriptor open, so that its content can still travel when it is found
// to be missing at the destination. To open and identify a file takes nine system calls; a table
// that was made earlier saves them, and keeps nothing open meanwhile, which would make a filesystem
// busy or a lease impossible:
//
//     files.let_go();
//     ...
//     later.know(std::move(files));       // what did not change is opened only to be read
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "image/record_sink.h"
#include "kernel/file_identity.h"
#include "kernel/procfs_maps.h"

namespace telefork::capture {

// In front of the name of a memory file, memfd_create(2), as the kernel shows it.
inline constexpr char kMemoryFilePrefix[] = "/memfd:";

struct FileEntry {
  using Content = image::schema::FileContent::Kind;
  // Readable where the file is regular and may be read; else O_PATH. Empty: not needed so far. Only
  // a cache of what `open_path` leads to: FileTable::open() fills it.
  mutable UniqueFd file;
  std::string open_path;  // where to open it
  std::string path;       // as the process would open it
  struct stat stat = {};
  kernel::FileIdentity identity;
  bool deleted = false;
  bool readable = false;
  bool must_be_same = false;     // open for writing: a copy will not do
  unsigned access = 0;           // R_OK and W_OK: what it has to be opened for at the destination
  bool by_path = false;          // a directory: nothing more is asked for, or known here
  std::vector<std::byte> hash;   // XXH3-128 of the content; empty until compute_hash()
  std::uint32_t content_id = 0;  // not 0: its content travels in that record
  // COPY: for who only reads it. Else it is the file itself that moves, with its holes, and nobody
  // is asked whether it is there already.
  Content content = Content::COPY;

  // Whoever has it cannot move because of it: nobody needs to ask for more.
  bool refused = false;

  bool moves() const { return content != Content::COPY; }
  // Of one of hugetlb pages: log2 of their bytes; else 0.
  unsigned huge_shift() const;
  // The destination is not asked about it.
  bool is_settled() const { return moves() || refused; }
};

class FileTable {
 public:
  FileTable() = default;
  explicit FileTable(std::string boot_id) : boot_id_(std::move(boot_id)) {}

  // `open_path` is where to open it (below /proc), `path` what the process calls it.
  std::size_t add(const std::string& open_path, const std::string& path, bool deleted);
  // The directory of that path, only for the destination to be asked after it.
  void add_directory(const std::string& path);
  // The file behind a mapping, if it was added: both are open, so it is the same inode.
  std::optional<std::size_t> find(const kernel::Vma& vma) const;
  // Files that did not change since need not be opened again. Nothing else comes from there.
  void know(FileTable&& earlier);
  // Closes all of them.
  void let_go();
  // To read its content by. Throws where the file is not there any more.
  const UniqueFd& open(std::size_t index) const;
  // Files that came from elsewhere, by device and inode: a record has what they are called there.
  using FindOriginal = std::function<std::optional<image::schema::FileRef::Reader>(
      std::uint64_t device, std::uint64_t inode)>;
  void set_originals(FindOriginal find) { find_original_ = std::move(find); }
  bool is_from_elsewhere(const struct stat& stat) const {
    return find_original_ && find_original_(stat.st_dev, stat.st_ino);
  }
  std::vector<FileEntry>& entries() { return entries_; }
  const std::vector<FileEntry>& entries() const { return entries_; }

  // Reads all of it, once; nothing of one that the kernel makes up.
  void compute_hash(std::size_t index);
  // From now on the content travels.
  void carry_content(std::size_t index);
  // From now on the file itself moves, which nobody else has: a memory file, or one without a name.
  void move(std::size_t index, FileEntry::Content content);
  void fill(std::size_t index, image::schema::FileRef::Builder file) const;
  // A FileContent record for every file whose content travels. Throws where one cannot be read
  // whole, naming it.
  void capture_contents(image::RecordSink& sink) const;

 private:
  using Inode = std::pair<dev_t, ino_t>;
  bool take_known(FileEntry& wanted);
  void capture_copy(std::size_t index, image::RecordSink& sink) const;
  void capture_itself(std::size_t index, image::RecordSink& sink) const;

  std::string boot_id_;
  FindOriginal find_original_;
  std::vector<FileEntry> entries_;
  std::map<Inode, std::size_t> by_inode_;
  std::vector<FileEntry> known_;  // of an earlier table
  std::map<Inode, std::size_t> known_by_inode_;
};

}  // namespace telefork::capture
