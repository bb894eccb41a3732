#include "session/programs.h"

#include <climits>

#include <unistd.h>

#include "base/error.h"

namespace telefork::session {
namespace {

std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

std::string own_path() {
  char path[PATH_MAX];
  ssize_t size = ::readlink("/proc/self/exe", path, sizeof(path));
  if (size < 0) {
    throw_errno("finding out where this program lies by /proc/self/exe (is /proc mounted?)",
                Code::kUnsupported);
  }
  return {path, static_cast<std::size_t>(size)};
}

std::string must_exist(std::string path) {
  if (::access(path.c_str(), X_OK) != 0) {
    throw_errno("looking for " + path + ", which belongs to this installation of telefork",
                Code::kUnsupported);
  }
  return path;
}

}  // namespace

Programs find_programs() {
  std::string folder = folder_of(own_path());
  std::string libexec = folder + "/../libexec/telefork";
  std::string bin = folder;
  if (folder.ends_with("/libexec/telefork")) {
    libexec = folder;
    bin = folder + "/../../bin";
  }
  return {must_exist(bin + "/telepad"),
          must_exist(libexec + "/telefork-agent"),
          must_exist(libexec + "/telefork-keeper"),
          must_exist(libexec + "/telefork-blank"),
          must_exist(libexec + "/telefork-deputy"),
          must_exist(libexec + "/telefork-init"),
          must_exist(libexec + "/telefork-greeter")};
}

}  // namespace telefork::session
