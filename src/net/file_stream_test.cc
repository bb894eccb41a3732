#include "net/file_stream.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/error.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;

class FileStream : public ::testing::Test {
 protected:
  FileStream() {
    char pattern[] = "/tmp/telefork-file-XXXXXX";
    directory_ = ::mkdtemp(pattern);
    path_ = directory_ + "/image";
  }
  ~FileStream() override { std::filesystem::remove_all(directory_); }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(directory_),
                                                  std::filesystem::directory_iterator()));
  }

  std::string directory_;
  std::string path_;
  std::vector<std::byte> bytes_ = std::vector<std::byte>(100'000, std::byte{'x'});
};

TEST_F(FileStream, HasItsNameOnlyWhenWhole) {
  FileSink sink(path_);
  sink.write(bytes_);
  EXPECT_FALSE(std::filesystem::exists(path_));
  sink.commit();
  EXPECT_EQ(std::filesystem::file_size(path_), bytes_.size());
  EXPECT_EQ(entries(), 1U);
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST_F(FileStream, LeavesNothingBehindWithoutCommit) {
  {
    FileSink sink(path_);
    sink.write(bytes_);
  }
  EXPECT_EQ(entries(), 0U);
}

TEST_F(FileStream, ReplacesAFileAtOnceOrNotAtAll) {
  std::ofstream(path_) << "old";
  {
    FileSink sink(path_);
    sink.write(bytes_);
  }
  EXPECT_EQ(std::filesystem::file_size(path_), 3U);
  FileSink sink(path_);
  sink.write(bytes_);
  sink.commit();
  EXPECT_EQ(std::filesystem::file_size(path_), bytes_.size());
}

TEST_F(FileStream, WritesToWhatALinkLeadsTo) {
  std::filesystem::create_directory(directory_ + "/there");
  std::filesystem::create_symlink("there/second", path_);
  std::filesystem::create_symlink("image", directory_ + "/there/second");
  // The second leads to there/image: there is none at first.
  for (std::size_t size : {std::size_t{10}, bytes_.size()}) {
    FileSink sink(path_);
    sink.write(std::span(bytes_).first(size));
    sink.commit();
    EXPECT_TRUE(std::filesystem::is_symlink(path_));
    EXPECT_TRUE(std::filesystem::is_symlink(directory_ + "/there/second"));
    EXPECT_EQ(std::filesystem::file_size(directory_ + "/there/image"), size);
  }
  EXPECT_EQ(entries(), 2U);
}

TEST_F(FileStream, NamesALinkThatLeadsNowhere) {
  std::filesystem::create_symlink("image", path_);
  try {
    FileSink sink(path_);
    ADD_FAILURE() << "it was followed";
  } catch (const Error& error) {
    EXPECT_EQ(error.error(), ELOOP);
    EXPECT_THAT(error.text(), HasSubstr(path_));
  }
}

TEST_F(FileStream, NamesThePathOfAFullDisk) {
  // /dev/full is no regular file and is written in place; every write is ENOSPC.
  FileSink sink("/dev/full");
  try {
    sink.write(bytes_);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResources);
    EXPECT_EQ(error.error(), ENOSPC);
    EXPECT_THAT(error.text(), HasSubstr("/dev/full"));
  }
}

TEST_F(FileStream, NamesTheDirectoryThatIsMissing) {
  try {
    FileSink sink(directory_ + "/none/image");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.text(), HasSubstr("/none/image"));
  }
}

TEST_F(FileStream, NamesTheFolderThatTakesNoFile) {
  try {
    FileSink sink("/proc/version");
    FAIL() << "it was opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUsage);
    EXPECT_EQ(error.text(), "/proc/version: no file can be made in /proc");
  }
}

TEST_F(FileStream, ReadsBackAndKnowsTheEnd) {
  {
    FileSink sink(path_);
    sink.write(bytes_);
    sink.commit();
  }
  FileSource source(path_);
  std::vector<std::byte> read(bytes_.size());
  EXPECT_FALSE(source.at_end());
  source.read(read);
  EXPECT_EQ(read, bytes_);
  EXPECT_TRUE(source.at_end());
}

TEST_F(FileStream, CallsAFileThatEndsTooEarlyCorrupt) {
  std::ofstream(path_) << "short";
  FileSource source(path_);
  std::vector<std::byte> read(6);
  EXPECT_FALSE(source.at_end());
  try {
    source.read(read);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt);
    EXPECT_THAT(error.text(), HasSubstr(path_));
  }
}

}  // namespace
}  // namespace telefork::net
