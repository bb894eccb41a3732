#include "restore/named_memory.h"

#include <memory>
#include <string>

#include <capnp/message.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/testing_error.h"
#include "kernel/file_identity.h"
#include "kernel/procfs_system.h"

namespace telefork::restore {
namespace {

class NamedMemoryTest : public testing::Test {
 protected:
  void TearDown() override { ::unlink(path_.c_str()); }

  image::schema::FileContent::Builder record() {
    message_ = std::make_unique<::capnp::MallocMessageBuilder>();
    auto record = message_->initRoot<image::schema::FileContent>();
    record.setKind(image::schema::FileContent::Kind::NAMED_MEMORY);
    record.setName(path_);
    record.setUid(::geteuid());
    record.setGid(::getegid());
    return record;
  }
  // Of what is there by that name.
  image::schema::FileContent::Builder record_of(const UniqueFd& file) {
    const kernel::FileIdentity found = kernel::identify_file(file.get(), kernel::read_boot_id());
    auto made = record();
    auto identity = made.initIdentity();
    identity.setBootId(found.boot_id);
    identity.setDevice(found.device);
    identity.setInode(found.inode);
    identity.setFsType(found.fs_type);
    identity.setHandle(
        kj::arrayPtr(reinterpret_cast<const kj::byte*>(found.handle.data()), found.handle.size()));
    return made;
  }
  UniqueFd open_here(int flags) const {
    return UniqueFd(::open(path_.c_str(), flags | O_CLOEXEC, 0600));
  }
  bool is_there() const { return ::access(path_.c_str(), F_OK) == 0; }

  std::string path_ = fmt::format("/dev/shm/telefork-test.{}", ::getpid());
  std::unique_ptr<::capnp::MallocMessageBuilder> message_;
};

TEST_F(NamedMemoryTest, IsGoneAgainUnlessItIsKept) {
  for (bool keep : {false, true}) {
    {
      NamedMemory named(true);
      EXPECT_TRUE(named.make(record()).is_new);
      EXPECT_TRUE(is_there());
      if (keep) named.keep();
    }
    EXPECT_EQ(is_there(), keep);
  }
}

TEST_F(NamedMemoryTest, IsThatOfAProcessThatStandsStill) {
  UniqueFd original = open_here(O_RDWR | O_CREAT);
  ASSERT_EQ(::write(original.get(), "x", 1), 1);
  {
    NamedMemory named(true);
    const NamedMemory::File same = named.make(record_of(original));
    char found = 0;
    EXPECT_FALSE(same.is_new);
    EXPECT_EQ(::pread(same.file.get(), &found, 1, 0), 1);
  }
  EXPECT_TRUE(is_there());
}

TEST_F(NamedMemoryTest, IsNotAnothersOfThatName) {
  UniqueFd other = open_here(O_RDWR | O_CREAT);
  NamedMemory named(true);
  EXPECT_EQ(error_of([&] { named.make(record()); }).code(), Code::kRefused);
}

TEST_F(NamedMemoryTest, OfASavedProcessIsTakenAgainWhenNobodyHasIt) {
  UniqueFd other = open_here(O_RDWR | O_CREAT);
  ASSERT_EQ(::write(other.get(), "x", 1), 1);
  NamedMemory named(false);
  auto left_behind = record_of(other);
  EXPECT_EQ(error_of([&] { named.make(left_behind); }).code(), Code::kRefused);
  other.reset();
  const NamedMemory::File again = named.make(left_behind);
  struct stat stat;
  EXPECT_TRUE(again.is_new);
  EXPECT_TRUE(::fstat(again.file.get(), &stat) == 0 && stat.st_size == 0);
}

}  // namespace
}  // namespace telefork::restore
