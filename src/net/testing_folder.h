// For tests: a folder that goes with the test.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/testing_error.h"

namespace telefork::net {

class InTestFolder : public testing::Test {
 protected:
  InTestFolder() {
    std::string pattern = testing::TempDir() + "telefork-net.XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~InTestFolder() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  const std::string& folder() const { return folder_; }
  unsigned mode_of(const std::string& name) const {
    struct stat status {};
    EXPECT_EQ(::stat(path(name).c_str(), &status), 0) << name;
    return status.st_mode & 07777;
  }
  void write(const std::string& name, const std::string& content, unsigned mode = 0600) const {
    std::ofstream(path(name)) << content;
    ::chmod(path(name).c_str(), mode);
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  std::string folder_;
};

}  // namespace telefork::net
