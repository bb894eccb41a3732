#include "capture/libc_identity.h"

#include <elf.h>
#include <cstring>

#include <unistd.h>
#include "base/error.h"

namespace telefork::capture {
namespace {

constexpr std::size_t kMaxHeaders = 64 * 1024;
constexpr std::size_t kMaxNotes = 64 * 1024;

// The build-id among the notes of an ELF file.
std::vector<std::byte> find_build_id(std::span<const std::byte> notes) {
  std::size_t at = 0;
  while (at + sizeof(Elf64_Nhdr) <= notes.size()) {
    Elf64_Nhdr header;
    std::memcpy(&header, notes.data() + at, sizeof(header));
    std::size_t name = at + sizeof(header);
    std::size_t content = name + (header.n_namesz + 3ul) / 4 * 4;
    std::size_t next = content + (header.n_descsz + 3ul) / 4 * 4;
    if (next > notes.size() || next <= at) break;
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 &&
        std::memcmp(notes.data() + name, "GNU", 4) == 0) {
      auto begin = notes.begin() + static_cast<std::ptrdiff_t>(content);
      return {begin, begin + header.n_descsz};
    }
    at = next;
  }
  return {};
}

std::vector<std::byte> read_part(const UniqueFd& file, std::uint64_t offset, std::size_t size) {
  std::vector<std::byte> bytes(size);
  ssize_t count = ::pread(file.get(), bytes.data(), size, static_cast<off_t>(offset));
  bytes.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
  return bytes;
}

std::vector<std::byte> read_build_id(const UniqueFd& file) {
  std::vector<std::byte> start = read_part(file, 0, kMaxHeaders);
  Elf64_Ehdr header;
  if (start.size() < sizeof(header)) return {};
  std::memcpy(&header, start.data(), sizeof(header));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return {};
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    std::size_t at = header.e_phoff + i * sizeof(Elf64_Phdr);
    Elf64_Phdr segment;
    if (at + sizeof(segment) > start.size()) break;
    std::memcpy(&segment, start.data() + at, sizeof(segment));
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNotes) continue;
    std::vector<std::byte> id = find_build_id(read_part(file, segment.p_offset, segment.p_filesz));
    if (!id.empty()) return id;
  }
  return {};
}

}  // namespace

LibcIdentity identify_libc(const Survey& survey) {
  for (const Mapping& mapping : survey.mappings) {
    if (!mapping.file || !mapping.vma.execute) continue;
    // musl's is ld-musl-x86_64.so.1; nobody but glibc names its libc.so.6.
    if (!mapping.vma.path.ends_with("/libc.so.6")) continue;
    return {read_build_id(survey.files.open(*mapping.file)), true};
  }
  return {};
}

}  // namespace telefork::capture
