// The call itself: there, back, again, within another, from wherever.
#include <atomic>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

TEST_P(ACall, RunsThereAndReturnsHereWhatTheFunctionReturns) {
  Outcome outcome = run([this] {
    std::vector<int> numbers(100000);
    std::iota(numbers.begin(), numbers.end(), 0);
    const pid_t pid = getpid();
    long sum = call_on(node(), [&] {
      require_equal(getpid(), pid);
      write_all(STDOUT_FILENO, "there\n");
      for (int& number : numbers) number *= 2;
      return std::accumulate(numbers.begin(), numbers.end(), 0L);
    });
    write_all(STDOUT_FILENO, "home\n");
    require_equal(sum, 9999900000L);
    require_equal(numbers[99999], 199998);
    require_equal(getpid(), pid);
  });
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "there\nhome\n");
}

TEST_P(ACall, BringsTheExceptionHome) {
  Outcome outcome = run([this] {
    std::string caught;
    try {
      telefork::run_on(node(), []() -> int { throw std::out_of_range("from there"); });
    } catch (const std::out_of_range& error) {
      caught = error.what();
    }
    require_equal(caught, "from there");
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, ComesBackInALoop) {
  Outcome outcome = run([this] {
    int count = 0;
    for (int i = 0; i < 20; ++i) call_on(node(), [&] { ++count; });
    require_equal(count, 20);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, MayBeMadeWithinACall) {
  Outcome outcome = run([this] {
    std::string trace;
    call_on(node(), [&] {
      trace += "out ";
      call_on("local", [&] { trace += "further "; });
      trace += "back ";
    });
    require_equal(trace, "out further back ");
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, MayBeMadeFromAnyThread) {
  Outcome outcome = run([this] {
    pid_t there = 0;
    pid_t here = 0;
    std::thread([&] {
      here = gettid();
      call_on(node(), [&] { there = gettid(); });
      require_equal(gettid(), here);
    }).join();
    require_equal(there, here);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, MayBeMadeByThreadsAtOnce) {
  Outcome outcome = run([this] {
    std::atomic<int> done{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int k = 0; k < 3; ++k) call_on(node(), [&] { ++done; });
      });
    }
    for (std::thread& thread : threads) thread.join();
    require_equal(done.load(), 12);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, MayBeMadeInAForkedChild) {
  Outcome outcome = run([this] {
    const pid_t pid = fork();
    if (pid == 0) {
      int number = 0;
      call_on(node(), [&] { number = 42; });
      _exit(number);
    }
    require_equal(end_of(pid), exited(42));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, MayForkThereAndWait) {
  Outcome outcome = run([this] {
    std::string end = call_on(node(), [] {
      const pid_t pid = fork();
      if (pid == 0) _exit(3);
      return end_of(pid);
    });
    require_equal(end, exited(3));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, MayTeleforkThere) {
  Outcome outcome = run([this] {
    std::string end = call_on(node(), [] { return end_of(fork_child("local", [] { return 5; })); });
    require_equal(end, exited(5));
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(There, ACall,
                         testing::ValuesIn(nodes_under_test({"local", "unix", "tls"})),
                         name_of_node);

}  // namespace
}  // namespace fork_test
