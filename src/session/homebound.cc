#include "session/homebound.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/writer.h"
#include "kernel/procfs.h"
#include "kernel/procfs_task.h"
#include "session/image_header.h"
#include "tracee/map_flags.h"
#include "tracee/new_fd.h"
#include "tracee/same_cpu.h"
#include "tracee/stub.h"

namespace telefork::session {
namespace {

using image::schema::Header;
using image::schema::Vma;

// Not "mnt", which does not come home (limits.md).
constexpr const char* kNamespaces[] = {"pid", "net",    "user", "ipc",
                                       "uts", "cgroup", "time", "time_for_children"};
constexpr std::uint64_t kWorthAThreadKb = 64 * 1024;
constexpr std::uint64_t kFewPages = 4096;  // 16 MB

bool is_watched(const kernel::Vma& vma) {
  return !vma.shared && !vma.is_vdso_or_vvar() && !vma.is_vsyscall();
}

// All of them, and all that have none: whoever wrote to them there, or dropped them, here nobody
// can have.
capture::ChangedPages shared_pages(const capture::Mapping& mapping, pid_t pid) {
  if (mapping.kind != Vma::Kind::SHARED_ANONYMOUS) return {};
  const kernel::Vma& vma = mapping.vma;
  std::vector<kernel::PageRun> there = kernel::shared_pages(pid, vma);
  std::vector<kernel::PageRun> holes =
      kernel::subtract_runs({{vma.start, vma.size() / kPageSize}}, vma.start, vma.end, there);
  return {std::move(there), std::move(holes)};
}

std::uint64_t count_pages(
    const std::map<std::pair<RemotePtr, RemotePtr>, capture::ChangedPages>& changes) {
  std::uint64_t pages = 0;
  for (const auto& [place, changed] : changes) pages += kernel::count_pages(changed.written);
  return pages;
}

}  // namespace

std::string change_finder_name(protocol::schema::ChangeFinder finder) {
  switch (finder) {
    case protocol::schema::ChangeFinder::WRITE_PROTECTION:
      return "write-protection";
    case protocol::schema::ChangeFinder::HASHES:
      return "hashes";
    default:
      return "";
  }
}

// Or none, where the kernel lacks it or this user may not have it.
void Homebound::make_watch(tracee::Stub& stub) {
  if (following_) {
    watch_ = std::make_unique<kernel::WriteWatch>(guest_, abi_, following_->faults());
    return;
  }
  if (abi_ == kernel::PageMapAbi::kEntries) return;
  UniqueFd taken = tracee::take_new_fd(stub, "making a userfaultfd", SYS_userfaultfd,
                                       {kernel::WriteWatch::flags()});
  if (!taken) return;
  try {
    watch_ = std::make_unique<kernel::WriteWatch>(guest_, abi_, std::move(taken));
  } catch (const Error& error) {
    if (error.code() != Code::kUnsupported) throw;
  }
}

void Homebound::watch_writes(tracee::Stub& stub) {
  for (const char* name : kNamespaces) namespaces_[name] = kernel::read_ns_link(guest_, name);
  tracee::SameCpu turns(stub.thread().tid());
  make_watch(stub);
  if (!watch_) hashes_ = std::make_unique<capture::PageHashes>(guest_, abi_);
  for (const kernel::Vma& vma : kernel::read_maps(guest_)) {
    if (!is_watched(vma) || stub.owns(vma)) continue;
    if (watch_) {
      watch_->begin(vma);
    } else {
      hashes_->begin(vma);
    }
  }
}

void Homebound::freeze(const telefork_snapshot& call) {
  call_ = call;
  frozen_.emplace(tracee::FrozenProcess::freeze(guest_, PTRACE_O_EXITKILL));
  frozen_->thread_seen_as(call_.tid).run_into_system_call(SYS_read);
  check_readable();
  if (following_) following_->settle();
  if (watch_ && kernel::read_status(guest_).anonymous_kb >= kWorthAThreadKb) begin_to_look();
}

void Homebound::place_stub() {
  tracee::TracedThread& caller = frozen_->thread_seen_as(call_.tid);
  tracee::Stub::Options options;
  options.awaited_signals = 0;  // it does not run here again
  stub_.emplace(caller, guest_, options);
}

// The kernel locks the memory map while it looks at the pages: what changes the map comes first. A
// watch of its own is the only flag that no clone has.
void Homebound::begin_to_look() {
  tracee::SameCpu turns(frozen_->thread_seen_as(call_.tid).tid());
  map_ = kernel::read_maps(guest_);
  place_stub();
  tracee::read_flags(*stub_, map_);
  for (kernel::Vma& vma : map_) {
    if (is_watched(vma) && !watch_->is_free(vma)) {
      vma.flags |= static_cast<std::uint64_t>(kernel::VmFlag::kUffdMissing);
    }
  }
  finding_changes_ = std::async(std::launch::async, [this] { return find_all_changes(map_); });
}

// What has not come was not changed. It is asked for ahead of what is there: what comes in between
// is in neither.
capture::ChangedPages Homebound::find_changes(const kernel::Vma& vma) const {
  if (!following_) {
    kernel::WriteWatch::Changes changes = watch_->changes(vma);
    return {std::move(changes.written), std::move(changes.dropped)};
  }
  const std::vector<kernel::PageRun> came = following_->came(vma.start, vma.end);
  kernel::WriteWatch::Changes changes = watch_->changes(vma);
  const auto& present = changes.present;
  std::vector<kernel::PageRun> dropped =
      kernel::unite_runs(changes.dropped, kernel::subtract_runs(came, vma.start, vma.end, present));
  return {
      kernel::unite_runs(changes.written, kernel::intersect_runs(present, following_->moved_to())),
      std::move(dropped)};
}

Homebound::Changes Homebound::find_all_changes(const std::vector<kernel::Vma>& map) const {
  Changes changes;
  for (const kernel::Vma& vma : map) {
    if (is_watched(vma)) changes[{vma.start, vma.end}] = find_changes(vma);
  }
  return changes;
}

capture::ChangedPages Homebound::take_changes_of(const capture::Mapping& mapping) {
  const kernel::Vma& vma = mapping.vma;
  if (auto known = changes_.extract({vma.start, vma.end})) return std::move(known.mapped());
  if (vma.shared) return shared_pages(mapping, guest_);
  return hashes_ ? hashes_->changed(vma) : find_changes(vma);
}

// They are asked for rising.
capture::ChangedPages Homebound::changes_of(const capture::Mapping& mapping) {
  capture::ChangedPages changes = take_changes_of(mapping);
  if (mapping.vma.shared) return changes;
  for (const kernel::PageRun& run : kernel::unite_runs(changes.written, changes.dropped)) {
    kernel::append_run(changed_, run);
  }
  return changes;
}

// By whoever may look at it at all (ptrace_may_access in kernel/ptrace.c).
void Homebound::check_readable() const {
  if (UniqueFd(::open(kernel::mem_path(guest_).c_str(), O_RDONLY | O_CLOEXEC))) return;
  if (errno != EACCES) return;  // it has ended, as will be told
  throw Error(Code::kRefused,
              fmt::format("process {} is undumpable there, and may not be read; have f give "
                          "prctl(PR_SET_DUMPABLE) the value that it had",
                          guest_));
}

void Homebound::send(protocol::Link& link, image::schema::Machine::Reader here) {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kReturn;
  options.namespaces = &namespaces_;
  options.own_fds.insert(session_number_);
  options.streams = streams_;
  options.origins = &origins_;
  if (!map_.empty()) options.map = &map_;
  options.originals = [this](std::uint64_t device, std::uint64_t inode) {
    return files_.find(device, inode);
  };
  capture::Survey survey = capture::survey_process(guest_, options);
  capture::throw_refusals(survey.refusals);
  // Home opens what it does not have open yet, and has to know it by.
  for (std::size_t i = 0; i < survey.files.entries().size(); ++i) {
    const capture::FileEntry& file = survey.files.entries()[i];
    if (file.readable && !survey.files.is_from_elsewhere(file.stat)) survey.files.compute_hash(i);
  }
  // It ends with this process, so it cannot stay bound; nor does its affinity come home.
  std::optional<tracee::SameCpu> turns(std::in_place, frozen_->thread_seen_as(call_.tid).tid());
  if (!stub_) place_stub();
  capture::CaptureSettings settings;
  settings.pagemap = abi_;
  settings.caller = stub_->thread().tid();
  settings.system_call_result = TELEFORK_RETURNED;
  settings.changes = [this](const capture::Mapping& mapping) { return changes_of(mapping); };
  capture::Capture capture(survey, *frozen_, *stub_, settings);
  image::Writer writer(link.record_sink(), link.bulk_sink());
  write_header(Header::Purpose::RETURN, here, writer);
  capture.write_metadata(writer);
  turns.reset();
  if (finding_changes_.valid()) {
    changes_ = finding_changes_.get();
    for (const capture::Mapping& mapping : survey.mappings) {
      const kernel::Vma& vma = mapping.vma;
      if (vma.shared) changes_[{vma.start, vma.end}] = shared_pages(mapping, guest_);
    }
    settings.few_pages = count_pages(changes_) <= kFewPages;
  }
  capture.write_pages(writer);
  writer.end();
}

}  // namespace telefork::session
