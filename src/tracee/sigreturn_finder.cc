#include "tracee/sigreturn_finder.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "tracee/memory.h"
#include "tracee/registers.h"

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

}  // namespace

RemotePtr find_sigreturn_in(pid_t pid) { return find_sigreturn_in(pid, kernel::read_maps(pid)); }

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
  throw Error(Code::kRefused,
              fmt::format("process {} has no code that returns from a signal handler", pid));
}

}  // namespace telefork::tracee
