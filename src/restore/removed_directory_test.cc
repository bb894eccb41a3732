#include "restore/removed_directory.h"

#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/procfs_file.h"

namespace telefork::restore {
namespace {

class RemovedDirectory : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(mkdtemp(folder_.data()), nullptr); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string link_of(const UniqueFd& directory) {
    return std::filesystem::read_symlink(kernel::self_fd_path(directory.get()));
  }

  std::string folder_ = std::filesystem::temp_directory_path() / "removed.XXXXXX";
};

TEST_F(RemovedDirectory, HasTheNameAndModeThatItHadAndIsGone) {
  const std::string path = folder_ + "/gone";
  const UniqueFd directory = make_removed_directory(path, S_IFDIR | 01750);
  struct stat stat {};
  ASSERT_EQ(::fstat(directory.get(), &stat), 0);
  EXPECT_EQ(stat.st_mode, unsigned{S_IFDIR | 01750});
  EXPECT_EQ(link_of(directory), path + " (deleted)");
  EXPECT_EQ(name_of_removed(link_of(directory)), path);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(RemovedDirectory, IsElsewhereWhereItsNameIsTakenOrHasNoPlace) {
  for (const std::string& path : {folder_, folder_ + "/none/gone"}) {
    const UniqueFd directory = make_removed_directory(path, S_IFDIR | 0700);
    EXPECT_NE(name_of_removed(link_of(directory)), path);
    EXPECT_FALSE(std::filesystem::exists(name_of_removed(link_of(directory))));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

}  // namespace
}  // namespace telefork::restore
