// The processes of a tree before anything is in them: each a blank, with its parent, its session,
// its process group and its ids, and those that had ended ended again.
//
//     TreeSkeleton skeleton(first, tree, parts);     // `first` is a blank without a stub
//     skeleton.make();
//     std::unique_ptr<Blank> child = skeleton.take(pid);
//
// A child is made by its parent, which runs clone3(2) for that in a stub that is there only as
// long: so it is its parent's child from birth, dies with this process as its parent does
// (PTRACE_O_EXITKILL), and has the shared memory of the tree, which the first one mapped before it
// had any child. In which order is image/tree_plan.h's to say.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>

#include "image/image.capnp.h"
#include "image/tree_plan.h"
#include "restore/blank.h"
#include "restore/tree_parts.h"
#include "tracee/stub.h"

namespace telefork::restore {

// Of those that were there already (`found`) each is in its place, or is brought there; only the
// others are made. Whoever is in another place then than the image says is refused: its parent at
// home may have been another one.
class TreeSkeleton {
 public:
  using Found = std::map<pid_t, std::unique_ptr<Blank>>;
  TreeSkeleton(Blank& first, image::schema::Tree::Reader tree, TreeParts& parts, Found&& found);

  // `in_first` is run in the first one before it has children.
  void make(const std::function<void(tracee::Stub&)>& in_first);
  std::unique_ptr<Blank> take(pid_t pid);
  // Gives up: what was made and not taken ends. Those that were found, and not taken, can be.
  void give_up();

 private:
  struct Node {
    Blank* blank = nullptr;
    std::unique_ptr<Blank> owned;  // of all but the first
    std::unique_ptr<tracee::Stub> stub;
  };
  Node& node(std::uint32_t id);
  tracee::Stub& stub_of(std::uint32_t id);
  void map_shared_memory();
  void know_shared_memory();
  void know_sharers();
  std::uint64_t sharing_flags(std::uint32_t id) const;
  bool is_in_place(const image::TreeStep& step);
  bool is_there(std::uint32_t group_or_session) const;
  void join_first();
  void check_places();
  void run(const image::TreeStep& step);
  void make_child(const image::TreeStep& step);
  void end_helper(const image::TreeStep& step);
  void reap(std::uint32_t parent, pid_t child);
  void end(image::schema::Member::Reader member);
  void forget_child_signal(std::uint32_t parent);
  // skeleton_terminals.cc
  using Terminal = image::schema::SessionTerminal::Reader;
  void take_back_terminals();
  void take_back(Terminal terminal);
  void drop_terminal(std::uint32_t session, const UniqueFd& master);
  void take_terminals_of(std::uint32_t session);
  void take_terminal(Terminal terminal);
  void settle_terminals();
  bool has_terminal(std::uint32_t id);
  void run_on_terminal(std::uint32_t id, unsigned long request, std::optional<pid_t> argument);
  void without_signals(const UniqueFd& master, std::span<const int> signals,
                       const std::function<void()>& act);

  image::schema::Tree::Reader tree_;
  TreeParts& parts_;
  std::map<std::uint32_t, std::uint32_t> parents_;  // of whoever is there
  // The stubs before the blanks that they are in.
  std::map<std::uint32_t, Node> nodes_;
  std::set<std::uint32_t> found_;  // the first among them, where any was
  // Leaders that have ended, and whose session or group is there.
  std::set<std::uint32_t> needless_;
};

}  // namespace telefork::restore
