#include "restore/homecoming.h"

#include <algorithm>
#include <span>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "restore/siginfo.h"
#include "restore/steps.h"
#include "tracee/fd_passing.h"
#include "tracee/memory.h"
#include "tracee/pending_signals.h"

namespace telefork::restore {

using image::RecordType;
using tracee::SyscallProgram;

namespace {

std::vector<std::uint32_t> numbers_of(::capnp::List<std::uint32_t>::Reader list) {
  std::vector<std::uint32_t> numbers;
  for (std::uint32_t number : list) numbers.push_back(number);
  return numbers;
}

}  // namespace

Homecoming::Homecoming(tracee::ParkedProcess& parked, HomecomingSettings settings)
    : parked_(parked), settings_(std::move(settings)), huge_(parked.stub(), settings_.moves_pages) {
  int fd = ::memfd_create("telefork-pages", MFD_CLOEXEC);
  if (fd < 0) throw_errno("making a memory file", Code::kResources);
  pages_ = UniqueFd(fd);
}

image::schema::Process::Reader Homecoming::process() const {
  return process_->get<image::schema::Process>();
}

bool Homecoming::take(image::RecordSource& source) {
  try {
    return take_record(source);
  } catch (const Error&) {
    take_back();
    throw;
  }
}

bool Homecoming::take_record(image::RecordSource& source) {
  image::Record record = source.next();
  switch (record.type()) {
    case RecordType::kHeader: {
      auto header = record.get<image::schema::Header>();
      returns_ = header.getPurpose() == image::schema::Header::Purpose::RETURN;
      same_boot_ = header.getMachine().getBootId() == kernel::read_boot_id().c_str();
      break;
    }
    case RecordType::kProcess:
      process_ = std::move(record);
      break;
    case RecordType::kFileContent:
      contents_.take(record, source);
      break;
    case RecordType::kVma:
      if (maps_are_known_) throw Error(Code::kCorrupt, "a mapping behind the first page");
      vma_records_.push_back(std::move(record));
      break;
    case RecordType::kFiles:
      files_ = std::move(record);
      break;
    case RecordType::kSignals:
      signals_ = std::move(record);
      break;
    case RecordType::kTimers:
      timers_ = std::move(record);
      break;
    case RecordType::kThreads:
      threads_.push_back(std::move(record));
      break;
    case RecordType::kPages:
      take_pages(record, source);
      break;
    case RecordType::kFreezeMark:
      break;
    case RecordType::kEnd:
      end_reception();
      complete_ = true;
      return false;
    default:
      throw Error(Code::kCorrupt, fmt::format("an image of a process holds a record of type {}",
                                              image::record_type_name(record.type())));
  }
  return true;
}

void Homecoming::check() const {
  if (!complete_ || !process_ || !files_ || !signals_ || !timers_) {
    throw Error(Code::kCorrupt, "the image of the way home is not complete");
  }
  if (!returns_) throw Error(Code::kCorrupt, "the image is not one of the way home");
  if (process().getPid() != parked_.stub().own_pid()) {
    throw Error(Code::kCorrupt, fmt::format("the image is one of process {}, not of {}",
                                            process().getPid(), parked_.stub().own_pid()));
  }
  if (settings_.same_user) check_user();
}

void Homecoming::check_user() const {
  kernel::Status here = kernel::read_status(parked_.pid());
  auto there = process().getCredentials();
  const std::vector<uid_t> users = numbers_of(there.getUids());
  const std::vector<gid_t> groups = numbers_of(there.getGids());
  if (users.size() != here.uids.size() || groups.size() != here.gids.size()) {
    throw Error(Code::kCorrupt, "credentials lack ids");
  }
  if (!std::ranges::equal(users, here.uids) || !std::ranges::equal(groups, here.gids)) {
    throw Error(
        Code::kRefused,
        fmt::format("it has other ids there than here (users {}, groups {}), which do not come "
                    "home; have f take those that it had (setresuid(2), setresgid(2))",
                    fmt::join(users, " "), fmt::join(groups, " ")));
  }
  // Only root's can have changed, and arrive as they were.
  const std::vector<gid_t> others = numbers_of(there.getGroups());
  if (here.uids[1] != 0 || others == here.groups) return;
  throw Error(Code::kRefused,
              fmt::format("it has other supplementary groups there than here ({}), which do not "
                          "come home; have f take those that it had (setgroups(2))",
                          fmt::join(others, " ")));
}

// To be undone while it is held, by the tracer or without one. In the order in which they are told.
void Homecoming::reverse_by(long number, std::initializer_list<tracee::Argument> arguments) {
  reversal_.call_any("taking back", number, arguments);
}

void Homecoming::tell_reversal() { parked_.set_undo(reversal_.as_undo()); }

// Its number in the process; -1: that has none left.
int Homecoming::try_give(int fd) {
  int there = -1;
  try {
    there = tracee::give_fds(parked_.stub(), settings_.our_socket, settings_.their_socket,
                             std::span(&fd, 1))
                .at(0);
  } catch (const Error& error) {
    if (error.code() != Code::kResources) throw;
    return -1;
  }
  reverse_by(SYS_close, {there});
  tell_reversal();
  return there;
}

void Homecoming::run(SyscallProgram& program, bool always) {
  if (program.empty() || (!always && program.loaded_size() < kLongProgram)) return;
  parked_.stub().run(program);
  program = SyscallProgram();
}

void Homecoming::prepare() {
  if (!maps_are_known_) learn_maps();
  sort_what_came();
  read_threads();
  check_threads();
  find_locks();
  with_context("making room for its memory", [&] {
    grow_heap();
    grow_stacks();
  });
  plan_memory();
  with_context("opening its files", [&] {
    plan_descriptors();
    set_flags();
    give_files();
    give_watch();
  });
  with_context("mapping its memory", [&] {
    map_pieces();
    fill_staged();
    make_present();
  });
  with_context("bringing its threads home", [&] {
    begin_threads();
    release_rseq();
  });
  with_context("bringing its timers and signals home", [&] {
    plan_timers();
    check_room_for_signals();
  });
  SyscallProgram permissions;
  add_permissions(process(), permissions);
  run(permissions);
}

void Homecoming::build_last_program(SyscallProgram& program) {
  add_memory(program);
  // What telefork itself writes is written here alone.
  add_watch(program);
  add_thread_ids(program);
  add_process_settings(process(), program);
  auto signals = signals_->get<image::schema::Signals>();
  // In this order: to ignore a signal drops those that are pending.
  add_signal_actions(signals, true, program);
  add_descriptors(program);
  add_timers(program);
  std::vector<siginfo_t> pending;
  for (::capnp::Data::Reader bytes : signals.getPending()) {
    pending.push_back(decode_siginfo(bytes));
  }
  pending.insert(pending.end(), undelivered_.begin(), undelivered_.end());
  tracee::add_queueing_ahead(pending, parked_.stub(), program);
}

// Whatever of it was done. The first error is the one that matters.
void Homecoming::take_back() {
  if (place_before_) parked_.stub().set_place(std::move(place_before_));
  try {
    parked_.forget_futures();
    parked_.dismiss_adopted();
    retake_rseq();
    run(reversal_);
    parked_.set_undo(SyscallProgram());
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
  }
}

void Homecoming::apply(std::vector<siginfo_t> signals) {
  undelivered_ = std::move(signals);
  SyscallProgram last;
  try {
    check();
    prepare();
    set_futures();
    build_last_program(last);
  } catch (const Error&) {
    take_back();
    throw;
  }
  parked_.commit(std::move(last));
}

}  // namespace telefork::restore
