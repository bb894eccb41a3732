// A process to a file: `telefork save`.
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
#include "image/byte_stream.h"
#include "image/totals.h"
#include "kernel/pagemap.h"
#include "kernel/yama.h"
#include "tracee/freezer.h"

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
  // Asked between pieces; true: give up.
  std::function<bool()> interrupted;
  int interrupt_fd = -1;  // readable: `interrupted` is to be asked
};

struct SaveReport {
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
  capture::Survey survey(const capture::Survey* before) const;
  void settle_files(capture::Survey& survey, const capture::Survey* before) const;
  image::Totals write_image(const capture::Survey& survey, tracee::FrozenProcess& frozen,
                            image::ByteSink& file) const;
  void give_way() const;
  tracee::FrozenProcess freeze(bool suspends_seccomp);

  SaveSettings settings_;
  bool frozen_ = false;
};

// Survey of a process that is asked for by its number: where there is none, or it may not be looked
// at, that is a refusal like any other.
capture::Survey survey_by_pid(pid_t pid, const capture::SurveyOptions& options,
                              capture::Survey earlier = {});

}  // namespace telefork::migrate
