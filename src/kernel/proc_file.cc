#include "kernel/proc_file.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"

namespace telefork::kernel {
namespace {

// seq_file fills at most its own buffer in one read(2), a page most often, however large ours is.
constexpr std::size_t kReadSize = 8 * 1024;
// A link of /proc can be as long as a path is, plus " (deleted)"; the kernel makes it in one page.
constexpr std::size_t kMaxLink = 4096 + 64;

bool process_exists(pid_t pid) { return ::access(fmt::format("/proc/{}", pid).c_str(), F_OK) == 0; }

// ENOENT is both "no such process" and "no such file of this process"; only the first is kGone.
[[noreturn]] void throw_proc_errno(pid_t pid, std::string doing) {
  int error = errno;
  if (error == ESRCH || (error == ENOENT && !process_exists(pid)))
    throw Error(Code::kGone, fmt::format("{}: process {} has ended", doing, pid), error);
  throw_errno(std::move(doing), error);
}

// -1 and errno, or the number of bytes appended.
ssize_t append_read(int fd, std::string& text) {
  // Not from the heap: it would grow and shrink by this much for every small file. Whoever calls
  // may have a stack of 64 KiB, with a long environment on it.
  char buffer[kReadSize];
  ssize_t got;
  do {
    got = ::read(fd, buffer, sizeof(buffer));
  } while (got < 0 && errno == EINTR);
  if (got > 0) text.append(buffer, static_cast<std::size_t>(got));
  return got;
}

// False and errno.
bool try_read_all(const std::string& path, std::string& text) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return false;
  for (;;) {
    ssize_t got = append_read(fd.get(), text);
    if (got == 0) return true;
    if (got < 0) return false;
    if (text.size() > kMaxProcFile) return errno = EFBIG, false;
  }
}

bool try_list_numbers(const std::string& folder, std::vector<int>& numbers) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(folder.c_str()), ::closedir);
  if (!directory) return false;
  for (errno = 0; const dirent* entry = ::readdir(directory.get());) {
    int number = 0;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    auto [stop, error] = std::from_chars(entry->d_name, end, number);
    if (error == std::errc() && stop == end) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return errno == 0;
}

}  // namespace

std::string proc_path(pid_t pid, std::string_view name) {
  return fmt::format("/proc/{}/{}", pid, name);
}

std::string read_proc_file(pid_t pid, std::string_view name) {
  std::string path = proc_path(pid, name);
  std::string text;
  if (!try_read_all(path, text)) throw_proc_errno(pid, "reading " + path);
  return text;
}

void write_proc_file(pid_t pid, std::string_view name, std::string_view text) {
  std::string path = proc_path(pid, name);
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) throw_proc_errno(pid, "opening " + path);
  ssize_t written = ::write(fd.get(), text.data(), text.size());
  if (written < 0) throw_proc_errno(pid, "writing to " + path);
  if (static_cast<std::size_t>(written) != text.size())
    throw Error(Code::kFailed, fmt::format("writing to {}: the kernel took only a part", path));
}

std::string read_proc_link(pid_t pid, std::string_view name) {
  std::string path = proc_path(pid, name);
  std::string target(kMaxLink, '\0');
  ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
  if (size < 0) throw_proc_errno(pid, "reading the link " + path);
  target.resize(static_cast<std::size_t>(size));
  return target;
}

std::vector<int> list_proc_numbers(pid_t pid, std::string_view name) {
  std::string path = proc_path(pid, name);
  std::vector<int> numbers;
  if (!try_list_numbers(path, numbers)) throw_proc_errno(pid, "listing " + path);
  return numbers;
}

std::string read_system_file(const std::string& path) {
  std::string text;
  if (!try_read_all(path, text)) throw_errno("reading " + path);
  return text;
}

std::string try_read_system_file(const std::string& path) {
  std::string text;
  if (try_read_all(path, text)) return text;
  if (errno == ENOENT) return {};
  throw_errno("reading " + path);
}

std::vector<int> list_numbers(const std::string& folder) {
  std::vector<int> numbers;
  if (!try_list_numbers(folder, numbers)) throw_errno("listing " + folder);
  return numbers;
}

}  // namespace telefork::kernel
