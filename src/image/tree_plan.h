// In which order the processes of a tree are made, so that each has its parent, its session and its
// process group: what the kernel allows of all that is little. A session is begun by a process that
// leads it, and children are born into their parent's; a group exists as long as somebody is in it.
//
//     TreePlan plan = plan_tree(members);
//     if (!plan.troubles.empty()) ...                  // this tree cannot be made, and why
//     for (const TreeStep& step : plan.steps) ...
//
//     bash 10 (session 10) -> a 11, ended; b 12 (group 11)      as a shell has them:
//
//     10 makes 11, 10 makes 12, 11 begins a group, 12 joins group 11
//
// Where the leader of a session or group has ended and is gone, a helper with its number stands in
// for it until all are in their places. The first member is there already, and its session and
// group are whatever it was put in: who shares them with it is born into them. Their numbers may be
// 0, those of a pid namespace outside. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "image/image.capnp.h"

namespace telefork::image {

struct TreeMember {
  std::uint32_t id = 0;
  std::uint32_t parent = 0;
  std::uint32_t group = 0;
  std::uint32_t session = 0;
  std::uint32_t exit_signal = 0;
};

struct TreeStep {
  enum class Kind {
    kMake,         // `other` makes `id`, its child
    kMakeSibling,  // `other` makes `id`, a child of its own parent (CLONE_PARENT)
    kNewSession,   // `id` begins one
    kNewGroup,     // `id` begins one
    kJoinGroup,    // `id` joins `other`
    kEnd,          // `id`, a helper, ends, and `other`, its parent, waits for it
  };
  Kind kind;
  std::uint32_t id;
  std::uint32_t other = 0;
  std::uint32_t exit_signal = 0;  // of kMake
  bool operator==(const TreeStep&) const = default;
};

struct TreeTrouble {
  std::uint32_t id;
  std::string why;  // "its session 12 ..."
};

struct TreePlan {
  std::vector<TreeStep> steps;
  std::vector<TreeTrouble> troubles;
  std::vector<std::uint32_t> helpers;
};

constexpr std::size_t kMostMembers = 4096;

// Parents before their children, ids all different: what is not so is a trouble too.
TreePlan plan_tree(std::span<const TreeMember> members);

std::vector<TreeMember> members_of(schema::Tree::Reader tree);

}  // namespace telefork::image
