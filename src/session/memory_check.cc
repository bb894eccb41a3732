#include "session/memory_check.h"

#include <optional>

#include <fmt/format.h>
#include <unistd.h>

#include "capture/wanted_memory.h"
#include "image/format.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_system.h"
#include "restore/segments.h"
#include "restore/vma_rules.h"

namespace telefork::session {
namespace {

using capture::Refusal;
using capture::Refusals;
using image::schema::Segment;
using protocol::schema::HugePages;
using protocol::schema::Message;
using protocol::schema::WantedMemory;

void fill_wanted(const capture::WantedMemory& memory, WantedMemory::Builder wanted) {
  auto pages = wanted.initHugePages(static_cast<unsigned>(memory.huge_pages.size()));
  unsigned at = 0;
  for (const auto& [shift, count] : memory.huge_pages) {
    pages[at].setShift(static_cast<std::uint8_t>(shift));
    pages[at++].setCount(count);
  }
  auto segments = wanted.initSegments(static_cast<unsigned>(memory.segments.size()));
  for (unsigned i = 0; i < segments.size(); ++i) {
    segments[i].setId(memory.segments[i].id);
    segments[i].setKey(memory.segments[i].key);
  }
  wanted.setBootId(kernel::read_boot_id());
  wanted.setIpcNamespace(kernel::read_ns_link(::getpid(), "ipc"));
}

std::optional<Refusal> refuse_pages(HugePages::Reader wanted, const std::string& place) {
  const unsigned shift = wanted.getShift();
  if (shift < 10 || shift > image::kMostHugeShift)
    return std::nullopt;  // the image has none either
  const std::uint64_t free =
      kernel::try_read_huge_page_pool(shift).value_or(kernel::HugePagePool()).available();
  if (wanted.getCount() <= free) return std::nullopt;
  return Refusal{"hugetlb memory",
                 fmt::format("it takes {} pages of {} kB, and {} are free {}", wanted.getCount(),
                             (std::uint64_t{1} << shift) / 1024, free, place),
                 fmt::format("have root raise {} {}", restore::huge_pages_setting(shift), place)};
}

std::optional<Refusal> refuse_segment(Segment::Reader segment, bool same_place,
                                      const std::string& place) {
  const auto taken = restore::find_segment_in_the_way(segment);
  const std::string what =
      fmt::format("System V memory (id {}, key {:#x})", segment.getId(), segment.getKey());
  if (!taken) {
    if (restore::may_choose_segment_ids()) return std::nullopt;
    return Refusal{what, fmt::format("to choose an id takes root {} (shm_next_id)", place), ""};
  }
  if (same_place && taken->id == segment.getId()) {
    return Refusal{
        what, "the process itself has it until it has gone, and the destination is this machine",
        "move it to another one"};
  }
  return Refusal{what,
                 fmt::format("its {} is taken {}, by {}", taken->name, place, taken->description),
                 fmt::format("`ipcrm -m {}` {}, if nobody needs that", taken->id, place)};
}

}  // namespace

void say_wanted_memory(const capture::TreeSurvey& tree, WantedMemory::Builder wanted) {
  fill_wanted(capture::find_wanted_memory(tree), wanted);
}

Refusals find_lacking_memory(const WantedMemory::Reader& wanted, const std::string& place) {
  Refusals refusals;
  for (HugePages::Reader pages : wanted.getHugePages()) {
    if (auto refusal = refuse_pages(pages, place)) refusals.push_back(std::move(*refusal));
  }
  const bool same_place = wanted.getBootId() == kernel::read_boot_id() &&
                          wanted.getIpcNamespace() == kernel::read_ns_link(::getpid(), "ipc");
  for (Segment::Reader segment : wanted.getSegments()) {
    if (auto refusal = refuse_segment(segment, same_place, place)) {
      refusals.push_back(std::move(*refusal));
    }
  }
  return refusals;
}

Refusals ask_about_memory(const capture::TreeSurvey& tree,
                          const protocol::schema::HelloReply::Reader& reply, protocol::Link& link) {
  if (!protocol::offers(reply, protocol::kFeatureMemory)) return {};
  const capture::WantedMemory memory = capture::find_wanted_memory(tree);
  if (memory.empty()) return {};
  link.send([&](Message::Builder message) { fill_wanted(memory, message.initCheckMemory()); });
  const protocol::ReceivedMessage answer = link.expect_while_heard(Message::CHECK_MEMORY_REPLY);
  Refusals refusals;
  for (auto refusal : answer->getCheckMemoryReply().getRefusals()) {
    refusals.push_back({refusal.getWhat(), refusal.getWhy(), refusal.getRemedy()});
  }
  return refusals;
}

void answer_about_memory(const WantedMemory::Reader& wanted, protocol::Link& link) {
  const Refusals lacking = find_lacking_memory(wanted, "there");
  link.send([&](Message::Builder message) {
    auto refusals =
        message.initCheckMemoryReply().initRefusals(static_cast<unsigned>(lacking.size()));
    for (unsigned i = 0; i < refusals.size(); ++i) {
      refusals[i].setWhat(lacking[i].what);
      refusals[i].setWhy(lacking[i].why);
      refusals[i].setRemedy(lacking[i].remedy);
    }
  });
}

}  // namespace telefork::session
