// Locks on files, which are taken again.
#include <cerrno>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

class RoundTripOfLocks : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

struct flock range_of(short type, off_t start, off_t length) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = start;
  range.l_len = length;
  return range;
}

// What stands in the way of another process that wants to write there: F_UNLCK where nothing does.
short found_by_others(const std::string& path, off_t start) {
  const pid_t child = ::fork();
  VERIFY(child >= 0);
  if (child == 0) {
    struct flock range = range_of(F_WRLCK, start, 1);
    const int file = ::open(path.c_str(), O_RDWR);
    ::_exit(::fcntl(file, F_GETLK, &range) == 0 ? range.l_type : 100);
  }
  int status = 0;
  VERIFY(::waitpid(child, &status, 0) == child && WIFEXITED(status));
  return static_cast<short>(WEXITSTATUS(status));
}

bool can_flock(const std::string& path, int how) {
  const int file = ::open(path.c_str(), O_RDONLY);
  const bool can = ::flock(file, how | LOCK_NB) == 0;
  VERIFY(can || errno == EWOULDBLOCK);
  VERIFY(::close(file) == 0);
  return can;
}

TEST_F(RoundTripOfLocks, KeepsFlocks) {
  ScratchFile one("content");
  ScratchFile two("content");
  expect_survives([a = one.path(), b = two.path()](Self& self) {
    const int exclusive = ::open(a.c_str(), O_RDONLY);
    const int shared = ::open(b.c_str(), O_RDWR);
    VERIFY(::flock(exclusive, LOCK_EX) == 0 && ::flock(shared, LOCK_SH) == 0);
    self.travel();
    VERIFY(!can_flock(a, LOCK_SH));
    VERIFY(!can_flock(b, LOCK_EX) && can_flock(b, LOCK_SH));
    VERIFY(::flock(exclusive, LOCK_UN) == 0 && can_flock(a, LOCK_EX));
  });
}

TEST_F(RoundTripOfLocks, KeepsThoseOfTheProcess) {
  ScratchFile scratch("0123456789");
  expect_survives([path = scratch.path()](Self& self) {
    const int reader = ::open(path.c_str(), O_RDONLY);
    const int file = ::open(path.c_str(), O_RDWR);
    struct flock range = range_of(F_WRLCK, 3, 4);
    VERIFY(::fcntl(file, F_SETLK, &range) == 0);
    range = range_of(F_RDLCK, 100, 0);
    VERIFY(::fcntl(reader, F_SETLK, &range) == 0);
    self.travel();
    VERIFY(found_by_others(path, 2) == F_UNLCK && found_by_others(path, 3) == F_WRLCK);
    VERIFY(found_by_others(path, 6) == F_WRLCK && found_by_others(path, 7) == F_UNLCK);
    VERIFY(found_by_others(path, 1'000'000) == F_RDLCK);
    VERIFY(::close(reader) == 0 && found_by_others(path, 3) == F_UNLCK);
  });
}

TEST_F(RoundTripOfLocks, KeepsThoseOfADescription) {
  ScratchFile scratch("0123456789");
  expect_survives([path = scratch.path()](Self& self) {
    const int file = ::open(path.c_str(), O_RDWR);
    struct flock range = range_of(F_WRLCK, 3, 4);
    VERIFY(::fcntl(file, F_OFD_SETLK, &range) == 0);
    const int shared = ::dup(file);
    self.travel();
    VERIFY(found_by_others(path, 3) == F_WRLCK && found_by_others(path, 7) == F_UNLCK);
    VERIFY(::close(file) == 0 && found_by_others(path, 3) == F_WRLCK);
    VERIFY(::close(shared) == 0 && found_by_others(path, 3) == F_UNLCK);
  });
}

TEST_F(RoundTripOfLocks, OfADirectoryAndOfADeletedFile) {
  TripOptions options;
  options.compare = false;  // the file is another one
  expect_survives(
      [](Self& self) {
        char folder[] = "/tmp/telefork-test-XXXXXX";
        VERIFY(::mkdtemp(folder) != nullptr);
        const int directory = ::open(folder, O_RDONLY | O_DIRECTORY);
        const std::string path = std::string(folder) + "/file";
        const int file = ::open(path.c_str(), O_RDWR | O_CREAT, 0600);
        VERIFY(::unlink(path.c_str()) == 0);
        VERIFY(::flock(directory, LOCK_EX) == 0 && ::flock(file, LOCK_EX) == 0);
        self.travel();
        VERIFY(!can_flock(folder, LOCK_SH));
        VERIFY(!can_flock("/proc/self/fd/" + std::to_string(file), LOCK_SH));
        VERIFY(::rmdir(folder) == 0);
      },
      options);
}

TEST_F(RoundTripOfLocks, AreNotTakenFromAnother) {
  ScratchFile scratch("content");
  Traveller traveller([path = scratch.path()](Self& self) {
    VERIFY(::flock(::open(path.c_str(), O_RDONLY), LOCK_EX) == 0);
    self.travel();
  });
  traveller.save({});
  UniqueFd thief(::open(scratch.path().c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::flock(thief.get(), LOCK_EX | LOCK_NB), 0);
  try {
    traveller.load({});
    ADD_FAILURE() << "it was loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    EXPECT_NE(error.text().find(scratch.path() + ": another process has locked it here"),
              std::string::npos)
        << error.text();
  }
  ASSERT_EQ(::flock(thief.get(), LOCK_UN), 0);
  traveller.load({});
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

TEST_F(RoundTripOfLocks, ThatAreLeasesForReadingGoAlong) {
  ScratchFile scratch("content");
  Traveller traveller([path = scratch.path()](Self& self) {
    const int fd = ::open(path.c_str(), O_RDONLY);
    VERIFY(::fcntl(fd, F_SETLEASE, F_RDLCK) == 0);
    self.travel();
    VERIFY(::fcntl(fd, F_GETLEASE) == F_RDLCK);
  });
  traveller.save({});
  traveller.load({});
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

// Nobody else may have the file open, and telefork does.
TEST_F(RoundTripOfLocks, ThatAreLeasesForWritingStay) {
  ScratchFile scratch("content");
  Traveller traveller([path = scratch.path()](Self& self) {
    VERIFY(::fcntl(::open(path.c_str(), O_RDWR), F_SETLEASE, F_WRLCK) == 0);
    self.travel();
  });
  try {
    traveller.save({});
    ADD_FAILURE() << "it was saved";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find("a lock on the file cannot move yet"), std::string::npos)
        << error.text();
  }
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

}  // namespace
}  // namespace telefork::migrate
