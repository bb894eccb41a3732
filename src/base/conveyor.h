// Two threads that work on a few objects in turn: one fills them, the other empties them.
//
//     Conveyor<std::unique_ptr<Buffer>> conveyor;
//     conveyor.give_back(std::make_unique<Buffer>());          // as many as may be on the way
//     conveyor.run(
//         [&] { while (...) { auto buffer = conveyor.take_empty(); fill;
//         conveyor.hand_over(buffer); } },
//         [&](auto buffer) { use it; conveyor.give_back(std::move(buffer)); });
//
// What either side throws ends both, and run() throws it: the emptier's first, since the filler may
// only have noticed that nobody takes any more.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/quiet_thread.h"

namespace telefork {

template <class T>
class Conveyor {
 public:
  // The filler's side. take_empty() waits; it throws, to end the filler, when the other side
  // failed.
  T take_empty() {
    std::optional<T> empty = take(empty_);
    if (!empty) throw NobodyUses{};
    return std::move(*empty);
  }
  void hand_over(T full) { put(full_, std::move(full)); }
  // The other side, and whoever sets it up.
  void give_back(T empty) { put(empty_, std::move(empty)); }

  // `fill` in a thread of its own, which gets no signals, `use` here, for each that was handed
  // over, in that order. Returns when both are through.
  template <class Fill, class Use>
  void run(Fill fill, Use use) {
    std::exception_ptr failure;
    std::thread filler = start_quiet_thread([&] {
      try {
        fill();
      } catch (const NobodyUses&) {
        // The other side has thrown.
      } catch (...) {
        failure = std::current_exception();
      }
      end(full_);
    });
    try {
      while (std::optional<T> full = take(full_)) use(std::move(*full));
    } catch (...) {
      end(empty_);
      filler.join();
      throw;
    }
    filler.join();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  struct NobodyUses {};
  struct Queue {
    std::deque<T> items;
    bool ended = false;
  };

  void put(Queue& queue, T item) {
    std::lock_guard lock(mutex_);
    queue.items.push_back(std::move(item));
    changed_.notify_all();
  }
  // Nothing: it has ended, and is not looked at any more.
  std::optional<T> take(Queue& queue) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&queue] { return queue.ended || !queue.items.empty(); });
    bool given_up = queue.ended && &queue == &empty_;
    if (queue.items.empty() || given_up) return std::nullopt;
    T item = std::move(queue.items.front());
    queue.items.pop_front();
    return item;
  }
  void end(Queue& queue) {
    std::lock_guard lock(mutex_);
    queue.ended = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Queue empty_;
  Queue full_;
};

}  // namespace telefork
