// Programs so large that a clone of them is asked for the flags of their memory.
#include <fstream>
#include <set>
#include <sstream>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMega = std::size_t{1} << 20;

struct Block {
  unsigned char* start;
  std::size_t size;
  unsigned char& at(std::size_t page) const { return start[page * kPage + page % kPage]; }
  std::size_t pages() const { return size / kPage; }
  void fill(int with) const {
    for (std::size_t page = 0; page < pages(); ++page) {
      at(page) = static_cast<unsigned char>(page % 127 + static_cast<unsigned>(with));
    }
  }
  void expect(std::size_t page, int with) const {
    require_equal(int{at(page)}, static_cast<int>(page % 127) + with);
  }
};

Block map(std::size_t size, int flags = 0) {
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  require(memory != MAP_FAILED);
  return {static_cast<unsigned char*>(memory), size};
}

// The two letters of each (VmFlags in proc(5)).
std::set<std::string> flags_of(const Block& block) {
  std::ifstream smaps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(block.start);
  bool is_it = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t start = 0;
    std::uintptr_t end = 0;
    if (sscanf(line.c_str(), "%lx-%lx", &start, &end) == 2) {
      is_it = start <= wanted && wanted < end;
    } else if (is_it && line.rfind("VmFlags:", 0) == 0) {
      std::istringstream words(line.substr(8));
      return {std::istream_iterator<std::string>(words), {}};
    }
  }
  return {};
}

bool has(const Block& block, const std::string& flag) { return flags_of(block).count(flag) != 0; }

TEST_P(ACall, BringsWhatALargeProgramSaidOfItsMemoryHome) {
  Outcome outcome = run([this] {
    const Block scattered = map(96 * kMega);
    const Block rewritten = map(16 * kMega);
    const Block small = map(kMega);
    const Block untouched = map(16 * kMega);
    for (const Block& block : {scattered, rewritten, small, untouched}) block.fill(1);
    Block made{};
    Block stack{};
    call_on(node(), [&] {
      for (std::size_t page = 0; page < scattered.pages(); page += 100) scattered.at(page) = 255;
      rewritten.fill(100);
      for (const Block& block : {scattered, rewritten, untouched}) {
        require(madvise(block.start, block.size, MADV_DONTDUMP) == 0);
      }
      require(madvise(small.start, small.size, MADV_DONTFORK) == 0);
      made = map(2 * kMega, MAP_NORESERVE);
      require(madvise(made.start, made.size, MADV_WIPEONFORK) == 0);
      made.fill(7);
      stack = map(16 * kPage, MAP_GROWSDOWN);
      stack.fill(9);
    });
    for (std::size_t page = 0; page < scattered.pages(); ++page) {
      if (page % 100 == 0) {
        require_equal(int{scattered.at(page)}, 255);
      } else {
        scattered.expect(page, 1);
      }
    }
    for (std::size_t page = 0; page < rewritten.pages(); ++page) {
      rewritten.expect(page, 100);
      untouched.expect(page, 1);
    }
    for (std::size_t page = 0; page < made.pages(); ++page) made.expect(page, 7);
    for (std::size_t page = 0; page < stack.pages(); ++page) stack.expect(page, 9);
    require(has(scattered, "dd") && has(rewritten, "dd") && has(untouched, "dd"));
    require(has(small, "dc") && !has(small, "dd"));
    require(has(made, "wf") && has(made, "nr"));
    require(has(stack, "gd"));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, SaysWhatOfALargeProgramsMemoryCannotComeHome) {
  constexpr long kMseal = 462;  // Linux 6.10
  if (syscall(kMseal, nullptr, 0, 0) != 0) GTEST_SKIP() << "needs: mseal(2)";
  Outcome outcome = run([this] {
    const Block large = map(96 * kMega);
    const Block sealed = map(kMega);
    large.fill(1);
    sealed.fill(1);
    const std::string error = error_of_call(node(), [&] {
      large.at(5) = 255;
      require(syscall(kMseal, sealed.start, sealed.size, 0) == 0);
    });
    if (error.find("mseal'ed memory") == std::string::npos) fail_here(error, Where::current());
    large.expect(5, 1);
    sealed.expect(5, 1);
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
