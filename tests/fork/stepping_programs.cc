#include "stepping_programs.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace fork_test {

namespace fs = std::filesystem;

// Beside the others, since links do not reach another file system.
SteppingPrograms::SteppingPrograms() {
  const fs::path build = fs::path(TELEFORK_TELEPAD).parent_path().parent_path();
  std::string pattern = build / "fault-programs.XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), pattern);
  }
  folder_ = pattern;
  const fs::path libexec = fs::path(folder_) / "libexec/telefork";
  fs::create_directories(libexec);
  fs::create_directories(fs::path(folder_) / "bin");
  fs::create_hard_link(TELEFORK_TELEPAD, telepad());
  fs::create_hard_link(build / "bin/telefork", fs::path(folder_) / "bin/telefork");
  for (const auto& entry : fs::directory_iterator(build / "libexec/telefork")) {
    const std::string name = entry.path().filename();
    if (name != "telefork-agent" && name != "telefork-keeper") {
      fs::create_hard_link(entry.path(), libexec / name);
      continue;
    }
    fs::create_hard_link(entry.path(), libexec / (name + ".real"));
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
