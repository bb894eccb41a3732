// Records of an image of one process or of a tree of them to processes: a Restorer for each, none
// of which runs before all are whole.
//
//     TreeRestorer restorer(settings);
//     while (restorer.take(source)) {}        // every record up to the End
//     restorer.finish();                      // all guests are whole, and stopped
//     pid_t pid = restorer.release();         // they run
//
//   Tree record            whose ids they get: this pid namespace's or one of their own
//   first Process record   all processes are made, empty (tree_skeleton.h)
//   a process's records    go to its Restorer
//   finish()               each is made whole, in their order; then those that were stopped stop
//   release()              each gets its registers; then all are let go, children first
//
// Where it is known beforehand which pid the first one is to have (`blank.want_pid`), that one is
// made at once; when it turns out to be one of several it is made anew.
//
// Until release() all guests die with this process; the destructor kills them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "image/record_source.h"
#include "restore/restorer.h"
#include "restore/tree_skeleton.h"

namespace telefork::restore {

class TreeRestorer {
 public:
  // One of several that run, its tracer this thread.
  struct Watched {
    pid_t guest_pid;  // as it sees itself
    tracee::StopWatch watch;
  };

  explicit TreeRestorer(RestoreSettings settings);
  ~TreeRestorer();
  TreeRestorer(const TreeRestorer&) = delete;
  TreeRestorer& operator=(const TreeRestorer&) = delete;

  // For who learns only later what they are: before the first record.
  void set_streams(UniqueFd (&&streams)[3]);
  bool take(image::RecordSource& source);
  void finish();
  // The first one, which the caller reaps from now on.
  pid_t release();
  // Of those that were found (RestoreSettings::find_blank): who was killed by now has ended, and
  // the others run. Those that have.
  std::vector<pid_t> release_found();
  // And their way back, of all: see become.h. First those go that were made.
  void end_made();
  tracee::TracedThread become(pid_t pid, const MakeProgram& make);
  // kGone where there is none.
  Restorer& of(pid_t guest_pid);
  // The same, and this thread is told how those behind the first one fare.
  std::vector<Watched> release_watched();

  Restorer& first() { return *members_.front(); }
  // As this process sees it.
  pid_t pid() const { return members_.empty() ? 0 : members_.front()->pid(); }
  // Of each as it sees itself: the process group that it was in, by the number that it had there.
  std::map<pid_t, pid_t> groups_before() const;
  // As it sees itself.
  pid_t guest_pid() const;
  std::size_t processes() const { return members_.size(); }
  std::optional<PidNamespace> take_namespace();

 private:
  image::schema::Tree::Reader tree() const { return tree_->get<image::schema::Tree>(); }
  RestoreSettings settings_of_later(pid_t pid) const;
  void begin_tree(image::Record tree);
  void begin_member(image::Record process, image::RecordSource& source);
  void take_found();
  void make_skeleton();
  std::vector<pid_t> all_ids() const;
  void stop_those_that_were();

  RestoreSettings settings_;
  std::shared_ptr<TreeParts> parts_;
  std::optional<image::Record> tree_;
  bool made_early_ = false;
  std::vector<std::unique_ptr<Restorer>> members_;
  std::function<bool(pid_t)> is_found_;
  TreeSkeleton::Found found_;  // until there is a skeleton
  std::unique_ptr<TreeSkeleton> skeleton_;
};

}  // namespace telefork::restore
