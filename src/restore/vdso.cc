#include "restore/vdso.h"

#include <elf.h>
#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/error.h"
#include "restore/vdso_jump.h"

namespace telefork::restore {
namespace {

constexpr std::size_t kMaxSymbols = 1000;

template <class T>
T read_at(std::span<const std::byte> image, std::uint64_t offset) {
  if (offset > image.size() || image.size() - offset < sizeof(T)) {
    throw Error(Code::kCorrupt, "the vDSO of the image is damaged");
  }
  T object;
  std::memcpy(&object, image.data() + offset, sizeof(T));
  return object;
}

std::string read_string(std::span<const std::byte> image, std::uint64_t offset) {
  std::string text;
  for (;; ++offset) {
    char c = read_at<char>(image, offset);
    if (c == 0) return text;
    text += c;
  }
}

struct DynamicTables {
  std::uint64_t strings = 0;
  std::uint64_t symbols = 0;
};

// A vDSO is linked to address 0, so that addresses are offsets into it.
DynamicTables find_tables(std::span<const std::byte> image) {
  auto header = read_at<Elf64_Ehdr>(image, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    throw Error(Code::kCorrupt, "the vDSO of the image is no ELF file");
  }
  DynamicTables tables;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    auto segment = read_at<Elf64_Phdr>(image, header.e_phoff + i * sizeof(Elf64_Phdr));
    if (segment.p_type != PT_DYNAMIC) continue;
    for (std::uint64_t at = segment.p_offset; at < segment.p_offset + segment.p_filesz;
         at += sizeof(Elf64_Dyn)) {
      auto entry = read_at<Elf64_Dyn>(image, at);
      if (entry.d_tag == DT_STRTAB) tables.strings = entry.d_un.d_ptr;
      if (entry.d_tag == DT_SYMTAB) tables.symbols = entry.d_un.d_ptr;
    }
  }
  if (tables.strings == 0 || tables.symbols == 0) {
    throw Error(Code::kCorrupt, "the vDSO of the image has no symbols");
  }
  return tables;
}

// Where the next function begins, or the image ends.
std::uint64_t end_of_function(const std::map<std::string, std::uint64_t>& symbols,
                              std::uint64_t offset, std::uint64_t end) {
  for (const auto& [name, other] : symbols) {
    if (other > offset) end = std::min(end, other);
  }
  return end;
}

}  // namespace

std::map<std::string, std::uint64_t> vdso_symbols(std::span<const std::byte> image) {
  DynamicTables tables = find_tables(image);
  std::map<std::string, std::uint64_t> symbols;
  // The symbol table ends where the string table begins (as every linker lays a vDSO out).
  for (std::size_t i = 0; i < kMaxSymbols; ++i) {
    std::uint64_t at = tables.symbols + i * sizeof(Elf64_Sym);
    if (tables.strings > tables.symbols && at + sizeof(Elf64_Sym) > tables.strings) break;
    auto symbol = read_at<Elf64_Sym>(image, at);
    unsigned type = ELF64_ST_TYPE(symbol.st_info);
    if ((type != STT_FUNC && type != STT_NOTYPE) || symbol.st_shndx == SHN_UNDEF) continue;
    std::string name = read_string(image, tables.strings + symbol.st_name);
    if (name.empty() || symbol.st_value >= image.size()) continue;
    symbols[name] = symbol.st_value;
  }
  return symbols;
}

std::vector<std::byte> redirect_vdso(std::span<const std::byte> old_image, RemotePtr old_start,
                                     std::span<const std::byte> new_image, RemotePtr new_start) {
  std::map<std::string, std::uint64_t> old_symbols = vdso_symbols(old_image);
  std::map<std::string, std::uint64_t> new_symbols = vdso_symbols(new_image);
  std::vector<std::byte> patched(old_image.begin(), old_image.end());
  for (const auto& [name, offset] : old_symbols) {
    auto target = new_symbols.find(name);
    std::vector<std::byte> code = target != new_symbols.end()
                                      ? encode_jump(old_start + offset, new_start + target->second)
                                      : encode_system_call_of(name);
    if (code.empty()) {
      throw Error(Code::kRefused,
                  fmt::format("this kernel's vDSO lacks {}, which the process may call", name));
    }
    if (offset + code.size() > patched.size()) {
      throw Error(Code::kCorrupt, "the vDSO of the image is damaged");
    }
    if (offset + code.size() > end_of_function(old_symbols, offset, patched.size())) {
      throw Error(Code::kRefused,
                  fmt::format("{} of the vDSO of the image is too short for a jump", name));
    }
    std::copy(code.begin(), code.end(), patched.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  return patched;
}

}  // namespace telefork::restore
