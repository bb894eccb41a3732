// A file descriptor that is closed when its owner ends. Move-only; may be empty (-1).
#pragma once

#include <string>
#include <utility>

namespace telefork {

class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes ownership; -1 makes it empty.
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  // Gives the descriptor away; the caller closes it.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);
  // A second descriptor of the same description, CLOEXEC.
  UniqueFd duplicate() const;

 private:
  int fd_ = -1;
};

// open(2), always CLOEXEC; the Error names the path.
UniqueFd open_file(const std::string& path, int flags, unsigned mode = 0);
UniqueFd open_file_at(const UniqueFd& directory, const std::string& path, int flags,
                      unsigned mode = 0);
// pipe2(2), CLOEXEC: first the end to read, then the end to write.
std::pair<UniqueFd, UniqueFd> make_pipe(int flags = 0);
// socketpair(2) of connected AF_UNIX sockets of the given type, CLOEXEC.
std::pair<UniqueFd, UniqueFd> make_socket_pair(int type);

}  // namespace telefork
