// std::thread, a shared mutex, a condition variable, an atomic that is waited for, and an
// exception.
#include <atomic>
#include <condition_variable>
#include <future>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "victim.h"

int main() {
  std::atomic<int> go{0};
  std::atomic<int> started{0};
  std::shared_mutex lock;
  std::vector<std::string> said;
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      ++started;
      started.notify_all();
      go.wait(0);
      std::unique_lock<std::shared_mutex> held(lock);
      said.push_back("thread " + std::to_string(i));
    });
  }
  std::promise<int> promise;
  std::future<int> future = promise.get_future();
  for (int now = 0; (now = started) != 6;) started.wait(now);
  victim_ready();
  victim_wait();
  go = 1;
  go.notify_all();
  for (std::thread& thread : threads) thread.join();
  VICTIM_CHECK(said.size() == 6 && said[0].size() == 8);
  promise.set_exception(std::make_exception_ptr(std::runtime_error("as it should")));
  try {
    future.get();
    victim_fail("no exception");
  } catch (const std::runtime_error& error) {
    VICTIM_CHECK(std::string(error.what()) == "as it should");
  }
  victim_pass();
}
