// The memory of a process goes ahead of it, in rounds, while it runs (Mode::live).
//
//     LiveRounds rounds(link, writer, pid, pagemap);
//     rounds.watch(survey);             // it stands still for an instant, to make a userfaultfd
//     rounds.send();                    // until there is little left, or no end in sight
//     ... it is frozen ...
//     std::vector<Vma> map = rounds.read_map(frozen);   // without the mark of who watches it
//     std::unique_ptr<LivePlan> plan = rounds.plan();
//
// Nothing of that is left in the process when this ends: the only descriptor is here, so that the
// death of this process ends the watch too. Owned by the session process.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <sys/types.h>

#include "capture/live_plan.h"
#include "capture/survey.h"
#include "image/writer.h"
#include "migrate/convergence.h"
#include "migrate/page_rounds.h"
#include "protocol/link.h"
#include "tracee/freezer.h"

namespace telefork::session {

class LiveRounds {
 public:
  // Of what was sent, for people.
  struct Round {
    std::uint64_t pages = 0;  // that were written since the one before
    std::uint64_t sent = 0;   // those that are not zero
    std::uint64_t bytes = 0;
    double ms = 0;  // until the destination had them
  };
  struct Report {
    double watch_ms = 0;  // that it stood still for it
    std::vector<Round> rounds;
    bool converged = false;  // what was left was little
  };

  // All outlive it; the header of the image was written.
  LiveRounds(protocol::Link& link, image::Writer& writer, pid_t pid, kernel::PageMapAbi pagemap)
      : link_(link), writer_(writer), pid_(pid), pagemap_(pagemap) {}

  // Throws kRefused where the process can have no userfaultfd. `looked`: of it, as it runs.
  void watch(const capture::Survey& looked);
  // Throws what ends the session.
  void send();

  // It stands still.
  std::vector<kernel::Vma> read_map(tracee::FrozenProcess& frozen) const;
  std::unique_ptr<capture::LivePlan> plan() const { return rounds_->plan(); }

  const Report& report() const { return report_; }
  // It stood still for a while.
  bool has_stopped() const { return has_stopped_; }

 private:
  UniqueFd make_userfaultfd();
  void tell_areas(const capture::Survey& looked);
  void tell_round(std::uint32_t number, bool last);
  void await_staged(std::uint32_t number);

  protocol::Link& link_;
  image::Writer& writer_;
  pid_t pid_;
  kernel::PageMapAbi pagemap_;
  std::vector<kernel::Vma> map_before_;
  std::unique_ptr<migrate::PageRounds> rounds_;
  Report report_;
  bool has_stopped_ = false;
};

}  // namespace telefork::session
