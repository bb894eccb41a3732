#include "capture/origins.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"

namespace telefork::capture {
namespace {

using image::schema::FileDescription;

// This process is the guest, of which only these descriptors are looked at, each a description.
class OriginsTest : public testing::Test {
 protected:
  int open(int flags, const char* path = "/etc/passwd") {
    files_.push_back(open_file(path, flags));
    return files_.back().get();
  }
  Origins make() const {
    ::capnp::MallocMessageBuilder message;
    auto files = message.initRoot<image::schema::Files>();
    auto count = static_cast<unsigned>(files_.size());
    auto descriptions = files.initDescriptions(count);
    auto descriptors = files.initDescriptors(count);
    for (unsigned i = 0; i < count; ++i) {
      descriptions[i].setKind(FileDescription::Kind::REGULAR);
      descriptors[i].setFd(static_cast<std::uint32_t>(files_[i].get()));
      descriptors[i].setDescription(i);
    }
    return Origins(::getpid(), files.asReader());
  }
  // -1: none of them.
  static int find(const Origins& origins, int fd) {
    std::optional<Origin> origin = origins.find(fd, kernel::read_fdinfo(::getpid(), fd));
    return origin ? static_cast<int>(origin->description) : -1;
  }

  std::vector<UniqueFd> files_;
};

TEST_F(OriginsTest, KnowADescriptionByWhateverNumber) {
  int one = open(O_RDONLY);
  int other = open(O_RDONLY);
  Origins origins = make();
  UniqueFd copy(::dup(one));
  EXPECT_EQ(::dup2(other, one), one);
  EXPECT_EQ(find(origins, one), 1);
  EXPECT_EQ(find(origins, other), 1);
  EXPECT_EQ(find(origins, copy.get()), 0);
}

TEST_F(OriginsTest, DoNotTakeAFileForOneThatWasOpenedAgain) {
  for (int flags : {O_RDONLY, O_PATH}) {
    files_.clear();
    int fd = open(flags);
    Origins origins = make();
    UniqueFd again = open_file("/etc/passwd", flags);
    EXPECT_EQ(::dup2(again.get(), fd), fd);
    EXPECT_EQ(find(origins, fd), -1);
    EXPECT_EQ(find(origins, again.get()), -1);
  }
}

// Those beyond the marks are held.
TEST_F(OriginsTest, KnowManyOfOneFileApart) {
  constexpr int kMany = 150;
  for (int i = 0; i < kMany; ++i) open(i % 3 == 2 ? O_PATH : O_RDONLY);
  open(O_RDONLY, "/etc/group");
  Origins origins = make();
  for (int i = 0; i <= kMany; ++i) EXPECT_EQ(find(origins, files_[i].get()), i);
}

TEST_F(OriginsTest, DoNotKeepOpenWhatIsMarked) {
  auto [read_end, write_end] = make_pipe(O_NONBLOCK);
  files_.push_back(std::move(write_end));
  Origins origins = make();
  files_.clear();
  char byte;
  EXPECT_EQ(::read(read_end.get(), &byte, 1), 0);
}

}  // namespace
}  // namespace telefork::capture
