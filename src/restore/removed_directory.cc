#include "restore/removed_directory.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::restore {
namespace {

constexpr char kElsewhere[] = "/tmp/telefork-removed.XXXXXX";

// The path of one that is there now.
std::string make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), S_IRWXU) == 0) return path;
  std::string elsewhere = kElsewhere;
  if (::mkdtemp(elsewhere.data()) != nullptr) return elsewhere;
  throw Error(Code::kRefused,
              fmt::format("directory {}, which was removed there: none can be made here, "
                          "nor in /tmp: {}",
                          path, std::strerror(errno)));
}

}  // namespace

UniqueFd make_removed_directory(const std::string& path, mode_t mode) {
  const std::string made = make_directory(path);
  const int fd = ::open(made.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  const int error = errno;
  ::rmdir(made.c_str());
  if (fd < 0) throw_errno("opening " + made, error);
  UniqueFd directory(fd);
  if (::fchmod(fd, mode & 07777) != 0) throw_errno("setting the mode of " + made);
  return directory;
}

std::string name_of_removed(const std::string& link) {
  constexpr std::string_view kMark = " (deleted)";
  return link.ends_with(kMark) ? link.substr(0, link.size() - kMark.size()) : link;
}

}  // namespace telefork::restore
