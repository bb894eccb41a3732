#include "session/live_rounds.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include <capnp/message.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "kernel/write_watch.h"
#include "tracee/freezer.h"
#include "tracee/map_flags.h"
#include "tracee/new_fd.h"
#include "tracee/stub.h"

namespace telefork::session {
namespace {

using Clock = std::chrono::steady_clock;
using protocol::schema::Message;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void write_area(const kernel::Vma& area, image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto record = message.initRoot<image::schema::Vma>();
  record.setStart(area.start.value());
  record.setEnd(area.end.value());
  record.setProtection(static_cast<std::uint32_t>(area.protection()));
  record.setKind(image::schema::Vma::Kind::ANONYMOUS);
  record.setFlags(area.flags);
  sink.write(image::RecordType::kVma, message);
}

void fill_ids(pid_t pid, image::schema::Round::Builder round) {
  std::vector<std::uint32_t> ids;
  for (const pid_t tid : kernel::list_threads(pid)) {
    try {
      const auto id = static_cast<std::uint32_t>(kernel::read_status(tid).ns_pids.back());
      ids.insert(tid == pid ? ids.begin() : ids.end(), id);
    } catch (const Error& error) {
      // A thread that has ended needs none; of the process it is told elsewhere.
      if (error.code() != Code::kGone) throw;
    }
  }
  auto list = round.initIds(static_cast<unsigned>(ids.size()));
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, ids[i]);
}

}  // namespace

UniqueFd LiveRounds::make_userfaultfd() {
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(pid_, 0);
  has_stopped_ = true;
  frozen.suspend_seccomp();
  // It stops once more.
  frozen.make_calls_again();
  tracee::Stub stub(frozen.leader(), pid_, {});
  UniqueFd taken = tracee::take_new_fd(stub, "making a userfaultfd", SYS_userfaultfd,
                                       {kernel::WriteWatch::flags()});
  const int error = errno;
  stub.remove();
  if (!taken) {
    throw Error(Code::kRefused,
                fmt::format("mode live: process {} can have no userfaultfd ({}); use mode eager",
                            pid_, ::strerrordesc_np(error)));
  }
  return taken;
}

void LiveRounds::watch(const capture::Survey& looked) {
  const Clock::time_point start = Clock::now();
  UniqueFd userfaultfd = make_userfaultfd();
  report_.watch_ms = ms_since(start);
  rounds_ = std::make_unique<migrate::PageRounds>(pid_, pagemap_, std::move(userfaultfd),
                                                  capture::areas_to_watch(looked));
  for (const capture::Mapping& mapping : looked.mappings) map_before_.push_back(mapping.vma);
  tell_areas(looked);
}

void LiveRounds::tell_areas(const capture::Survey& looked) {
  ::capnp::MallocMessageBuilder message;
  auto round = message.initRoot<image::schema::Round>();
  fill_ids(pid_, round);
  std::vector<kernel::PageRun> taken;
  for (const capture::Mapping& mapping : looked.mappings) {
    const kernel::Vma& vma = mapping.vma;
    if (!vma.is_vsyscall()) kernel::append_run(taken, {vma.start, vma.size() / kPageSize});
  }
  auto runs = round.initTaken(static_cast<unsigned>(taken.size()));
  for (unsigned i = 0; i < runs.size(); ++i) {
    runs[i].setStart(taken[i].start.value());
    runs[i].setPages(taken[i].pages);
  }
  writer_.write(image::RecordType::kRound, message);
  for (const kernel::Vma& area : rounds_->areas()) write_area(area, writer_);
}

void LiveRounds::tell_round(std::uint32_t number, bool last) {
  ::capnp::MallocMessageBuilder message;
  auto round = message.initRoot<image::schema::Round>();
  round.setNumber(number);
  round.setLast(last);
  writer_.write(image::RecordType::kRound, message);
}

void LiveRounds::await_staged(std::uint32_t number) {
  const protocol::ReceivedMessage staged = link_.expect_while_heard(Message::STAGED);
  if (staged->getStaged() != number) protocol::throw_unexpected(staged, "another round's");
}

void LiveRounds::send() {
  migrate::Convergence convergence;
  await_staged(0);
  bool goes_on = true;
  for (std::uint32_t number = 1; goes_on; ++number) {
    const Clock::time_point start = Clock::now();
    const std::uint64_t bytes_before = writer_.totals().bytes;
    const migrate::PageRounds::Round sent = rounds_->send(writer_, [this] { link_.flush_some(); });
    tell_round(number, false);
    await_staged(number);
    const Clock::duration took = Clock::now() - start;
    report_.rounds.push_back({sent.pages, sent.sent, writer_.totals().bytes - bytes_before,
                              std::chrono::duration<double, std::milli>(took).count()});
    goes_on = convergence.goes_on(sent.pages, took);
  }
  tell_round(static_cast<std::uint32_t>(report_.rounds.size()) + 1, true);
  link_.flush_some();
  report_.converged = convergence.converged();
}

// Of a large process the kernel takes 30 ns a page to tell all flags, which here nobody has.
std::vector<kernel::Vma> LiveRounds::read_map(tracee::FrozenProcess& frozen) const {
  constexpr std::uint64_t kWorthAClone = 32 * 1024;
  std::vector<kernel::Vma> map = kernel::read_maps(pid_);
  if (kernel::read_status(pid_).anonymous_kb < kWorthAClone) {
    map = kernel::read_smaps(pid_);
  } else {
    tracee::Stub::Options options;
    options.map = &map;
    tracee::Stub stub(frozen.leader(), pid_, options);
    tracee::read_flags_of_running(stub, map_before_, map);
    stub.remove();
  }
  // Whoever watches it is here.
  const std::vector<kernel::Vma>& areas = rounds_->areas();
  auto area = areas.begin();
  for (kernel::Vma& vma : map) {
    while (area != areas.end() && area->end <= vma.start) ++area;
    const bool is_watched = area != areas.end() && area->start < vma.end;
    if (is_watched) vma.flags &= ~static_cast<std::uint64_t>(kernel::VmFlag::kUffdWp);
  }
  return map;
}

}  // namespace telefork::session
