#include "restore/descriptor_plan.h"

#include <cerrno>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::restore {
namespace {

using Kind = NumberStep::Kind;

class Plan {
 public:
  Plan(std::vector<int> given, const std::vector<WantedNumber>& wanted, int limit)
      : where_(std::move(given)), wanted_(wanted), limit_(limit), wants_of_(where_.size()) {
    for (std::size_t i = 0; i < wanted_.size(); ++i) {
      wants_of_.at(wanted_[i].file).push_back(i);
      wanting_.emplace(wanted_[i].number, wanted_[i].file);
    }
    for (std::size_t file = 0; file < where_.size(); ++file) {
      open_.insert(where_[file]);
      unsettled_.emplace(where_[file], file);
    }
  }

  std::vector<NumberStep> make() {
    settle_those_in_place();
    for (std::size_t file = 0; file < where_.size(); ++file) settle_from(file);
    while (!unsettled_.empty()) {
      // What is left are rings.
      const auto [freed, file] = *unsettled_.begin();
      put(file, spare_number(), true);
      settle_from(wanting_.at(freed));
    }
    copy_the_others();
    return std::move(steps_);
  }

 private:
  bool is_settled(std::size_t file) const { return unsettled_.count(where_[file]) == 0; }

  void settle_those_in_place() {
    for (std::size_t file = 0; file < where_.size(); ++file) {
      if (wants_of_[file].empty()) {
        steps_.push_back({Kind::kClose, where_[file], -1, false});
        open_.erase(where_[file]);
        unsettled_.erase(where_[file]);
        continue;
      }
      for (std::size_t i : wants_of_[file]) {
        if (wanted_[i].number != where_[file]) continue;
        unsettled_.erase(where_[file]);
        if (!wanted_[i].close_on_exec) {
          steps_.push_back({Kind::kKeepOnExec, where_[file], -1, false});
        }
      }
    }
  }

  // One that goes frees a number, where another one may go.
  void settle_from(std::size_t file) {
    for (;;) {
      if (wants_of_[file].empty() || is_settled(file)) return;
      const WantedNumber* to = free_target(file);
      if (to == nullptr) return;
      const int freed = where_[file];
      put(file, to->number, to->close_on_exec);
      unsettled_.erase(to->number);
      auto next = wanting_.find(freed);
      if (next == wanting_.end()) return;
      file = next->second;
    }
  }

  const WantedNumber* free_target(std::size_t file) const {
    for (std::size_t i : wants_of_[file]) {
      if (unsettled_.count(wanted_[i].number) == 0) return &wanted_[i];
    }
    return nullptr;
  }

  void put(std::size_t file, int to, bool close_on_exec) {
    const int from = where_[file];
    steps_.push_back({Kind::kCopy, from, to, close_on_exec});
    steps_.push_back({Kind::kClose, from, -1, false});
    open_.erase(from);
    open_.insert(to);
    unsettled_.erase(from);
    unsettled_.emplace(to, file);
    where_[file] = to;
  }

  int spare_number() const {
    int number = 0;
    for (int taken : open_) {
      if (taken != number) break;
      ++number;
    }
    if (number < limit_) return number;
    throw Error(Code::kResources,
                fmt::format("there is no descriptor left here (limit nofile is {})", limit_),
                EMFILE);
  }

  void copy_the_others() {
    for (const WantedNumber& wanted : wanted_) {
      const int from = where_[wanted.file];
      if (from == wanted.number) continue;
      steps_.push_back({Kind::kCopy, from, wanted.number, wanted.close_on_exec});
    }
  }

  std::vector<int> where_;  // each file, now
  const std::vector<WantedNumber>& wanted_;
  const int limit_;
  std::vector<std::vector<std::size_t>> wants_of_;  // of each file
  std::map<int, std::size_t> wanting_;              // number: the file that is to be there
  std::map<int, std::size_t> unsettled_;            // number: the file that has to leave it
  std::set<int> open_;
  std::vector<NumberStep> steps_;
};

}  // namespace

std::vector<NumberStep> plan_numbers(std::vector<int> given,
                                     const std::vector<WantedNumber>& wanted, int limit) {
  return Plan(std::move(given), wanted, limit).make();
}

}  // namespace telefork::restore
