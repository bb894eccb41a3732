// Memory of hugetlb pages: anonymous, private and shared, in memory files, and System V's.
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_maps.h"
#include "kernel/testing_huge_pages.h"
#include "migrate/round_trip.h"
#include "migrate/testing_memory.h"

namespace telefork::migrate {
namespace {

constexpr std::size_t kHuge = kHugePageSize;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB;

// Restored while those of the process that was saved may be there still.
class RoundTripOfHugetlb : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_PIDS();
    if (!spare_->given()) GTEST_SKIP() << "needs: huge pages";
  }

  std::unique_ptr<kernel::SpareHugePages> spare_ = std::make_unique<kernel::SpareHugePages>(24);
};

bool is_hugetlb(const void* address) {
  const kernel::Vma vma = vma_at(address);
  return vma.has(kernel::VmFlag::kHugeTlb) && vma.huge_shift() == 21;
}

void fill(char* start, char with) { std::memset(start, with, kHuge); }

bool is_filled(const char* start, char with) {
  return start[0] == with && std::memcmp(start, start + 1, kHuge - 1) == 0;
}

std::uint64_t bytes_of(int file) {
  struct stat stat {};
  VERIFY(::fstat(file, &stat) == 0);
  return static_cast<std::uint64_t>(stat.st_blocks) * 512;
}

std::string error_of_load(Traveller& traveller, const TripOptions& options) {
  try {
    traveller.load(options);
    ADD_FAILURE() << "it has huge pages that nobody gave it";
  } catch (const Error& error) {
    return error.text();
  }
  return "";
}

TEST_F(RoundTripOfHugetlb, KeepsPrivatePages) {
  expect_survives([](Self& self) {
    char* pages = map(4 * kHuge, kReadWrite, kPrivate);
    fill(pages, 'p');
    pages[2 * kHuge + 5] = 'x';
    VERIFY(::mprotect(pages + kHuge, kHuge, PROT_NONE) == 0);
    char* sparse = map(kHuge, PROT_READ, kPrivate | MAP_NORESERVE);
    self.travel();
    VERIFY(is_filled(pages, 'p'));
    VERIFY(pages[2 * kHuge + 5] == 'x' && pages[2 * kHuge + 4] == 0);
    VERIFY(vma_at(pages + kHuge).protection() == PROT_NONE);
    VERIFY(is_hugetlb(pages) && is_hugetlb(sparse));
    VERIFY(is_filled(pages + 3 * kHuge, 0));
    // What is not aligned to them is refused, as ever.
    VERIFY(::munmap(pages, kPageSize) == -1 && ::munmap(pages, 4 * kHuge) == 0);
  });
}

TEST_F(RoundTripOfHugetlb, TellsThatThereAreTooFew) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  TripOptions options;
  options.compare = false;
  // What is not reserved is made when its pages come.
  for (const int reserve : {0, MAP_NORESERVE}) {
    for (const int flags : {kPrivate, kShared}) {
      Traveller traveller([flags, reserve](Self& self) {
        map(2 * kHuge, kReadWrite, flags | reserve)[0] = 1;
        self.travel();
      });
      traveller.save(options);
      spare_->take_back();
      const std::string said = error_of_load(traveller, options);
      const char* doing = reserve == 0 ? "mapping" : "making";
      EXPECT_NE(said.find(std::string(doing) + " huge pages (vm.nr_hugepages) at "),
                std::string::npos)
          << said;
      spare_.reset();
      spare_ = std::make_unique<kernel::SpareHugePages>(24);
    }
  }
}

TEST_F(RoundTripOfHugetlb, KeepsSharedPages) {
  expect_survives([](Self& self) {
    char* pages = map(2 * kHuge, kReadWrite, kShared);
    pages[kHuge + 7] = 's';
    self.travel();
    VERIFY(is_hugetlb(pages) && vma_at(pages).is_shared_anonymous());
    VERIFY(pages[kHuge + 7] == 's' && pages[kHuge + 6] == 0 && is_filled(pages, 0));
    const pid_t child = ::fork();
    if (child == 0) {
      pages[0] = 'c';
      ::_exit(0);
    }
    VERIFY(::waitpid(child, nullptr, 0) == child);
    VERIFY(pages[0] == 'c');
  });
}

TEST_F(RoundTripOfHugetlb, KeepsPartsOfSharedPagesInOneObject) {
  expect_survives([](Self& self) {
    char* pages = map(6 * kHuge, kReadWrite, kShared);
    fill(pages + kHuge, '1');
    fill(pages + 4 * kHuge, '4');
    VERIFY(::munmap(pages, kHuge) == 0 && ::munmap(pages + 5 * kHuge, kHuge) == 0);
    VERIFY(::mprotect(pages + 2 * kHuge, kHuge, PROT_READ) == 0);
    VERIFY(::mprotect(pages + 3 * kHuge, kHuge, PROT_NONE) == 0);
    self.travel();
    VERIFY(is_filled(pages + kHuge, '1') && is_filled(pages + 2 * kHuge, 0));
    VERIFY(is_filled(pages + 4 * kHuge, '4'));
    VERIFY(vma_at(pages + 3 * kHuge).protection() == PROT_NONE);
    const kernel::Vma first = vma_at(pages + kHuge);
    for (std::size_t i = 1; i < 5; ++i) {
      VERIFY(is_hugetlb(pages + i * kHuge) && vma_at(pages + i * kHuge).inode == first.inode);
    }
    VERIFY(first.offset == kHuge && first.protection() == kReadWrite);
  });
}

