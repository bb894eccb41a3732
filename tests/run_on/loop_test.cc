// Many calls of one program: nothing of them adds up.
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "calls.h"

namespace fork_test {
namespace {

using ALoopOfCalls = AFork;

std::size_t count_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

TEST_P(ALoopOfCalls, ComesBackEachTime) {
  const int calls = std::getenv("TELEFORK_TESTS_ALL") != nullptr ? 1000 : 300;
  set_patience(std::chrono::minutes(9));
  Outcome outcome = run([this, calls] {
    int count = 0;
    call_on(node(), [&] { ++count; });
    const std::size_t mappings = count_mappings();
    const std::vector<int> descriptors = open_descriptors();
    while (count < calls) call_on(node(), [&] { ++count; });
    require_equal(count, calls);
    // malloc() may have made one more.
    if (count_mappings() > mappings + 1) fail_here("there are more mappings", Where::current());
    require_equal(open_descriptors().size(), descriptors.size());
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(There, ALoopOfCalls, testing::ValuesIn(nodes_under_test({"unix"})),
                         name_of_node);

}  // namespace
}  // namespace fork_test
