// Who was cloned to have what with whom (clone(2): CLONE_VM, CLONE_FILES, CLONE_FS).
//
//     Sharing sharing({pid, ...});             // those who are about to go
//     for (auto& [parts, others] : sharing.of(pid)) ...   // "memory, descriptors": {11, 12}
//
// kcmp(2) takes 1 us and tells an order, by which each process of the machine is looked for among
// the few. Those that this user may not look at are passed over, and all where the kernel has no
// kcmp(2).
#pragma once

#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <sys/types.h>

namespace telefork::capture {

enum class SharedPart { kMemory, kDescriptors, kDirectories };

class Sharing {
 public:
  explicit Sharing(const std::set<pid_t>& members);

  // The others by what they have in common with `member`, each list in rising order.
  std::map<std::string, std::vector<pid_t>> of(pid_t member) const;
  // Whether those two have it in common, of which one is a member.
  bool is_shared(SharedPart part, pid_t a, pid_t b) const;

 private:
  using Group = std::vector<pid_t>;  // who have the same

  static constexpr std::size_t kParts = 3;
  struct Place {
    std::size_t index;
    bool is_there;  // else a group that would have to be made
  };
  std::optional<Place> find(std::size_t part, pid_t pid);

  std::array<std::vector<Group>, kParts> groups_;  // in the kernel's order
};

}  // namespace telefork::capture
