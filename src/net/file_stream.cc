#include "net/file_stream.h"

#include <cerrno>
#include <filesystem>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"

namespace telefork::net {
namespace {

constexpr unsigned kImageMode = 0600;
constexpr int kWaitMs = 100;  // between two calls of while_waiting

bool is_other_than_regular(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode);
}

// rename(2) would replace the link itself.
std::string follow_links(const std::string& path) {
  constexpr int kMostLinks = 40;  // MAXSYMLINKS (include/linux/namei.h)
  std::filesystem::path target = path;
  std::error_code error;  // no link, or one that cannot be read: whoever opens it says so
  for (int links = 0; std::filesystem::is_symlink(target, error); ++links) {
    if (links == kMostLinks) throw_errno("following " + path, ELOOP);
    target = target.parent_path() / std::filesystem::read_symlink(target, error);
    if (error) break;
  }
  return target;
}

// "DIR/.NAME.telefork-XXXXXX": beside the file, so that rename(2) stays within one file system.
std::string temporary_pattern(const std::string& path) {
  std::filesystem::path whole(path);
  return whole.parent_path() / fmt::format(".{}.telefork-XXXXXX", whole.filename().string());
}

}  // namespace

FileSink::FileSink(std::string path, std::function<void()> while_waiting)
    : path_(std::move(path)),
      target_(follow_links(path_)),
      while_waiting_(std::move(while_waiting)) {
  directory_ = std::filesystem::path(target_).parent_path();
  if (directory_.empty()) directory_ = ".";
  if (is_other_than_regular(path_)) {
    // Our own open file description: nobody else sees the flag. ENXIO: a FIFO without a reader.
    fd_ = open_file(path_, O_WRONLY | O_NONBLOCK);
  } else {
    open_nameless_or_temporary();
  }
}

void FileSink::open_nameless_or_temporary() {
  int fd = ::open(directory_.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kImageMode);
  if (fd >= 0) {
    fd_.reset(fd);
    state_ = State::kNameless;
    return;
  }
  // EISDIR: a kernel or file system that does not know O_TMPFILE (open(2)).
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) throw_errno("creating " + path_);
  temporary_ = temporary_pattern(target_);
  fd_.reset(::mkostemp(temporary_.data(), O_CLOEXEC));
  const int error = errno;
  // As of /proc, which has names of its own alone.
  if (!fd_ && error == ENOENT && std::filesystem::is_directory(directory_)) {
    throw Error(Code::kUsage, fmt::format("{}: no file can be made in {}", path_, directory_));
  }
  if (!fd_) throw_errno("creating " + path_, error);
  state_ = State::kTemporary;
}

FileSink::~FileSink() {
  if (state_ == State::kTemporary) ::unlink(temporary_.c_str());
}

void FileSink::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::write(fd_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      wait_for_room();
      continue;
    }
    if (count < 0) throw_write_errno(path_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void FileSink::wait_for_room() {
  pollfd writable{fd_.get(), POLLOUT, 0};
  if (::poll(&writable, 1, kWaitMs) <= 0 && while_waiting_) while_waiting_();
}

void FileSink::sync() const {
  if (::fsync(fd_.get()) != 0) throw_errno("writing " + path_);
}

void FileSink::commit() {
  if (state_ == State::kInPlace || state_ == State::kCommitted) return;
  sync();
  if (state_ == State::kNameless) {
    // linkat(2) does not replace a file, so the name is a temporary one first.
    temporary_ = temporary_pattern(target_);
    temporary_.replace(temporary_.size() - 6, 6, fmt::format("{}", ::getpid()));
    std::string self = fmt::format("/proc/self/fd/{}", fd_.get());
    ::unlink(temporary_.c_str());
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      throw_errno("naming " + path_);
    }
    state_ = State::kTemporary;
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) throw_errno("naming " + path_);
  state_ = State::kCommitted;
  // Without it the name may be lost in a crash; a file system that cannot sync a directory says
  // EINVAL, and then there is nothing to be done.
  UniqueFd directory = open_file(directory_, O_RDONLY | O_DIRECTORY);
  if (::fsync(directory.get()) != 0 && errno != EINVAL) throw_errno("writing " + directory_);
}

FileSource::FileSource(std::string path) : path_(std::move(path)) {
  fd_ = open_file(path_, O_RDONLY);
}

std::size_t FileSource::read_some(std::span<std::byte> bytes) {
  while (true) {
    ssize_t count = ::read(fd_.get(), bytes.data(), bytes.size());
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINTR) throw_errno("reading " + path_);
  }
}

void FileSource::read(std::span<std::byte> bytes) {
  if (ahead_ && !bytes.empty()) {
    bytes.front() = *std::exchange(ahead_, std::nullopt);
    bytes = bytes.subspan(1);
  }
  while (!bytes.empty()) {
    std::size_t count = read_some(bytes);
    if (count == 0) throw Error(Code::kCorrupt, path_ + ": the file ends too early");
    bytes = bytes.subspan(count);
  }
}

bool FileSource::at_end() {
  if (ahead_) return false;
  std::byte next{};
  if (read_some({&next, 1}) == 0) return true;
  ahead_ = next;
  return false;
}

}  // namespace telefork::net
