// For tests: this machine's vDSO, and images of vDSOs that no kernel has.
//
//     VdsoSample own = VdsoSample::own();
//     std::vector<std::byte> other = make_vdso(0x2000, {{"__vdso_time", 0x1800}});
//
//     0            kTables                                    size
//     | ELF header | .dynamic  .dynsym  .dynstr | int3 ... int3 |
//
// The functions of a made one are int3 throughout: it has to be redirected before they are called.
#pragma once

#include <elf.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernel/procfs_maps.h"

namespace telefork::restore {

using VdsoSymbols = std::map<std::string, std::uint64_t>;

struct VdsoSample {
  RemotePtr start;
  std::vector<std::byte> code;

  static VdsoSample own() {
    for (const kernel::Vma& vma : kernel::read_maps(::getpid())) {
      if (!vma.is_vdso()) continue;
      const auto* at = reinterpret_cast<const std::byte*>(vma.start.value());
      return {vma.start, {at, at + vma.size()}};
    }
    return {};
  }
};

class VdsoMaker {
 public:
  static constexpr std::uint64_t kTables = 0x100;
  static constexpr int kTrap = 0xcc;  // int3

  explicit VdsoMaker(std::size_t size) : image_(size, std::byte{kTrap}) {}

  std::vector<std::byte> make(const VdsoSymbols& symbols) {
    std::uint64_t table = kTables + 3 * sizeof(Elf64_Dyn);
    std::uint64_t strings = table + (symbols.size() + 1) * sizeof(Elf64_Sym);
    put_header();
    put(kTables, Elf64_Dyn{DT_STRTAB, {strings}});
    put(kTables + sizeof(Elf64_Dyn), Elf64_Dyn{DT_SYMTAB, {table}});
    put(kTables + 2 * sizeof(Elf64_Dyn), Elf64_Dyn{DT_NULL, {0}});
    put(table, Elf64_Sym{});
    std::uint64_t name = strings;
    put(name++, '\0');
    for (const auto& [text, offset] : symbols) {
      Elf64_Sym symbol{};
      symbol.st_name = static_cast<Elf64_Word>(name - strings);
      symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
      symbol.st_shndx = 1;
      symbol.st_value = offset;
      put(table += sizeof(Elf64_Sym), symbol);
      std::memcpy(image_.data() + name, text.c_str(), text.size() + 1);
      name += text.size() + 1;
    }
    return image_;
  }

 private:
  template <class T>
  void put(std::uint64_t offset, const T& object) {
    std::memcpy(image_.data() + offset, &object, sizeof(object));
  }

  void put_header() {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_phnum = 1;
    put(0, header);
    Elf64_Phdr dynamic{};
    dynamic.p_type = PT_DYNAMIC;
    dynamic.p_offset = kTables;
    dynamic.p_filesz = 3 * sizeof(Elf64_Dyn);
    put(sizeof(Elf64_Ehdr), dynamic);
  }

  std::vector<std::byte> image_;
};

inline std::vector<std::byte> make_vdso(std::size_t size, const VdsoSymbols& symbols) {
  return VdsoMaker(size).make(symbols);
}

}  // namespace telefork::restore
