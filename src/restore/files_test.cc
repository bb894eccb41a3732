#include "restore/files.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>

#include <capnp/message.h>
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "image/hash.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;
using image::schema::FileRef;
using Verdict = FileVerdict::Kind;

// A folder with a few files, which is gone in the end.
class OpenFilesOf : public testing::Test {
 protected:
  OpenFilesOf() {
    std::string path = testing::TempDir() + "telefork-files.XXXXXX";
    folder_ = ::mkdtemp(path.data());
    for (const char* name : {"a", "b", "c"}) std::ofstream(folder_ + "/" + name);
  }
  ~OpenFilesOf() override { std::filesystem::remove_all(folder_); }

  // As a survey of that file here would have it.
  FileRef::Builder refer_to(const std::string& path) {
    UniqueFd file = open_file(path, O_PATH);
    struct stat stat {};
    EXPECT_EQ(::fstat(file.get(), &stat), 0);
    kernel::FileIdentity found = kernel::identify_file(file.get());
    auto description = message_->initRoot<FileDescription>();
    auto ref = description.initFile();
    ref.setPath(path);
    ref.setMode(stat.st_mode);
    ref.setDevice(stat.st_rdev);
    auto identity = ref.initIdentity();
    identity.setBootId(found.boot_id);
    identity.setDevice(found.device);
    identity.setInode(found.inode);
    identity.setFsType(found.fs_type);
    identity.setHandle(
        {reinterpret_cast<const kj::byte*>(found.handle.data()), found.handle.size()});
    return ref;
  }
  UniqueFd open_as(FileDescription::Kind kind, std::uint64_t position) {
    auto description = message_->getRoot<FileDescription>();
    description.setKind(kind);
    description.setPosition(position);
    return files_.open_description(description, contents_,
                                   [this](const std::string& text) { warnings_.push_back(text); });
  }

  std::string folder_;
  // Its destructor may throw, a test's may not.
  std::unique_ptr<::capnp::MallocMessageBuilder> message_ =
      std::make_unique<::capnp::MallocMessageBuilder>();
  OpenFiles files_{true};
  ContentStore contents_;
  std::vector<std::string> warnings_;
};

TEST_F(OpenFilesOf, TheSameBootAreTheSameDirectoryOnly) {
  FileRef::Builder ref = refer_to(folder_);
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kSame);
  ref.setPath("/tmp");
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kDifferent);
  EXPECT_EQ(files_.examine(ref, R_OK).why, "/tmp there is another directory");
  try {
    open_as(FileDescription::Kind::DIRECTORY, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.text(), "file /tmp: it is another directory here");
  }
}

TEST_F(OpenFilesOf, AnotherBootAreTheDirectoryOfThatPath) {
  FileRef::Builder ref = refer_to(folder_);
  ref.setPath("/tmp");
  ref.getIdentity().setBootId("another boot");
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kSame);
}

TEST_F(OpenFilesOf, AWorkingDirectoryAreTheOneOfThatPath) {
  FileRef::Builder ref = refer_to(folder_);
  ref.setByPath(true);
  ref.setPath("/tmp");
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kSame);
  ref.setPath(folder_ + "/none");
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kMissing);
  ref.setPath(folder_ + "/a");
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kDifferent);
}

