#include "image/tree_plan.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include <fmt/format.h>

namespace telefork::image {
namespace {

using Kind = TreeStep::Kind;

constexpr std::uint32_t kAny = UINT32_MAX;

class Planner {
 public:
  explicit Planner(std::span<const TreeMember> members) : members_(members) {}

  TreePlan make() {
    if (check()) {
      find_births();
      make_all();
      settle_groups();
      end_helpers();
    }
    return std::move(plan_);
  }

 private:
  // A process that there is by now.
  struct Made {
    std::uint32_t session;
    std::uint32_t group;
    std::uint32_t parent;
    std::uint32_t exit_signal;
  };

  const TreeMember& root() const { return members_.front(); }
  bool leads(const TreeMember& member) const {
    return member.id != root().id && member.session == member.id;
  }
  void trouble(std::uint32_t id, std::string why) {
    plan_.troubles.push_back({id, std::move(why)});
  }

  bool check();
  void find_births();
  void make_all();
  void add(Kind kind, std::uint32_t id, std::uint32_t other, std::uint32_t exit_signal);
  void make_child(const TreeMember& child, std::uint32_t maker, Kind kind);
  void make_children(std::uint32_t id, bool older);
  void make_elsewhere(const TreeMember& child);
  void begin_session(std::uint32_t id);
  void begin_group(std::uint32_t id);
  void settle_groups();
  void anchor_group(const TreeMember& member);
  void join(const TreeMember& member);
  void end_helpers();
  bool has_member(std::uint32_t group) const;

