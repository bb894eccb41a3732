#include "stepping_programs.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

#include <unistd.h>

namespace fork_test {

namespace fs = std::filesystem;

namespace {

// A plain user may link nothing of another's, and write nothing beside it (proc(5),
// protected_hardlinks).
void put(const fs::path& from, const fs::path& to) {
  if (geteuid() == 0) {
    fs::create_hard_link(from, to);
  } else {
    fs::copy_file(from, to);
  }
}

}  // namespace

// Beside the others, since links do not reach another file system.
SteppingPrograms::SteppingPrograms() {
  const fs::path build = fs::path(TELEFORK_TELEPAD).parent_path().parent_path();
  const fs::path beside = geteuid() == 0 ? build : fs::temp_directory_path();
  std::string pattern = beside / "fault-programs.XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), pattern);
  }
  folder_ = pattern;
  const fs::path libexec = fs::path(folder_) / "libexec/telefork";
  fs::create_directories(libexec);
  fs::create_directories(fs::path(folder_) / "bin");
  put(TELEFORK_TELEPAD, telepad());
  put(build / "bin/telefork", fs::path(folder_) / "bin/telefork");
  for (const auto& entry : fs::directory_iterator(build / "libexec/telefork")) {
    const std::string name = entry.path().filename();
    if (name != "telefork-agent" && name != "telefork-keeper") {
      put(entry.path(), libexec / name);
      continue;
    }
    put(entry.path(), libexec / (name + ".real"));
    std::ofstream script(libexec / name);
    script << "#!/bin/sh\nexec \"$0.real\" $" << (name == "telefork-agent" ? kAgent : kKeeper)
           << " \"$@\"\n";
    script.close();
    fs::permissions(libexec / name, fs::perms::owner_all);
  }
}

SteppingPrograms::~SteppingPrograms() {
  std::error_code gone;
  fs::remove_all(folder_, gone);
}

}  // namespace fork_test