TEST_F(OpenFilesOf, ADirectoryKeepThePlaceInIt) {
  refer_to(folder_);
  UniqueFd before = open_file(folder_, O_RDONLY | O_DIRECTORY);
  // Behind its first entry, whatever number that has here.
  DIR* folder = ::fdopendir(before.duplicate().release());
  ASSERT_NE(::readdir(folder), nullptr);
  auto place = static_cast<std::uint64_t>(::telldir(folder));
  ::closedir(folder);
  UniqueFd after = open_as(FileDescription::Kind::DIRECTORY, place);
  EXPECT_EQ(static_cast<std::uint64_t>(::lseek(after.get(), 0, SEEK_CUR)), place);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(OpenFilesOf, ADirectoryElsewhereTellThatItBeginsAnew) {
  refer_to(folder_).getIdentity().setBootId("another boot");
  EXPECT_EQ(::lseek(open_as(FileDescription::Kind::DIRECTORY, 0).get(), 0, SEEK_CUR), 0);
  EXPECT_TRUE(warnings_.empty());
  EXPECT_EQ(::lseek(open_as(FileDescription::Kind::DIRECTORY, 7).get(), 0, SEEK_CUR), 0);
  EXPECT_EQ(warnings_, std::vector<std::string>{"directory " + folder_ +
                                                ", which it has read in part, begins anew"});
}

TEST_F(OpenFilesOf, SomebodyElseAreTakenWhereTheyMayBeOpened) {
  const std::string path = folder_ + "/a";
  FileRef::Builder ref = refer_to(path);
  ASSERT_EQ(::chmod(path.c_str(), 0400), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    // Root is to be asked as everybody is.
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    EXPECT_EQ(::syscall(SYS_capset, &header, none), 0);
    EXPECT_EQ(files_.examine(ref, 0).kind, Verdict::kSame);
    EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kSame);
    FileVerdict verdict = files_.examine(ref, R_OK | W_OK);
    EXPECT_EQ(verdict.kind, Verdict::kDifferent);
    EXPECT_TRUE(verdict.denied);
    EXPECT_EQ(verdict.why, path + " there: Permission denied");
    ::_exit(HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST_F(OpenFilesOf, ADeviceAreTheSameDeviceOnly) {
  FileRef::Builder ref = refer_to("/dev/null");
  ref.getIdentity().setBootId("another boot");
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kSame);
  ref.setDevice(makedev(1, 5));
  EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kDifferent);
  EXPECT_EQ(files_.examine(ref, R_OK).why, "/dev/null there is another device");
  EXPECT_THROW(open_as(FileDescription::Kind::DEVICE, 0), Error);
}

// What they say is their machine's, of which no hash and no size tells.
TEST_F(OpenFilesOf, AKernelAreToldByTheirPaths) {
  const auto of_nothing = image::Hash128().value();
  for (const char* path : {"/proc/meminfo", "/sys/kernel/mm/transparent_hugepage/enabled"}) {
    if (::access(path, R_OK) != 0) continue;
    FileRef::Builder ref = refer_to(path);
    ref.getIdentity().setBootId("another boot");
    ref.setSize(65536);
    FileVerdict verdict = files_.examine(ref, R_OK);
    EXPECT_EQ(verdict.kind, Verdict::kHashed) << verdict.why;
    EXPECT_EQ(verdict.hash, std::vector<std::byte>(of_nothing.begin(), of_nothing.end()));
    ref.setHash({reinterpret_cast<const kj::byte*>(of_nothing.data()), of_nothing.size()});
    UniqueFd file = open_as(FileDescription::Kind::REGULAR, 0);
    char byte = 0;
    EXPECT_EQ(::read(file.get(), &byte, 1), 1);
    ref.setPath(folder_ + "/a");
    EXPECT_EQ(files_.examine(ref, R_OK).kind, Verdict::kDifferent);
  }
}

class SavedFile : public OpenFilesOf {
 protected:
  // As it is now.
  void save() {
    kernel::FileIdentity found = kernel::identify_file(open_file(path_, O_PATH).get());
    FileRef::Builder ref = refer_to(path_);
    ref.setSize(found.size);
    ref.getIdentity().setMtime(found.mtime_ns);
    ref.getIdentity().setCtime(found.ctime_ns);
    ref.getIdentity().setFsId(found.fs_id);
  }
  void append(const std::string& text) const { std::ofstream(path_, std::ios::app) << text; }
  std::string load(unsigned flags, bool live = false) {
    OpenFiles files(live);
    auto description = message_->getRoot<FileDescription>();
    description.setKind(FileDescription::Kind::REGULAR);
    description.setFlags(flags);
    try {
      files.open_description(description, contents_, {});
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kRefused);
      return error.text();
    }
  }
  const std::string path_ = folder_ + "/a";
};

TEST_F(SavedFile, IsOpenedForWritingWhileItIsAsItWas) {
  append("text");
  save();
  ASSERT_EQ(::chmod(path_.c_str(), 0640), 0);  // its ctime
  for (unsigned flags : {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_APPEND}) {
    EXPECT_EQ(load(flags), "") << flags;
  }
}

TEST_F(SavedFile, IsRefusedWhereItWasChangedSince) {
  append("text");
  save();
  append("more");
  for (unsigned flags : {O_WRONLY, O_RDWR}) {
    EXPECT_TRUE(load(flags).starts_with("file " + path_ +
                                        ": it was open for writing, and has been changed since it "
                                        "was saved (4 bytes, modified at @"))
        << load(flags);
  }
  EXPECT_EQ(load(O_RDWR, true), "");  // as of a child of fork(2)
}

TEST_F(SavedFile, MayHaveGrownWhereItIsAppendedTo) {
  append("text");
  save();
  append("more");
  EXPECT_EQ(load(O_WRONLY | O_APPEND), "");
  ASSERT_EQ(::truncate(path_.c_str(), 3), 0);
  EXPECT_NE(load(O_WRONLY | O_APPEND), "");
}

TEST_F(SavedFile, IsTakenAgainWithItsSizeAndTime) {
  append("text");
  save();
  struct stat then {};
  ASSERT_EQ(::stat(path_.c_str(), &then), 0);
  append("more");
  ASSERT_EQ(::truncate(path_.c_str(), 4), 0);
  EXPECT_NE(load(O_RDWR), "");
  const timespec times[2] = {then.st_atim, then.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  EXPECT_EQ(load(O_RDWR), "");
  EXPECT_EQ(load(O_RDONLY), "");
}

TEST_F(OpenFilesOf, ThingsLeftAtHomeLeadNowhere) {
  refer_to("/");
  UniqueFd left = open_as(FileDescription::Kind::LEFT_HOME, 0);
  EXPECT_EQ(::openat(left.get(), "etc", O_RDONLY), -1);
  EXPECT_EQ(errno, ENOTDIR);
  EXPECT_EQ(::fchdir(left.get()), -1);
}

}  // namespace
}  // namespace telefork::restore
