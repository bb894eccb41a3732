// A process, and what has come of it, to a file: `telefork save`.
//
//     Save save(settings);
//     SaveReport report = save.run();
//
//   survey, hash the files     it runs; refusals are told here, all at once
//   freeze, survey again       what it is now
//   image, commit              the file has its name only now, and is on the disk
//   kill, or thaw              `keep`
//
// Whatever fails before the commit (a full disk, an interruption, the process's death) leaves no
// file, and a process that runs on: freeze_undone() tells that it was frozen meanwhile. Owned by
// one thread, which traces the process.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <sys/types.h>

#include "capture/survey.h"
#include "capture/tree.h"
#include "image/byte_stream.h"
#include "image/totals.h"
#include "kernel/pagemap.h"
#include "kernel/yama.h"
#include "tracee/frozen_tree.h"

namespace telefork::migrate {

struct SaveSettings {
  pid_t pid = 0;
  std::string path;
  std::string creator;       // "telefork 0.1.0", for the header
  bool keep = false;         // the process runs on afterwards
  bool embed_files = false;  // the content of its files travels too
  bool copy_shared = false;
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  kernel::TraceBar trace_bar = kernel::TraceBar::kNone;
  std::vector<std::string> own_namespaces;  // capture::SurveyOptions has them
  // Asked between pieces; true: give up.
  std::function<bool()> interrupted;
  int interrupt_fd = -1;  // readable: `interrupted` is to be asked
};

struct SaveReport {
  std::size_t processes = 1;
  image::Totals totals;
  double freeze_ms = 0;  // from the freeze to the thaw, or to the kill
  double total_ms = 0;
};

class Save {
 public:
  explicit Save(SaveSettings settings) : settings_(std::move(settings)) {}

  SaveReport run();
  // After an Error: the process was frozen, and runs again.
  bool freeze_undone() const { return frozen_; }

 private:
  capture::TreeSurvey survey(const capture::Survey* before) const;
  void settle_files(capture::TreeSurvey& tree, const capture::Survey* before) const;
  image::Totals write_image(capture::TreeSurvey& tree, tracee::FrozenTree& frozen,
                            image::ByteSink& file) const;
  void write_member(capture::TreeSurvey& tree, std::size_t member, tracee::FrozenProcess& frozen,
                    image::RecordSink& sink) const;
  void give_way() const;
  tracee::FrozenTree freeze(bool alone);
  std::uint64_t options_of(pid_t pid);
  void check_seccomp(const capture::TreeSurvey& tree) const;

  SaveSettings settings_;
  bool frozen_ = false;
  std::set<pid_t> under_seccomp_;  // when they were frozen
};

// Survey of a process that is asked for by its number: where there is none, or it may not be looked
// at, that is a refusal like any other.
capture::Survey survey_by_pid(pid_t pid, const capture::SurveyOptions& options,
                              capture::Survey earlier = {});
// The same of all that has come of it, where they go along.
capture::TreeSurvey survey_tree_by_pid(pid_t pid, const capture::SurveyOptions& options,
                                       capture::Survey earlier = {});

}  // namespace telefork::migrate
