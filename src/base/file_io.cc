#include "base/file_io.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork {
namespace {
constexpr std::uint64_t kPiece = 1024 * 1024;
}

void read_in_pieces(const UniqueFd& file, std::uint64_t size, const std::string& name,
                    const std::function<void(std::span<const std::byte>)>& take) {
  std::vector<std::byte> buffer(std::min(size, kPiece));
  std::uint64_t at = 0;
  while (at < size) {
    std::size_t wanted = std::min<std::uint64_t>(size - at, buffer.size());
    ssize_t count = ::pread(file.get(), buffer.data(), wanted, static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("reading " + name);
    if (count == 0) {
      throw Error(Code::kFailed, fmt::format("{} ends after {} of {} bytes", name, at, size));
    }
    take(std::span(buffer).first(static_cast<std::size_t>(count)));
    at += static_cast<std::uint64_t>(count);
  }
}

void write_fully(const UniqueFd& file, std::span<const std::byte> bytes, const std::string& name) {
  while (!bytes.empty()) {
    ssize_t count = ::write(file.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("writing " + name);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace telefork
