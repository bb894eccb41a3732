// The files that something of a process refers to, each once: mapped, open, or executed.
//
//     FileTable files(boot_id);
//     std::size_t index = files.add(fd, path, deleted);     // the same file gives the same index
//     ...
//     for (FileEntry& file : files.entries()) ...           // asked after at the destination
//     files.fill(index, vma.initFile());                    // into a record
//
// Of each file it keeps a descriptor open, so that its content can still travel when it is found
// to be missing at the destination.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/stat.h>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "image/record_sink.h"
#include "kernel/file_identity.h"

namespace telefork::capture {

struct FileEntry {
  UniqueFd file;     // readable where the file is regular and may be read; else O_PATH
  std::string path;  // as the process would open it
  struct stat stat = {};
  kernel::FileIdentity identity;
  bool deleted = false;
  bool readable = false;
  bool must_be_same = false;     // open for writing: a copy will not do
  std::vector<std::byte> hash;   // XXH3-128 of the content; empty until compute_hash()
  std::uint32_t content_id = 0;  // not 0: its content travels in that record
};

class FileTable {
 public:
  explicit FileTable(std::string boot_id) : boot_id_(std::move(boot_id)) {}

  // `open_path` is where to open it (below /proc), `path` what the process calls it.
  std::size_t add(const std::string& open_path, const std::string& path, bool deleted);
  std::vector<FileEntry>& entries() { return entries_; }
  const std::vector<FileEntry>& entries() const { return entries_; }

  // Reads all of it, once.
  void compute_hash(std::size_t index);
  // From now on the content travels.
  void carry_content(std::size_t index);
  void fill(std::size_t index, image::schema::FileRef::Builder file) const;
  // A FileContent record for every file whose content travels. Throws where one cannot be read
  // whole, naming it.
  void capture_contents(image::RecordSink& sink) const;

 private:
  std::string boot_id_;
  std::vector<FileEntry> entries_;
};

}  // namespace telefork::capture
