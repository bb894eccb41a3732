#include "kernel/file_identity.h"

#include <cstdlib>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "kernel/procfs_file.h"

namespace telefork::kernel {
namespace {

constexpr std::uint64_t kNfs = 0x6969;

class FileIdentityTest : public testing::Test {
 protected:
  FileIdentityTest() : file_(::mkostemp(name_, O_CLOEXEC)) {}
  ~FileIdentityTest() override { ::unlink(name_); }

  FileIdentity identity() const { return identify_file(file_.get(), "boot"); }
  FileIdentity on_nfs(const std::string& boot) const {
    FileIdentity result = identify_file(file_.get(), boot);
    result.fs_type = kNfs;
    result.fs_id = 42;
    result.handle = {std::byte{1}, std::byte{2}};
    return result;
  }

  char name_[40] = "/tmp/telefork-identity-XXXXXX";
  UniqueFd file_;
};

TEST_F(FileIdentityTest, OfOneFileOpenedTwiceIsTheSame) {
  UniqueFd again = open_file(self_fd_path(file_.get()), O_RDONLY);
  EXPECT_TRUE(same_file(identity(), identify_file(again.get(), "boot")));
  UniqueFd path_only = open_file(name_, O_PATH);
  EXPECT_TRUE(same_file(identity(), identify_file(path_only.get(), "boot")));
  EXPECT_EQ(identify_file(path_only.get(), "boot").handle, identity().handle);
}

TEST_F(FileIdentityTest, OfALocalFilesystemOfAnotherBootIsNot) {
  EXPECT_FALSE(same_file(identity(), identify_file(file_.get(), "other boot")));
}

TEST_F(FileIdentityTest, IsNotKnownWithoutABootId) {
  EXPECT_FALSE(same_file(identify_file(file_.get(), ""), identify_file(file_.get(), "")));
}

TEST_F(FileIdentityTest, OfAFileWrittenMeanwhileIsNot) {
  FileIdentity before = identity();
  FileIdentity after = before;
  after.ctime_ns += 1;
  EXPECT_FALSE(same_file(before, after));
}

TEST_F(FileIdentityTest, OfTwoFilesIsNot) {
  FileIdentity other = identity();
  other.inode += 1;
  EXPECT_FALSE(same_file(identity(), other));
}

TEST_F(FileIdentityTest, OfANetworkFilesystemIsTheSameOnTwoMachines) {
  EXPECT_TRUE(same_file(on_nfs("a"), on_nfs("b")));
}

TEST_F(FileIdentityTest, OfANetworkFilesystemNeedsFsidAndHandle) {
  FileIdentity no_fsid = on_nfs("b");
  no_fsid.fs_id = 0;
  EXPECT_FALSE(same_file(no_fsid, no_fsid) && same_file(on_nfs("a"), no_fsid));
  FileIdentity no_handle_a = on_nfs("a");
  FileIdentity no_handle_b = on_nfs("b");
  no_handle_a.handle.clear();
  no_handle_b.handle.clear();
  EXPECT_FALSE(same_file(no_handle_a, no_handle_b));
  FileIdentity ext4 = on_nfs("b");
  ext4.fs_type = 0xef53;
  EXPECT_FALSE(same_file(on_nfs("a"), ext4));
}

}  // namespace
}  // namespace telefork::kernel
