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

#include "image/image.capnp.h"
#include "image/tree_plan.h"
#include "restore/blank.h"
#include "restore/tree_parts.h"
#include "tracee/stub.h"

namespace telefork::restore {

class TreeSkeleton {
 public:
  TreeSkeleton(Blank& first, image::schema::Tree::Reader tree, TreeParts& parts);

  // `in_first` is run in the first one before it has children.
  void make(const std::function<void(tracee::Stub&)>& in_first);
  std::unique_ptr<Blank> take(pid_t pid);

 private:
  struct Node {
    Blank* blank = nullptr;
    std::unique_ptr<Blank> owned;  // of all but the first
    std::unique_ptr<tracee::Stub> stub;
  };
  Node& node(std::uint32_t id);
  tracee::Stub& stub_of(std::uint32_t id);
  void map_shared_memory();
  void run(const image::TreeStep& step);
  void make_child(const image::TreeStep& step);
  void end_helper(const image::TreeStep& step);
  void end(image::schema::Member::Reader member);
  void forget_child_signal(std::uint32_t parent);
  void take_terminal(std::uint32_t session);
  void settle_terminals();

  image::schema::Tree::Reader tree_;
  TreeParts& parts_;
  std::map<std::uint32_t, std::uint32_t> parents_;  // of whoever is there
  // The stubs before the blanks that they are in.
  std::map<std::uint32_t, Node> nodes_;
};

}  // namespace telefork::restore