  std::span<const TreeMember> members_;
  TreePlan plan_;
  std::map<std::uint32_t, const TreeMember*> by_id_;
  std::map<std::uint32_t, std::vector<const TreeMember*>> children_;
  std::map<std::uint32_t, std::uint32_t> birth_;  // the session to be born into, or kAny
  std::map<std::uint32_t, Made> made_;
  std::deque<std::uint32_t> to_do_;  // whose children are to be made
};

bool Planner::check() {
  if (members_.empty()) trouble(0, "there is no process");
  if (members_.size() > kMostMembers) {
    trouble(root().id,
            fmt::format("it and what has come of it are {} processes, and at most {} can "
                        "go together",
                        members_.size(), kMostMembers));
    return false;
  }
  for (const TreeMember& member : members_) {
    const bool first = by_id_.empty();
    if (member.id == 0 || member.id == kAny) {
      trouble(member.id, "its id is not told");
    } else if (!by_id_.emplace(member.id, &member).second) {
      trouble(member.id, "there are two of it");
    } else if (!first && (member.parent == member.id || !by_id_.contains(member.parent))) {
      trouble(member.id, fmt::format("its parent {} is not among them", member.parent));
    } else if (!first) {
      children_[member.parent].push_back(&member);
    }
  }
  return plan_.troubles.empty();
}

// Who leads a session was born into another one: that of those of its children that are older.
void Planner::find_births() {
  for (auto member = members_.rbegin(); member != members_.rend(); ++member) {
    std::uint32_t& birth = birth_[member->id];
    birth = member->session;
    if (!leads(*member)) continue;
    birth = kAny;
    for (const TreeMember* child : children_[member->id]) {
      const std::uint32_t wanted = birth_[child->id];
      if (wanted != member->id && birth == kAny) birth = wanted;
    }
  }
}

void Planner::add(Kind kind, std::uint32_t id, std::uint32_t other, std::uint32_t exit_signal) {
  plan_.steps.push_back({kind, id, other, exit_signal});
}

void Planner::make_child(const TreeMember& child, std::uint32_t maker, Kind kind) {
  const Made& by = made_.at(maker);
  add(kind, child.id, maker, child.exit_signal);
  made_[child.id] = {by.session, by.group, child.parent, child.exit_signal};
  to_do_.push_back(child.id);
}

// Those that are to be born into the session that the process is in now. `older`: it begins another
// one afterwards, where whoever may be born anywhere is born.
void Planner::make_children(std::uint32_t id, bool older) {
  const std::uint32_t session = made_.at(id).session;
  for (const TreeMember* child : children_[id]) {
    const std::uint32_t birth = birth_[child->id];
    if (birth == session || (birth == kAny && !older)) make_child(*child, id, Kind::kMake);
  }
}

void Planner::begin_session(std::uint32_t id) {
  add(Kind::kNewSession, id, 0, 0);
  made_.at(id).session = made_.at(id).group = id;
}

void Planner::begin_group(std::uint32_t id) {
  add(Kind::kNewGroup, id, 0, 0);
  made_.at(id).group = id;
}

// Its parent is not in the session that it is in: the leader made it, or would have made it, as a
// child of its own parent.
void Planner::make_elsewhere(const TreeMember& child) {
  const std::uint32_t session = birth_[child.id];
  if (session == 0 || session == root().id) {
    return trouble(child.id, "its session is another one than its parent's, and cannot be begun");
  }
  auto leader = made_.find(session);
  if (leader == made_.end() && !by_id_.contains(session)) {
    add(Kind::kMake, session, child.parent, child.exit_signal);
    const Made& parent = made_.at(child.parent);
    made_[session] = {parent.session, parent.group, child.parent, child.exit_signal};
    plan_.helpers.push_back(session);
    begin_session(session);
    leader = made_.find(session);
  }
  if (leader == made_.end() || leader->second.parent != child.parent ||
      leader->second.session != session) {
    return trouble(child.id, fmt::format("it is in session {}, and its parent {} is not", session,
                                         child.parent));
  }
  if (leader->second.exit_signal != child.exit_signal) {
    return trouble(child.id, fmt::format("it ends with signal {}, unlike others of session {}",
                                         child.exit_signal, session));
  }
  make_child(child, session, Kind::kMakeSibling);
}

void Planner::make_all() {
  made_[root().id] = {root().session, root().group, 0, 0};
  to_do_.push_back(root().id);
  for (;;) {
    while (!to_do_.empty()) {
      const std::uint32_t id = to_do_.front();
      to_do_.pop_front();
      const bool begins = leads(*by_id_.at(id));
      make_children(id, begins);
      if (!begins) continue;
      begin_session(id);
      make_children(id, false);
    }
    auto left = std::find_if(members_.begin(), members_.end(), [this](const TreeMember& member) {
      return !made_.contains(member.id) && made_.contains(member.parent);
    });
    if (left == members_.end()) return;
    make_elsewhere(*left);
    if (!plan_.troubles.empty()) return;
  }
}

bool Planner::has_member(std::uint32_t group) const {
  return std::any_of(made_.begin(), made_.end(),
                     [&](const auto& entry) { return entry.second.group == group; });
}

// Somebody has to be in it first: its leader, who may have gone to another one since.
void Planner::anchor_group(const TreeMember& member) {
  const std::uint32_t group = member.group;
  if (group == root().group || has_member(group)) return;
  if (group == 0 || group == root().id) {
    return trouble(member.id, fmt::format("its process group {} cannot be begun", group));
  }
  if (!made_.contains(group)) {
    add(Kind::kMake, group, member.id, 0);
    const Made& by = made_.at(member.id);
    made_[group] = {by.session, by.group, member.id, 0};
    plan_.helpers.push_back(group);
  }
  if (made_.at(group).session == group) return;  // it cannot leave the one that it leads
  begin_group(group);
}

void Planner::join(const TreeMember& member) {
  Made& made = made_.at(member.id);
  if (made.group == member.group) return;
  auto there = std::find_if(made_.begin(), made_.end(),
                            [&](const auto& entry) { return entry.second.group == member.group; });
  // Who is in the first process's was born into it.
  if (there == made_.end() || there->second.session != made.session || made.session == member.id ||
      member.group == root().group) {
    return trouble(member.id,
                   fmt::format("its process group {} is in another session", member.group));
  }
  add(Kind::kJoinGroup, member.id, member.group, 0);
  made.group = member.group;
}

void Planner::settle_groups() {
  if (!plan_.troubles.empty()) return;
  for (const TreeMember& member : members_) {
    if (made_.at(member.id).group != member.group) anchor_group(member);
  }
  if (!plan_.troubles.empty()) return;
  // Whoever holds a group for others goes last.
  for (const bool holders : {false, true}) {
    for (const TreeMember& member : members_) {
      const bool holds = made_.at(member.id).group == member.id && member.group != member.id;
      if (holds == holders && member.id != root().id) join(member);
    }
  }
}

void Planner::end_helpers() {
  for (const std::uint32_t id : plan_.helpers) {
    add(Kind::kEnd, id, made_.at(id).parent, made_.at(id).exit_signal);
  }
}

}  // namespace

TreePlan plan_tree(std::span<const TreeMember> members) { return Planner(members).make(); }

std::vector<TreeMember> members_of(schema::Tree::Reader tree) {
  std::vector<TreeMember> members;
  for (schema::Member::Reader member : tree.getMembers()) {
    members.push_back({member.getPid(), member.getPpid(), member.getPgid(), member.getSid(),
                       member.getExitSignal()});
  }
  return members;
}

}  // namespace telefork::image
