#include "kernel/memory_limit.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace telefork::kernel {
namespace {

namespace fs = std::filesystem;

constexpr MemoryInfo kMachine{1 << 20, 1 << 19};

class MemoryLimit : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = fs::temp_directory_path() / "telefork-cgroup.XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    root_ = path;
  }
  void TearDown() override { fs::remove_all(root_); }

  void put(const std::string& file, const std::string& text) const {
    fs::create_directories(fs::path(root_ + file).parent_path());
    std::ofstream(root_ + file) << text;
  }

  std::string root_;
};

TEST_F(MemoryLimit, IsTheLeastOfAllAbove) {
  put("/a/memory.max", "104857600\n");
  put("/a/memory.current", "62914560\n");
  put("/a/memory.stat", "anon 1\ninactive_file 10485760\n");
  put("/a/b/memory.max", "max\n");
  put("/a/b/memory.current", "4096\n");
  const MemoryInfo info = limit_by_cgroup(kMachine, root_, "/a/b", 2);
  EXPECT_EQ(info.total_kb, 100U * 1024);
  EXPECT_EQ(info.available_kb, 50U * 1024);
}

TEST_F(MemoryLimit, IsWhatAFullerOneAboveLeaves) {
  put("/a/memory.max", "104857600\n");
  put("/a/memory.current", "103809024\n");
  put("/a/b/memory.max", "52428800\n");
  put("/a/b/memory.current", "4096\n");
  const MemoryInfo info = limit_by_cgroup(kMachine, root_, "/a/b", 2);
  EXPECT_EQ(info.total_kb, 50U * 1024);
  EXPECT_EQ(info.available_kb, 1024U);
}

TEST_F(MemoryLimit, KnowsTheFirstVersionToo) {
  put("/memory.limit_in_bytes", "9223372036854771712\n");
  put("/a/memory.limit_in_bytes", "1048576\n");
  put("/a/memory.usage_in_bytes", "2097152\n");
  put("/a/memory.stat", "inactive_file 1\ntotal_inactive_file 524288\n");
  const MemoryInfo info = limit_by_cgroup(kMachine, root_, "/a", 1);
  EXPECT_EQ(info.total_kb, 1024U);
  EXPECT_EQ(info.available_kb, 0U);
}

TEST_F(MemoryLimit, IsTheMachinesWhereNoneIsSet) {
  put("/memory.max", "max\n");
  const MemoryInfo info = limit_by_cgroup(kMachine, root_, "/../elsewhere", 2);
  EXPECT_EQ(info.total_kb, kMachine.total_kb);
  EXPECT_EQ(info.available_kb, kMachine.available_kb);
}

TEST(ReadMemoryForUs, IsNoMoreThanTheMachines) {
  const MemoryInfo info = read_memory_for_us();
  EXPECT_GT(info.total_kb, 0U);
  EXPECT_LE(info.total_kb, read_memory_info().total_kb);
}

}  // namespace
}  // namespace telefork::kernel