// What of it is not there takes no page of the pool, neither here nor there.
TEST_F(RoundTripOfHugetlb, LeavesHolesAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  expect_survives([](Self& self) {
    constexpr std::size_t kMuch = 100;  // more than there are to spare
    char* pages = map(kMuch * kHuge, kReadWrite, kShared | MAP_NORESERVE);
    pages[50 * kHuge] = 'm';
    self.travel();
    VERIFY(pages[50 * kHuge] == 'm' && pages[50 * kHuge + 1] == 0 && is_hugetlb(pages));
  });
}

TEST_F(RoundTripOfHugetlb, KeepsMemoryFiles) {
  expect_survives([](Self& self) {
    const int file = ::memfd_create("of huge pages", MFD_HUGETLB | MFD_ALLOW_SEALING | MFD_CLOEXEC);
    VERIFY(file >= 0 && ::ftruncate(file, 5 * kHuge) == 0 && ::fchmod(file, 0640) == 0);
    char* shared = map(5 * kHuge, kReadWrite, MAP_SHARED, file);
    char* half = map(2 * kHuge, PROT_READ, MAP_SHARED, file, 2 * kHuge);
    char* own = map(2 * kHuge, kReadWrite, MAP_PRIVATE, file, kHuge);
    fill(shared + kHuge, '1');
    shared[3 * kHuge + 9] = '3';
    own[kHuge] = 'o';
    VERIFY(bytes_of(file) == 2 * kHuge);
    VERIFY(::fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    VERIFY(::lseek(file, 11, SEEK_SET) == 11);
    self.travel();
    VERIFY(is_filled(shared + kHuge, '1') && half[kHuge + 9] == '3');
    VERIFY(is_filled(own, '1') && own[kHuge] == 'o' && own[kHuge + 1] == 0);
    struct stat stat {};
    VERIFY(::fstat(file, &stat) == 0 && stat.st_size == 5 * kHuge && stat.st_blksize == kHuge);
    VERIFY((stat.st_mode & 07777) == 0640 && bytes_of(file) == 2 * kHuge);
    VERIFY(::fcntl(file, F_GET_SEALS) == F_SEAL_SHRINK && ::ftruncate(file, 0) != 0);
    VERIFY(::lseek(file, 0, SEEK_CUR) == 11);
    shared[2 * kHuge] = 'n';
    char byte = 0;
    VERIFY(half[0] == 'n' && ::pread(file, &byte, 1, 2 * kHuge) == 1 && byte == 'n');
    VERIFY(is_hugetlb(shared) && is_hugetlb(half) && is_hugetlb(own));
  });
}

TEST_F(RoundTripOfHugetlb, KeepsMemoryFilesThatAreOnlyOpenOrOnlyMapped) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  expect_survives([](Self& self) {
    const int full = ::memfd_create("full", MFD_HUGETLB);
    VERIFY(full >= 0 && ::fallocate(full, 0, 0, 2 * kHuge) == 0);
    const int mapped = ::memfd_create("mapped", MFD_HUGETLB);
    VERIFY(mapped >= 0 && ::ftruncate(mapped, 2 * kHuge) == 0);
    map(2 * kHuge, kReadWrite, MAP_SHARED, mapped)[kHuge] = 'm';
    char* own = map(2 * kHuge, kReadWrite, MAP_PRIVATE, mapped);
    own[0] = 'o';
    VERIFY(::close(mapped) == 0);
    self.travel();
    VERIFY(bytes_of(full) == 2 * kHuge);
    VERIFY(own[0] == 'o' && own[kHuge] == 'm' && is_hugetlb(own));
    own[kHuge + 1] = 'w';
  });
}

TEST_F(RoundTripOfHugetlb, TellsThatThereAreTooFewForAMemoryFile) {
  TripOptions options;
  options.compare = false;
  Traveller traveller([](Self& self) {
    const int file = ::memfd_create("full", MFD_HUGETLB);
    VERIFY(file >= 0 && ::fallocate(file, 0, 0, kHuge) == 0);
    self.travel();
  });
  traveller.save(options);
  spare_->take_back();
  const std::string said = error_of_load(traveller, options);
  EXPECT_NE(said.find("huge pages (vm.nr_hugepages)"), std::string::npos) << said;
}

TEST_F(RoundTripOfHugetlb, KeepsSystemVMemory) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  expect_survives([](Self& self) {
    const int id = ::shmget(IPC_PRIVATE, 2 * kHuge - 5, SHM_HUGETLB | 0600);
    VERIFY(id >= 0);
    auto* pages = static_cast<char*>(::shmat(id, nullptr, 0));
    auto* read_only = static_cast<char*>(::shmat(id, nullptr, SHM_RDONLY));
    VERIFY(::shmctl(id, IPC_RMID, nullptr) == 0);
    pages[kHuge + 3] = 'v';
    self.travel();
    VERIFY(read_only[kHuge + 3] == 'v' && read_only[0] == 0);
    pages[1] = 'w';
    VERIFY(read_only[1] == 'w' && is_hugetlb(pages) && is_hugetlb(read_only));
    shmid_ds about{};
    VERIFY(::shmctl(id, IPC_STAT, &about) == 0 && about.shm_segsz == 2 * kHuge - 5);
    VERIFY(about.shm_nattch == 2 && ::shmdt(pages) == 0);
  });
}

}  // namespace
}  // namespace telefork::migrate
