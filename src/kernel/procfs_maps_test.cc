#include "kernel/procfs_maps.h"

#include <random>
#include <thread>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/procfs_file.h"
#include "kernel/test_child.h"

namespace telefork::kernel {
namespace {

Code code_of(std::string_view text, std::vector<Vma> (*parse)(std::string_view, std::string_view)) {
  try {
    parse(text, "test");
  } catch (const Error& error) {
    return error.code();
  }
  return Code::kFailed;
}

const Vma* find(const std::vector<Vma>& vmas, const void* address) {
  auto at = RemotePtr(reinterpret_cast<std::uint64_t>(address));
  for (const Vma& vma : vmas)
    if (vma.start <= at && at < vma.end) return &vma;
  return nullptr;
}

TEST(Maps, ParsesAFileMapping) {
  auto vmas = parse_maps(
      "7f00deadb000-7f00deadd000 r-xp 00003000 fe:1f 4711                       "
      "/usr/lib/libc.so.6\n");
  ASSERT_EQ(vmas.size(), 1u);
  EXPECT_EQ(vmas[0].start, RemotePtr(0x7f00deadb000));
  EXPECT_EQ(vmas[0].size(), 0x2000u);
  EXPECT_EQ(vmas[0].protection(), PROT_READ | PROT_EXEC);
  EXPECT_FALSE(vmas[0].shared);
  EXPECT_EQ(vmas[0].offset, 0x3000u);
  EXPECT_EQ(vmas[0].dev_major, 0xfeu);
  EXPECT_EQ(vmas[0].dev_minor, 0x1fu);
  EXPECT_EQ(vmas[0].inode, 4711u);
  EXPECT_EQ(vmas[0].path, "/usr/lib/libc.so.6");
  EXPECT_TRUE(vmas[0].is_file());
  EXPECT_FALSE(vmas[0].is_anonymous());
}

TEST(Maps, ParsesAPathWithSpacesAndDeleted) {
  auto vmas = parse_maps("1000-2000 rw-s 0 00:01 7   /tmp/a b  c (deleted)\n");
  EXPECT_EQ(vmas[0].path, "/tmp/a b  c");
  EXPECT_TRUE(vmas[0].deleted);
  EXPECT_TRUE(vmas[0].shared);
}

TEST(Maps, KnowAFileWhoseNameEndsLikeThatOfADeletedOne) {
  const std::string path = testing::TempDir() + "telefork-maps (deleted)";
  UniqueFd file = open_file(path, O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  void* memory = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file.get(), 0);
  ASSERT_NE(memory, MAP_FAILED);
  for (auto read : {read_maps, read_smaps}) {
    std::vector<Vma> vmas = read(::getpid());
    const Vma* vma = find(vmas, memory);
    ASSERT_NE(vma, nullptr);
    EXPECT_EQ(vma->path, path);
    EXPECT_FALSE(vma->deleted);
  }
  ASSERT_EQ(::unlink(path.c_str()), 0);
  std::vector<Vma> vmas = read_maps(::getpid());
  const Vma* vma = find(vmas, memory);
  ASSERT_NE(vma, nullptr);
  EXPECT_EQ(vma->path, path);
  EXPECT_TRUE(vma->deleted);
  ::munmap(memory, 4096);
}

TEST(Maps, UndoesTheEscapeOfANewlineButKeepsABackslash) {
  auto vmas = parse_maps("1000-2000 rw-p 0 00:01 7   /tmp/a\\012b\\c\n");
  EXPECT_EQ(vmas[0].path, "/tmp/a\nb\\c");
}

TEST(Maps, TellsTheKindsOfMemoryApart) {
  auto vmas = parse_maps(
      "1000-2000 rw-p 00000000 00:00 0 \n"
      "2000-3000 rw-p 00000000 00:00 0                          [heap]\n"
      "3000-4000 rw-p 00000000 00:00 0                          [anon:glibc: malloc]\n"
      "4000-5000 rw-s 00000000 00:01 9                          /dev/zero (deleted)\n"
      "5000-6000 r--p 00000000 00:00 0                          [vvar]\n"
      "6000-7000 r--p 00000000 00:00 0                          [vvar_vclock]\n"
      "7000-8000 r-xp 00000000 00:00 0                          [vdso]\n"
      "8000-9000 rw-p 00000000 00:00 0                          [stack]\n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n");
  ASSERT_EQ(vmas.size(), 9u);
  EXPECT_TRUE(vmas[0].is_anonymous());
  EXPECT_TRUE(vmas[1].is_anonymous() && vmas[1].is_heap());
  EXPECT_TRUE(vmas[2].is_anonymous());
  EXPECT_TRUE(vmas[3].is_shared_anonymous() && !vmas[3].is_file() && !vmas[3].is_anonymous());
  EXPECT_TRUE(vmas[4].is_vdso_or_vvar() && !vmas[4].is_anonymous());
  EXPECT_TRUE(vmas[5].is_vdso_or_vvar());
  EXPECT_TRUE(vmas[6].is_vdso_or_vvar() && vmas[6].is_vdso());
  EXPECT_TRUE(vmas[7].is_stack() && vmas[7].is_anonymous());
  EXPECT_TRUE(vmas[8].is_vsyscall() && !vmas[8].is_anonymous());
}

TEST(Maps, KnowsTheFirstSegmentOfSystemVMemoryForAFileThoughItsInodeIsZero) {
  auto vmas = parse_maps("1000-2000 rw-s 00000000 00:01 0 /SYSV00000000 (deleted)\n");
  ASSERT_EQ(vmas.size(), 1u);
  EXPECT_TRUE(vmas[0].is_file() && vmas[0].is_system_v() && !vmas[0].is_shared_anonymous());
}

TEST(Maps, KnowsAnonymousMemoryOfHugePages) {
  const auto vmas = parse_smaps(
      "200000-600000 rw-s 00000000 00:0f 7 /anon_hugepage (deleted)\n"
      "KernelPageSize:     2048 kB\n"
      "VmFlags: rd wr sh mr mw me ms de ht\n"
      "600000-800000 rw-p 00000000 00:0f 8 /anon_hugepage (deleted)\n"
      "KernelPageSize:     2048 kB\n"
      "VmFlags: rd wr mr mw me de ht\n"
      "800000-801000 rw-p 00000000 00:00 0\n"
      "KernelPageSize:        4 kB\n"
      "VmFlags: rd wr mr mw me\n");
  ASSERT_EQ(vmas.size(), 3u);
  EXPECT_TRUE(vmas[0].is_anonymous_hugetlb() && vmas[0].is_shared_anonymous());
  EXPECT_TRUE(vmas[1].is_anonymous_hugetlb() && !vmas[1].is_shared_anonymous());
  EXPECT_EQ(vmas[0].huge_shift(), 21u);
  EXPECT_EQ(vmas[2].huge_shift(), 0u);
}

TEST(Maps, RefusesGarbageAsCorrupt) {
  for (std::string_view text :
       {"hello", "1000", "1000-", "1000-2000", "1000-2000 rwxq 0 0:0 0\n",
        "2000-1000 rw-p 0 0:0 0\n", "1000-1000 rw-p 0 0:0 0\n", "1001-2000 rw-p 0 0:0 0\n",
        "11111111111111111-2000 rw-p 0 0:0 0\n", "1000-2000 rw-p 0 1ffffffff:0 0\n",
        "1000-3000 rw-p 0 0:0 0\n2000-3000 rw-p 0 0:0 0\n", "1000-2000 rw-p 0 0:0 -1\n", "\n"})
    EXPECT_EQ(code_of(text, parse_maps), Code::kCorrupt) << text;
}

TEST(Maps, TakeTheLaterOfTwoThatOverlap) {
  auto vmas = parse_maps(
      "1000-3000 rw-p 0 0:0 0 a\n3000-4000 r--p 0 0:0 0 b\n4000-6000 rw-p 0 0:0 0 c\n"
      "2000-8000 rw-p 0 0:0 0 d\n");
  ASSERT_EQ(vmas.size(), 2u);
  EXPECT_EQ(vmas[0].end.value(), 0x2000u);
  EXPECT_EQ(vmas[1].start.value(), 0x2000u);
  EXPECT_EQ(vmas[1].end.value(), 0x8000u);
  EXPECT_EQ(vmas[1].path, "d");
}

TEST(Maps, OfAProcessThatSplitsAndMergesAreInOrder) {
  TestChild child([] {
    std::thread([] {
      constexpr std::size_t kPages = 256;
      void* memory =
          ::mmap(nullptr, kPages * kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      for (std::size_t page = 0;; page = (page + 1) % kPages) {
        ::mprotect(static_cast<char*>(memory) + page * kPageSize, kPageSize, PROT_NONE);
        if (page == kPages - 1) ::mprotect(memory, kPages * kPageSize, PROT_READ);
      }
    }).detach();
  });
  ASSERT_TRUE(child.ready());
  for (int round = 0; round < 500; ++round) {
    std::vector<Vma> vmas = read_maps(child.pid());
    for (std::size_t i = 1; i < vmas.size(); ++i) ASSERT_LE(vmas[i - 1].end, vmas[i].start);
  }
}

TEST(Smaps, ParsesFlagsAndSizes) {
  auto vmas = parse_smaps(
      "1000-3000 rw-p 00000000 00:00 0 \n"
      "Size:                  8 kB\nKernelPageSize:        4 kB\nRss:                   8 kB\n"
      "Anonymous:             4 kB\nSwap:                  2 kB\nSwapPss:               9 kB\n"
      "Locked:                1 kB\nTHPeligible:           0\nProtectionKey:         3\n"
      "VmFlags: rd wr mr mw me lo ac zz hg \n"
      "3000-4000 r--p 00000000 00:00 0 \nVmFlags: rd \n");
  ASSERT_EQ(vmas.size(), 2u);
  EXPECT_EQ(vmas[0].kernel_page_kb, 4u);
  EXPECT_EQ(vmas[0].rss_kb, 8u);
  EXPECT_EQ(vmas[0].anonymous_kb, 4u);
  EXPECT_EQ(vmas[0].swap_kb, 2u);
  EXPECT_EQ(vmas[0].locked_kb, 1u);
  EXPECT_EQ(vmas[0].protection_key, 3);
  EXPECT_TRUE(vmas[0].has(VmFlag::kLocked) && vmas[0].has(VmFlag::kHugePage));
  EXPECT_FALSE(vmas[0].has(VmFlag::kDontCopy));
  EXPECT_THAT(vmas[0].unknown_flags, testing::ElementsAre("zz"));
  EXPECT_EQ(vmas[1].flags, static_cast<std::uint64_t>(VmFlag::kRead));
}

TEST(Smaps, RefusesGarbageAsCorrupt) {
  EXPECT_EQ(code_of("Rss: 8 kB\n", parse_smaps), Code::kCorrupt);
  EXPECT_EQ(code_of("1000-2000 rw-p 0 0:0 0\nRss: many kB\n", parse_smaps), Code::kCorrupt);
  EXPECT_EQ(code_of("1000-2000 rw-p 0 0:0 0\nRss\n", parse_smaps), Code::kCorrupt);
}

TEST(Smaps, SurvivesRandomDamage) {
  std::string good = "1000-3000 rw-p 00000000 00:00 0   /a\nRss:   8 kB\nVmFlags: rd wr\n";
  unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    text[random() % text.size()] = static_cast<char>(random());
    text.resize(random() % (text.size() + 1));
    try {
      parse_smaps(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt);
    }
  }
}

TEST(Smaps, ReadsTheMapOfAChild) {
  void* memory =
      ::mmap(nullptr, 8 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* shared =
      ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  TestChild child([&] {
    ::mprotect(memory, kPageSize, PROT_NONE);
    ::madvise(static_cast<char*>(memory) + 2 * kPageSize, 2 * kPageSize, MADV_DONTDUMP);
    static_cast<char*>(memory)[2 * kPageSize] = 1;
  });
  auto vmas = read_smaps(child.pid());
  const Vma* none = find(vmas, memory);
  const Vma* undumped = find(vmas, static_cast<char*>(memory) + 2 * kPageSize);
  ASSERT_TRUE(none != nullptr && undumped != nullptr && find(vmas, shared) != nullptr);
  EXPECT_EQ(none->protection(), PROT_NONE);
  EXPECT_TRUE(undumped->has(VmFlag::kDontDump) && undumped->is_anonymous());
  EXPECT_EQ(undumped->size(), 2 * kPageSize);
  EXPECT_EQ(undumped->anonymous_kb, 4u);
  EXPECT_TRUE(find(vmas, shared)->is_shared_anonymous());
  for (const Vma& vma : vmas) EXPECT_THAT(vma.unknown_flags, testing::IsEmpty()) << vma.path;
  EXPECT_EQ(vmas.size(), read_maps(child.pid()).size());
  ::munmap(memory, 8 * kPageSize);
  ::munmap(shared, kPageSize);
}

TEST(Maps, OfAProcessThatHasEndedAreGone) {
  pid_t pid;
  {
    TestChild child([] {});
    pid = child.pid();
  }
  try {
    read_maps(pid);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kGone);
    EXPECT_THAT(error.text(), testing::HasSubstr(std::to_string(pid)));
  }
}

TEST(VmFlagName, KnowsItsLetters) {
  EXPECT_EQ(vm_flag_name(VmFlag::kRead), "rd");
  EXPECT_EQ(vm_flag_name(VmFlag::kGuard), "gu");
}

}  // namespace
}  // namespace telefork::kernel
