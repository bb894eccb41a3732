// Memory of which every page says which it is, for what begins before it has come.
#pragma once

#include <cstddef>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {

constexpr std::size_t kPageOfMemory = 4096;
constexpr std::size_t kMegabyte = std::size_t{1} << 20;

inline telefork::Options lazy() {
  telefork::Options options;
  options.mode = telefork::Mode::lazy;
  return options;
}

// Else the mode is refused.
inline bool memory_can_follow(const std::string& node) {
  return geteuid() == 0 && !node.starts_with("ssh:");
}

class WithMemoryThatFollows : public AFork {
 protected:
  void SetUp() override {
    AFork::SetUp();
    if (!IsSkipped() && !memory_can_follow(node())) GTEST_SKIP() << "needs: root, and no ssh";
  }
};

struct Pages {
  explicit Pages(std::size_t size) : count(size / kPageOfMemory) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED);
    start = static_cast<unsigned char*>(memory);
    for (std::size_t page = 0; page < count; ++page) word(page) = page + 1;
  }
  std::size_t& word(std::size_t page) const {
    return *reinterpret_cast<std::size_t*>(start + page * kPageOfMemory + page % 500 * 8);
  }
  std::size_t sum(std::size_t from, std::size_t step) const {
    std::size_t all = 0;
    for (std::size_t page = from; page < count; page += step) all += word(page);
    return all;
  }
  std::size_t sum_untouched() const { return count * (count + 1) / 2; }
  void expect_untouched(std::size_t from, std::size_t to) const {
    for (std::size_t page = from; page < to; ++page) require_equal(word(page), page + 1);
  }
  unsigned char* start;
  std::size_t count;
};

}  // namespace fork_test
