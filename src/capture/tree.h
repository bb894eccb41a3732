// A process and what has come of it: its children, theirs, and so on, found out and captured as
// one.
//
//     TreeSurvey tree = survey_tree(pid, options);
//     throw_refusals(tree.refusals);
//     ... freeze them, survey_tree() again ...
//     write_tree(tree, sink);                        // the Tree record; none of one process alone
//     for (std::size_t i = 0; i < tree.members.size(); ++i) {
//       CommonPart common(tree, i);                  // its survey is whole for as long
//       Capture capture(tree.members[i], frozen, stub, settings_of(tree, i, settings));
//       ...
//     }
//
// What several processes have in common (files, open descriptions, pipes, sockets, shared memory)
// is looked at once, and is the first one's. Only while all are frozen is the tree one that was
// there at one instant.
#pragma once

#include <cstddef>
#include <set>
#include <vector>

#include "capture/capture.h"
#include "capture/survey.h"
#include "image/record_sink.h"

namespace telefork::capture {

// One that has ended, and that its parent has not waited for.
struct EndedMember {
  kernel::Stat stat;
  kernel::Status status;
};

struct TreeSurvey {
  std::vector<Survey> members;  // those that live, parents before their children
  std::vector<EndedMember> ended;
  Refusals refusals;  // of all
  // Of frozen ones: those that a signal had stopped, which only their tracer knows.
  std::set<pid_t> stopped;

  bool alone() const { return members.size() == 1 && ended.empty(); }
  Survey& first() { return members.front(); }
  const Survey& first() const { return members.front(); }
  std::set<pid_t> pids() const;
  // As Survey::left_home; of several each tells whose it is.
  std::vector<std::string> left_home() const;
};

// Parents before their children. kGone where there is no such process.
std::vector<pid_t> list_tree(pid_t pid);

// For a purpose that takes no children with it: `pid` alone.
TreeSurvey survey_tree(pid_t pid, const SurveyOptions& options, Survey earlier = {});

void write_tree(const TreeSurvey& tree, image::RecordSink& sink);
CaptureSettings settings_of(const TreeSurvey& tree, std::size_t member, CaptureSettings settings);

class CommonPart {
 public:
  CommonPart(TreeSurvey& tree, std::size_t member);
  CommonPart(const CommonPart&) = delete;
  CommonPart& operator=(const CommonPart&) = delete;
  ~CommonPart();

 private:
  TreeSurvey& tree_;
  std::size_t member_;
};

}  // namespace telefork::capture
