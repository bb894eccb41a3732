// Files that only the process has: memory files (memfd_create), open and mapped, and files without
// a name. The file itself moves, so what names it or maps it is one object again.
#include <cstring>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "migrate/round_trip.h"
#include "migrate/testing_memory.h"

namespace telefork::migrate {
namespace {

class RoundTripOfMemoryFiles : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

void put(int fd, off_t at, const char* text) {
  VERIFY(::pwrite(fd, text, std::strlen(text), at) == static_cast<ssize_t>(std::strlen(text)));
}

void expect_at(int fd, off_t at, const std::string& wanted) {
  std::string got(wanted.size(), 0);
  VERIFY(::pread(fd, got.data(), got.size(), at) == static_cast<ssize_t>(wanted.size()));
  VERIFY(got == wanted);
}

off_t size_of(int fd) {
  struct stat stat {};
  VERIFY(::fstat(fd, &stat) == 0);
  return stat.st_size;
}

TEST_F(RoundTripOfMemoryFiles, KeepsNameContentAndPosition) {
  expect_survives([](Self& self) {
    const int file = ::memfd_create("a name with\nodd letters", MFD_CLOEXEC);
    VERIFY(::write(file, "content", 7) == 7 && ::lseek(file, 3, SEEK_SET) == 3);
    VERIFY(::fchmod(file, 0640) == 0);
    const int shared = ::dup(file);
    self.travel();
    char rest[8] = {};
    VERIFY(::read(shared, rest, 8) == 4 && std::strcmp(rest, "tent") == 0);
    VERIFY(::lseek(file, 0, SEEK_CUR) == 7 && size_of(file) == 7);
    VERIFY(::fcntl(file, F_GET_SEALS) == F_SEAL_SEAL);
    struct stat stat {};
    VERIFY(::fstat(file, &stat) == 0 && (stat.st_mode & 07777) == 0640);
  });
}

TEST_F(RoundTripOfMemoryFiles, KeepsHoles) {
  TripReport report = expect_survives([](Self& self) {
    constexpr off_t kFar = off_t{1} << 36;
    const int file = ::memfd_create("sparse", 0);
    put(file, 5, "near");
    put(file, kFar, "far");
    VERIFY(::ftruncate(file, 2 * kFar) == 0);
    self.travel();
    expect_at(file, 5, "near");
    expect_at(file, kFar, "far");
    VERIFY(size_of(file) == 2 * kFar);
    struct stat stat {};
    VERIFY(::fstat(file, &stat) == 0 && stat.st_blocks * 512 < 64 * 4096);
  });
  EXPECT_LT(report.image_bytes, 64u << 20);
}

TEST_F(RoundTripOfMemoryFiles, KeepsSeals) {
  expect_survives([](Self& self) {
    const int open = ::memfd_create("open", MFD_ALLOW_SEALING);
    const int sealed = ::memfd_create("sealed", MFD_ALLOW_SEALING);
    put(sealed, 0, "for ever");
    constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    VERIFY(::fcntl(sealed, F_ADD_SEALS, kSeals) == 0);
    self.travel();
    VERIFY(::fcntl(open, F_GET_SEALS) == 0 && ::fcntl(open, F_ADD_SEALS, F_SEAL_GROW) == 0);
    VERIFY(::fcntl(sealed, F_GET_SEALS) == kSeals);
    VERIFY(::pwrite(sealed, "x", 1, 0) < 0 && errno == EPERM);
    expect_at(sealed, 0, "for ever");
  });
}

TEST_F(RoundTripOfMemoryFiles, AreOneWithTheirMappings) {
  expect_survives([](Self& self) {
    const int file = ::memfd_create("mapped", 0);
    VERIFY(::ftruncate(file, 3 * kPageSize) == 0);
    char* first = map(2 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    char* second = map(3 * kPageSize, PROT_READ, MAP_SHARED, file);
    char* own = map(kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
    std::strcpy(first + kPageSize, "through the mapping");
    std::strcpy(own, "private");
    put(file, 2 * kPageSize, "beyond it");
    self.travel();
    VERIFY(std::strcmp(second + kPageSize, "through the mapping") == 0);
    VERIFY(std::strcmp(second + 2 * kPageSize, "beyond it") == 0);
    VERIFY(std::strcmp(own, "private") == 0 && first[0] == 0);
    std::strcpy(first, "again");
    expect_at(file, 0, "again");
    put(file, kPageSize, "by the file");
    VERIFY(std::memcmp(second + kPageSize, "by the file", 11) == 0);
  });
}

TEST_F(RoundTripOfMemoryFiles, AreOneAmongTheirDescriptions) {
  expect_survives([](Self& self) {
    const int file = ::memfd_create("twice", 0);
    const std::string name = "/proc/self/fd/" + std::to_string(file);
    const int reader = ::open(name.c_str(), O_RDONLY);
    const int appender = ::open(name.c_str(), O_WRONLY | O_APPEND);
    put(file, 0, "one");
    self.travel();
    VERIFY(::write(appender, " two", 4) == 4);
    expect_at(reader, 0, "one two");
    VERIFY(::write(reader, "x", 1) < 0 && errno == EBADF);
  });
}

TEST_F(RoundTripOfMemoryFiles, LiveInTheirMappingsAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  expect_survives([](Self& self) {
    const int file = ::memfd_create("closed", 0);
    VERIFY(::ftruncate(file, 2 * kPageSize) == 0);
    char* first = map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    char* second = map(2 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    VERIFY(::close(file) == 0);
    std::strcpy(first, "shared");
    self.travel();
    VERIFY(std::strcmp(second, "shared") == 0);
    std::strcpy(second, "still");
    VERIFY(std::strcmp(first, "still") == 0);
  });
}

// Its memory file is another object than the one that it was, and so is that of its child.
TEST_F(RoundTripOfMemoryFiles, StayWithWhoElseHasThem) {
  const Victim victim = [](Self& self) {
    const int file = ::memfd_create("of two", 0);
    VERIFY(::ftruncate(file, kPageSize) == 0);
    char* memory = map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    int ends[2];
    VERIFY(::pipe2(ends, O_CLOEXEC) == 0);
    const pid_t child = ::fork();
    VERIFY(child >= 0);
    if (child == 0) {
      char byte = 0;
      [[maybe_unused]] const ssize_t n = ::close(ends[1]) + ::read(ends[0], &byte, 1);
      ::_exit(0);
    }
    VERIFY(::close(ends[0]) == 0);
    memory[0] = 'x';
    self.travel();
    VERIFY(::close(ends[1]) == 0);
  };
  Traveller traveller(victim);
  try {
    traveller.save({});
    ADD_FAILURE() << "it was saved";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find("/memfd:of two (deleted): process "), std::string::npos)
        << error.text();
    EXPECT_NE(error.text().find("memory that others may share stays at home"), std::string::npos)
        << error.text();
  }
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

// What differs of the description: how it was opened first.
TripOptions without_comparison() {
  TripOptions options;
  options.compare = false;
  return options;
}

TEST_F(RoundTripOfMemoryFiles, MoveAsFilesWithoutAName) {
  expect_survives(
      [](Self& self) {
        ScratchFile place;
        const int deleted = ::open(place.path().c_str(), O_RDWR | O_CLOEXEC);
        VERIFY(::unlink(place.path().c_str()) == 0);
        VERIFY(::write(deleted, "content", 7) == 7 && ::lseek(deleted, 2, SEEK_SET) == 2);
        const int nameless = ::open("/tmp", O_TMPFILE | O_RDWR | O_APPEND, 0400);
        VERIFY(nameless >= 0 && ::write(nameless, "log", 3) == 3);
        self.travel();
        VERIFY(::lseek(deleted, 0, SEEK_CUR) == 2);
        expect_at(deleted, 0, "content");
        VERIFY(::write(nameless, " more", 5) == 5);
        expect_at(nameless, 0, "log more");
        struct stat stat {};
        struct stat folder {};
        VERIFY(::fstat(nameless, &stat) == 0 && ::stat("/tmp", &folder) == 0);
        VERIFY(stat.st_nlink == 0 && (stat.st_mode & 07777) == 0400);
        VERIFY(stat.st_dev == folder.st_dev);
        // What has no name may be given one later.
        const std::string own = "/proc/self/fd/" + std::to_string(nameless);
        VERIFY(::linkat(AT_FDCWD, own.c_str(), AT_FDCWD, place.path().c_str(), AT_SYMLINK_FOLLOW) ==
               0);
      },
      without_comparison());
}

TEST_F(RoundTripOfMemoryFiles, MoveWithTheMappingsOfADeletedFile) {
  expect_survives(
      [](Self& self) {
        ScratchFile place("0123456789");
        const int file = ::open(place.path().c_str(), O_RDWR);
        const int reader = ::open(place.path().c_str(), O_RDONLY);
        VERIFY(::ftruncate(file, kPageSize) == 0 && ::unlink(place.path().c_str()) == 0);
        char* memory = map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file);
        self.travel();
        VERIFY(std::memcmp(memory, "0123456789", 10) == 0);
        memory[0] = 'x';
        expect_at(file, 0, "x123");
        expect_at(reader, 0, "x123");
      },
      without_comparison());
}

// Whose folder is not there, or cannot have such files.
TEST_F(RoundTripOfMemoryFiles, MoveIntoMemoryWhereTheirFolderIsGone) {
  expect_survives(
      [](Self& self) {
        char folder[] = "/tmp/telefork-test-XXXXXX";
        VERIFY(::mkdtemp(folder) != nullptr);
        const std::string path = std::string(folder) + "/file";
        const int file = ::open(path.c_str(), O_RDWR | O_CREAT, 0600);
        put(file, 0, "content");
        VERIFY(::unlink(path.c_str()) == 0 && ::rmdir(folder) == 0);
        self.travel();
        expect_at(file, 0, "content");
        put(file, 7, " and more");
        expect_at(file, 0, "content and more");
      },
      without_comparison());
}

}  // namespace
}  // namespace telefork::migrate
