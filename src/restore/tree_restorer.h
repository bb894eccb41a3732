// Records of an image of one process or of a tree of them to processes: a Restorer for each, none
// of which runs before all are whole.
//
//     TreeRestorer restorer(settings);
//     while (restorer.take(source)) {}        // every record up to the End
//     restorer.finish();                      // all guests are whole, and stopped
//     pid_t pid = restorer.release();         // they run
//
//   Tree record            the decision whose ids they get: this pid namespace's or one of their
//   own first Process record   all processes are made, empty (tree_skeleton.h) a process's records
//   go to its Restorer finish()               each is made whole, in their order; then those that
//   were stopped stop release()              each gets its registers; then all are let go, children
//   first
//
// Until release() all guests die with this process; the destructor kills them.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "image/record_source.h"
#include "restore/restorer.h"
#include "restore/tree_skeleton.h"

namespace telefork::restore {

class TreeRestorer {
 public:
  explicit TreeRestorer(RestoreSettings settings);
  ~TreeRestorer();
  TreeRestorer(const TreeRestorer&) = delete;
  TreeRestorer& operator=(const TreeRestorer&) = delete;

  bool take(image::RecordSource& source);
  void finish();
  // The first one, which the caller reaps from now on.
  pid_t release();

  // As it sees itself.
  pid_t guest_pid() const;
  std::size_t processes() const { return members_.size(); }
  std::optional<PidNamespace> take_namespace();

 private:
  image::schema::Tree::Reader tree() const { return tree_->get<image::schema::Tree>(); }
  RestoreSettings settings_of_later(pid_t pid) const;
  void begin_member(image::Record process, image::RecordSource& source);
  void make_skeleton();
  std::vector<pid_t> all_ids() const;
  void stop_those_that_were();

  RestoreSettings settings_;
  std::shared_ptr<TreeParts> parts_;
  std::optional<image::Record> tree_;
  std::vector<std::unique_ptr<Restorer>> members_;
  std::unique_ptr<TreeSkeleton> skeleton_;
};

}  // namespace telefork::restore
