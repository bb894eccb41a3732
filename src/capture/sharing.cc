#include "capture/sharing.h"

#include <algorithm>

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/procfs.h"

namespace telefork::capture {
namespace {

constexpr struct {
  int type;
  const char* name;
} kNamed[] = {
    {KCMP_VM, "memory"},
    {KCMP_FILES, "descriptors"},
    {KCMP_FS, "directories and umask"},
};

// 0: the same, 1: `a` comes first, 2: `b` does; below 0: one of them has ended, or may not be
// looked at.
long compare(pid_t a, pid_t b, std::size_t part) {
  return ::syscall(SYS_kcmp, a, b, kNamed[part].type, 0, 0);
}

// With any of them that has not ended.
long compare(pid_t pid, const std::vector<pid_t>& group, std::size_t part) {
  for (pid_t one : group) {
    const long order = compare(pid, one, part);
    if (order >= 0) return order;
  }
  return -1;
}

}  // namespace

Sharing::Sharing(const std::set<pid_t>& members) {
  static_assert(std::size(kNamed) == kParts);
  const std::vector<pid_t> all = kernel::list_processes();
  for (std::size_t part = 0; part < kParts; ++part) {
    std::vector<Group>& groups = groups_[part];
    for (pid_t member : members) {
      const auto place = find(part, member);
      if (!place) continue;
      if (!place->is_there) {
        groups.insert(groups.begin() + static_cast<std::ptrdiff_t>(place->index), Group());
      }
      groups[place->index].push_back(member);
    }
    for (pid_t other : all) {
      if (members.contains(other)) continue;
      const auto place = find(part, other);
      if (place && place->is_there) groups[place->index].push_back(other);
    }
  }
}

// None: it has ended, or may not be looked at.
std::optional<Sharing::Place> Sharing::find(std::size_t part, pid_t pid) {
  std::vector<Group>& groups = groups_[part];
  std::size_t first = 0;
  std::size_t end = groups.size();
  bool is_there = false;
  while (first < end) {
    const std::size_t middle = first + (end - first) / 2;
    const long order = compare(pid, groups[middle], part);
    is_there = is_there || order >= 0;
    if (order == 0) return Place{middle, true};
    if (order == 1) {
      end = middle;
    } else if (order == 2) {
      first = middle + 1;
    } else if (compare(pid, pid, part) != 0) {
      return std::nullopt;
    } else {
      // All of these have ended meanwhile.
      groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(middle));
      --end;
    }
  }
  if (!is_there && compare(pid, pid, part) != 0) return std::nullopt;
  return Place{first, false};
}

bool Sharing::is_shared(SharedPart part, pid_t a, pid_t b) const {
  const std::vector<Group>& groups = groups_.at(static_cast<std::size_t>(part));
  return std::any_of(groups.begin(), groups.end(), [&](const Group& group) {
    return std::find(group.begin(), group.end(), a) != group.end() &&
           std::find(group.begin(), group.end(), b) != group.end();
  });
}

std::map<std::string, std::vector<pid_t>> Sharing::of(pid_t member) const {
  std::map<pid_t, std::string> parts;
  for (std::size_t part = 0; part < kParts; ++part) {
    for (const Group& group : groups_[part]) {
      if (std::find(group.begin(), group.end(), member) == group.end()) continue;
      for (pid_t other : group) {
        if (other == member) continue;
        std::string& list = parts[other];
        list += (list.empty() ? "" : ", ") + std::string(kNamed[part].name);
      }
    }
  }
  std::map<std::string, std::vector<pid_t>> others;
  for (const auto& [other, list] : parts) others[list].push_back(other);
  return others;
}

}  // namespace telefork::capture
