#include "tracee/sigreturn_finder.h"

#include <elf.h>
#include <algorithm>
#include <cstring>
#include <iterator>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "tracee/memory.h"
#include "tracee/registers.h"
#include "tracee/sigreturn_code.h"

namespace telefork::tracee {
namespace {

// Small: most of what a fresh buffer costs is its page faults.
constexpr std::uint64_t kChunk = 32 * 1024;
constexpr std::uint64_t kOverlap = 16;  // longer than the instructions

RemotePtr find_in(pid_t pid, const kernel::Vma& vma, std::vector<std::byte>& buffer) {
  for (std::uint64_t at = 0; at < vma.size(); at += kChunk) {
    std::uint64_t wanted = std::min(vma.size() - at, kChunk + kOverlap);
    std::size_t count = try_read_memory(pid, vma.start + at, std::span(buffer).first(wanted));
    std::int64_t offset =
        find_sigreturn(reinterpret_cast<const std::uint8_t*>(buffer.data()), count);
    if (offset >= 0) return vma.start + at + static_cast<std::uint64_t>(offset);
  }
  return RemotePtr();
}

// The null pointer: nowhere.
RemotePtr find_sigreturn_in(pid_t pid, const std::vector<kernel::Vma>& maps) {
  if (maps.empty()) throw Error(Code::kGone, fmt::format("process {} has ended", pid));
  std::vector<kernel::Vma> code;
  std::copy_if(maps.begin(), maps.end(), std::back_inserter(code), [](const kernel::Vma& vma) {
    return vma.execute && vma.read && !vma.is_vdso_or_vvar() && !vma.is_vsyscall();
  });
  std::stable_partition(code.begin(), code.end(), [](const kernel::Vma& vma) {
    return vma.path.find("/libc.") != std::string::npos ||
           vma.path.find("/libc-") != std::string::npos;
  });
  std::vector<std::byte> buffer(kChunk + kOverlap);
  for (const kernel::Vma& vma : code) {
    if (RemotePtr found = find_in(pid, vma, buffer)) return found;
  }
  return RemotePtr();
}

template <class T>
bool try_read_object(pid_t pid, RemotePtr from, T& to) {
  return try_read_memory(pid, from, std::as_writable_bytes(std::span(&to, 1))) == sizeof(to);
}

// Where the segment that `vma` maps ends; `vma.end` where that is not known. Its file's first page,
// which has the table of segments, is mapped at `header`.
RemotePtr end_of_segment(pid_t pid, RemotePtr header, const kernel::Vma& vma) {
  Elf64_Ehdr file{};
  if (!try_read_object(pid, header, file) || std::memcmp(file.e_ident, ELFMAG, SELFMAG) != 0 ||
      file.e_ident[EI_CLASS] != ELFCLASS64 || file.e_phentsize != sizeof(Elf64_Phdr)) {
    return vma.end;
  }
  for (std::uint64_t i = 0; i < file.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (!try_read_object(pid, header + file.e_phoff + i * sizeof(segment), segment)) break;
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
    if (round_down(segment.p_offset, kPageSize) != vma.offset) continue;
    const std::uint64_t size = std::max(segment.p_filesz, segment.p_memsz);
    return vma.start + (segment.p_offset - vma.offset) + std::min(size, vma.size());
  }
  return vma.end;
}

// The null pointer: nowhere.
RemotePtr find_room(pid_t pid, const std::vector<kernel::Vma>& maps) {
  const std::uint64_t size = sigreturn_code().size();
  for (const kernel::Vma& vma : maps) {
    const bool is_code = vma.execute && vma.read && !vma.write && !vma.shared && vma.inode != 0;
    if (!is_code) continue;
    auto header = std::find_if(maps.begin(), maps.end(), [&vma](const kernel::Vma& other) {
      return other.inode == vma.inode && other.dev_major == vma.dev_major &&
             other.dev_minor == vma.dev_minor && other.offset == 0 && other.read;
    });
    if (header == maps.end()) continue;
    if (end_of_segment(pid, header->start, vma) + size <= vma.end) {
      return RemotePtr(vma.end.value() - size);
    }
  }
  return RemotePtr();
}

[[noreturn]] void refuse(pid_t pid) {
  throw Error(Code::kRefused,
              fmt::format("process {} has no code that returns from a signal handler", pid));
}

}  // namespace

void check_sigreturn_in(pid_t pid) {
  const std::vector<kernel::Vma> maps = kernel::read_maps(pid);
  if (!find_sigreturn_in(pid, maps) && !find_room(pid, maps)) refuse(pid);
}

RemotePtr make_sigreturn_in(pid_t pid) { return make_sigreturn_in(pid, kernel::read_maps(pid)); }

RemotePtr make_sigreturn_in(pid_t pid, const std::vector<kernel::Vma>& maps) {
  if (const RemotePtr found = find_sigreturn_in(pid, maps)) return found;
  const RemotePtr room = find_room(pid, maps);
  if (!room || !try_write_as_tracer(pid, room, sigreturn_code())) refuse(pid);
  return room;
}

}  // namespace telefork::tracee
