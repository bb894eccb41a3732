#include "restore/content_store.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "image/content_file.h"
#include "restore/vma_rules.h"

namespace telefork::restore {
namespace {

using image::schema::FileContent;

constexpr std::size_t kPiece = 1024 * 1024;

unsigned huge_flags(unsigned shift) {
  return shift == 0 ? 0 : MFD_HUGETLB | static_cast<unsigned>(huge_page_flags(shift));
}

UniqueFd make_memory_file(const char* name, unsigned flags) {
  UniqueFd file(::memfd_create(name, MFD_CLOEXEC | flags));
  if (!file) throw_errno("making a memory file");
  return file;
}

// Beside where its name was, so that it takes no memory; where that cannot be, in memory.
UniqueFd make_unlinked_file(const std::string& folder) {
  UniqueFd file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  return file ? std::move(file) : make_memory_file(image::kContentFileName, 0);
}

UniqueFd make_file(FileContent::Reader content) {
  switch (content.getKind()) {
    case FileContent::Kind::MEMORY_FILE:
      return make_memory_file(content.getName().cStr(),
                              MFD_ALLOW_SEALING | huge_flags(content.getHugeShift()));
    case FileContent::Kind::UNLINKED_FILE:
      return make_unlinked_file(content.getFolder());
    default:
      return make_memory_file(image::kContentFileName, 0);
  }
}

class Writer {
 public:
  Writer(image::RecordSource& source, const UniqueFd& file)
      : source_(source),
        file_(file),
        buffer_(std::min<std::uint64_t>(source.payload_left(), kPiece)) {}

  void write(std::uint64_t size) {
    while (size > 0) {
      auto piece = std::span(buffer_).first(std::min<std::uint64_t>(size, buffer_.size()));
      source_.read_payload(piece);
      write_fully(file_, piece, "a memory file");
      size -= piece.size();
    }
  }

 private:
  image::RecordSource& source_;
  const UniqueFd& file_;
  std::vector<std::byte> buffer_;
};

// A page of a file, mapped here.
class MappedPage {
 public:
  MappedPage(const UniqueFd& file, off_t at, std::size_t size)
      : size_(size),
        data_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), at)) {
    if (data_ == MAP_FAILED) throw_errno("mapping a huge page of a file");
  }
  MappedPage(const MappedPage&) = delete;
  MappedPage& operator=(const MappedPage&) = delete;
  ~MappedPage() { ::munmap(data_, size_); }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }

 private:
  std::size_t size_;
  void* data_;
};

// No write(2) is one to hugetlbfs. What is allocated ahead is no SIGBUS later.
void write_huge_page(const UniqueFd& file, std::uint64_t at, unsigned shift,
                     image::RecordSource& source) {
  const std::size_t size = std::size_t{1} << shift;
  const auto offset = static_cast<off_t>(at);
  while (::fallocate(file.get(), 0, offset, static_cast<off_t>(size)) != 0) {
    if (errno != EINTR) throw_errno(fmt::format("making {} of a file", huge_pages_name(shift)));
  }
  source.read_payload(MappedPage(file, offset, size).bytes());
}

void write_huge_extents(FileContent::Reader content, image::RecordSource& source,
                        const UniqueFd& file) {
  const std::uint64_t page = std::uint64_t{1} << content.getHugeShift();
  for (image::schema::Extent::Reader extent : content.getExtents()) {
    const std::uint64_t end = extent.getOffset() + extent.getSize();
    for (std::uint64_t at = extent.getOffset(); at < end; at += page) {
      write_huge_page(file, at, content.getHugeShift(), source);
    }
  }
  if (::ftruncate(file.get(), static_cast<off_t>(content.getFileSize())) != 0) {
    throw_errno("the size of a file of huge pages");
  }
}

void write_extents(FileContent::Reader content, image::RecordSource& source, const UniqueFd& file) {
  if (content.getHugeShift() != 0) return write_huge_extents(content, source, file);
  Writer writer(source, file);
  for (image::schema::Extent::Reader extent : content.getExtents()) {
    if (::lseek(file.get(), static_cast<off_t>(extent.getOffset()), SEEK_SET) < 0) {
      throw_errno("seeking in a file");
    }
    writer.write(extent.getSize());
  }
  if (::ftruncate(file.get(), static_cast<off_t>(content.getFileSize())) != 0) {
    throw_write_errno("the size of a file");
  }
}

bool is_itself(FileContent::Kind kind) {
  return kind == FileContent::Kind::MEMORY_FILE || kind == FileContent::Kind::UNLINKED_FILE ||
         kind == FileContent::Kind::NAMED_MEMORY;
}

}  // namespace

ContentStore::Content ContentStore::make(FileContent::Reader record, NamedMemory* named) const {
  Content content{UniqueFd(),       record.getKind(),  record.getSize(),
                  record.getMode(), record.getSeals(), true};
  if (content.kind != FileContent::Kind::NAMED_MEMORY) {
    content.file = make_file(record);
    return content;
  }
  if (named == nullptr) throw Error(Code::kCorrupt, "named memory where there can be none");
  NamedMemory::File made = named->make(record);
  content.file = std::move(made.file);
  content.is_new = made.is_new;
  return content;
}

void ContentStore::take(const image::Record& record, image::RecordSource& source,
                        NamedMemory* named) {
  auto from = record.get<FileContent>();
  Content content = make(from, named);
  if (!content.is_new) {
    source.skip_payload();
  } else if (is_itself(content.kind)) {
    write_extents(from, source, content.file);
  } else {
    Writer(source, content.file).write(source.payload_left());
  }
  contents_[from.getId()] = std::move(content);
}

const ContentStore::Content& ContentStore::find(std::uint32_t id) const {
  auto found = contents_.find(id);
  if (found == contents_.end()) {
    throw Error(Code::kCorrupt, fmt::format("the image lacks file content {}", id));
  }
  return found->second;
}

const UniqueFd& ContentStore::get(std::uint32_t id) const { return find(id).file; }

bool ContentStore::is_file_itself(std::uint32_t id) const { return is_itself(find(id).kind); }

std::vector<std::byte> ContentStore::read(std::uint32_t id) const {
  const Content& content = find(id);
  std::vector<std::byte> bytes(content.size);
  read_fully(content.file, bytes, "a memory file");
  return bytes;
}

void ContentStore::settle() {
  for (auto& [id, content] : contents_) {
    if (!is_itself(content.kind) || !content.is_new) continue;
    if (::fchmod(content.file.get(), content.mode & 07777) != 0) {
      throw_errno("restoring the permissions of a file");
    }
    const bool sealed = content.kind == FileContent::Kind::MEMORY_FILE && content.seals != 0;
    if (sealed && ::fcntl(content.file.get(), F_ADD_SEALS, content.seals) != 0) {
      throw_errno("sealing a memory file");
    }
  }
}

}  // namespace telefork::restore
