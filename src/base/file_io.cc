#include "base/file_io.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork {
namespace {

constexpr std::uint64_t kPiece = 1024 * 1024;

// As many as there are at once, at least one.
std::size_t read_some(const UniqueFd& file, std::span<std::byte> bytes, std::uint64_t at,
                      std::uint64_t size, const std::string& name) {
  for (;;) {
    ssize_t count = ::pread(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (count > 0) return static_cast<std::size_t>(count);
    if (count == 0) {
      throw Error(Code::kFailed, fmt::format("{} ends after {} of {} bytes", name, at, size));
    }
    if (errno != EINTR) throw_errno("reading " + name);
  }
}

}  // namespace

void read_in_pieces(const UniqueFd& file, std::uint64_t size, const std::string& name,
                    const std::function<void(std::span<const std::byte>)>& take) {
  read_in_pieces(file, 0, size, name, take);
}

void read_in_pieces(const UniqueFd& file, std::uint64_t offset, std::uint64_t size,
                    const std::string& name,
                    const std::function<void(std::span<const std::byte>)>& take) {
  std::vector<std::byte> buffer(std::min(size, kPiece));
  const std::uint64_t end = offset + size;
  for (std::uint64_t at = offset; at < end;) {
    std::size_t wanted = std::min<std::uint64_t>(end - at, buffer.size());
    std::size_t count = read_some(file, std::span(buffer).first(wanted), at, end, name);
    take(std::span(buffer).first(count));
    at += count;
  }
}

void read_fully(const UniqueFd& file, std::span<std::byte> bytes, const std::string& name) {
  for (std::size_t at = 0; at < bytes.size();) {
    at += read_some(file, bytes.subspan(at), at, bytes.size(), name);
  }
}

void throw_write_errno(const std::string& name) {
  const int error = errno;
  rlimit limit{};
  if (error == EFBIG && ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    throw_errno(fmt::format("writing {} (limit fsize is {})", name, limit.rlim_cur), error,
                Code::kResources);
  }
  throw_errno("writing " + name, error);
}

void write_fully(const UniqueFd& file, std::span<const std::byte> bytes, const std::string& name) {
  while (!bytes.empty()) {
    ssize_t count = ::write(file.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_write_errno(name);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace telefork
