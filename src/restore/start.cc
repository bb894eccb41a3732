// The blank process, and room in its address space for what it will be.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <span>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_maps.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"
#include "kernel/time_namespace.h"
#include "restore/clocks.h"
#include "restore/id_holder.h"
#include "restore/restorer.h"
#include "restore/siginfo.h"
#include "restore/steps.h"
#include "restore/try_id.h"
#include "tracee/memory.h"
#include "tracee/same_cpu.h"

namespace telefork::restore {
namespace {

using image::RecordType;
using image::schema::Vma;
using tracee::Result;
using tracee::SyscallProgram;

constexpr std::size_t kStubData = 512 * 1024;   // at first; the stub makes more
constexpr std::size_t kPerThread = 16 * 1024;   // a thread's program and stack
constexpr std::uint64_t kManyThreads = 16'384;  // for more the stub makes room when it is needed

std::string describe_taken(const char* what, pid_t id, const std::string& holder) {
  return fmt::format("{} id {} is taken here{}", what, id, holder);
}

// The blank enters it by itself: unshare(2) makes it for the children alone, and its offsets can be
// set until the first process is in it. 0, or an errno: EPERM without CAP_SYS_ADMIN and
// CAP_SYS_TIME, ERANGE where a clock would be negative; then its clocks are the machine's.
int enter_time_namespace(const kernel::TimeNamespaceOffsets& offsets, tracee::Stub& stub) {
  const std::string text = kernel::format_timens_offsets(offsets);
  SyscallProgram program;
  program.call("making a time namespace", SYS_unshare, {kernel::kCloneNewTime});
  Result file = program.call("opening its offsets", SYS_openat,
                             {AT_FDCWD, program.text(kernel::kOwnTimeOffsetsPath), O_WRONLY, 0});
  // Whatever comes of it the file is closed.
  Result written =
      program.call_any("setting its offsets", SYS_write, {file, program.text(text), text.size()});
  program.call("closing its offsets", SYS_close, {file});
  tracee::ProgramRun run = stub.try_run(program);
  if (run.failed() != tracee::kStubDone) return static_cast<int>(-run.result({run.failed()}));
  if (run.result(written) < 0) return static_cast<int>(-run.result(written));
  SyscallProgram entering;
  Result space =
      entering.call("opening its time namespace", SYS_openat,
                    {AT_FDCWD, entering.text(kernel::kChildrensTimeNamespacePath), O_RDONLY, 0});
  Result entered = entering.call_any("entering it", SYS_setns, {space, kernel::kCloneNewTime});
  entering.call("closing it", SYS_close, {space});
  tracee::ProgramRun last = stub.try_run(entering);
  if (last.failed() != tracee::kStubDone) return static_cast<int>(-last.result({last.failed()}));
  return static_cast<int>(-last.result(entered));
}

}  // namespace

// While the source still looks at the process it is known already which pid it is to have.
Restorer::Restorer(RestoreSettings settings, std::shared_ptr<TreeParts> parts)
    : settings_(std::move(settings)), parts_(std::move(parts)) {
  const BlankSettings& blank = settings_.blank;
  if (!parts_) parts_ = std::make_shared<TreeParts>(settings_.live);
  if (blank.want_pid == 0 || parts_->is_tree) return;
  with_context("making the guest's process", [&] {
    std::string holder = blank.pid_required ? describe_holder(blank.want_pid) : "";
    if (!holder.empty()) make_namespace(describe_taken("process", blank.want_pid, holder));
    start_blank(blank.pid_required);
  });
}

RestoreSettings Restorer::give_up() {
  blank_.reset();
  space_of_pids_.reset();
  return std::move(settings_);
}

void Restorer::set_streams(UniqueFd (&&streams)[3]) {
  std::move(std::begin(streams), std::end(streams), settings_.streams.begin());
}

Restorer::~Restorer() {
  // The blank's end is told when theirs were seen.
  if (!other_threads_.empty()) blank_->kill();
  other_threads_.clear();
}

image::schema::Process::Reader Restorer::process() const {
  return process_->get<image::schema::Process>();
}

void Restorer::warn(const std::string& text) const {
  if (settings_.warn) settings_.warn(text);
}

bool Restorer::take(image::RecordSource& source) { return take(source.next(), source); }

bool Restorer::take(image::Record record, image::RecordSource& source) {
  bool describes = record.type() == RecordType::kVma || record.type() == RecordType::kThreads;
  if (describes && (prepared_ || (laid_out_ && record.type() == RecordType::kVma))) {
    throw Error(Code::kCorrupt, fmt::format("the image has a record of type {} behind its {}",
                                            image::record_type_name(record.type()),
                                            prepared_ ? "last thread" : "signals"));
  }
  switch (record.type()) {
    case RecordType::kRound:
      take_round(std::move(record));
      break;
    case RecordType::kProcess:
      process_ = std::move(record);
      end_rounds();
      start_blank_early();
      break;
    case RecordType::kFileContent:
      parts_->contents.take(record, source, &parts_->named_memory);
      break;
    case RecordType::kVma:
      mappings_.emplace_back(std::move(record));
      break;
    case RecordType::kFiles:
      files_ = std::make_shared<const image::Record>(std::move(record));
      if (!parts_->files) parts_->files = files_;
      break;
    case RecordType::kSockets:
      parts_->sockets = std::move(record);
      break;
    case RecordType::kSignals:
      signals_ = std::move(record);
      prepare_ahead_of_threads();
      break;
    case RecordType::kTimers:
      timers_ = std::move(record);
      break;
    case RecordType::kThreads:
      threads_.push_back(std::move(record));
      if (process_ && threads_.size() == process().getThreads()) prepare_early();
      break;
    case RecordType::kPages:
      take_pages(record, source);
      break;
    case RecordType::kHeader:
    case RecordType::kFreezeMark:
      break;
    case RecordType::kEnd:
      return false;
    default:
      throw Error(Code::kCorrupt, fmt::format("an image of a process holds a record of type {}",
                                              image::record_type_name(record.type())));
  }
  return true;
}

void Restorer::run_if_large(SyscallProgram& program, bool always) {
  if (program.empty() || (!always && program.loaded_size() < kLongProgram)) return;
  blank_->stub().run(program);
  program = SyscallProgram();
}

// The pages are only being gathered.
void Restorer::prepare_early() {
  with_context("making the guest's process", [&] { prepare(); });
}

// Many threads are still being asked at the source.
void Restorer::prepare_ahead_of_threads() {
  if (laid_out_ || parts_->is_tree || settings_.find_blank || !process_ || !blank_) return;
  if (process().getThreads() < 2 || guest_pid() != wanted_pid()) return;
  with_context("making the guest's process", [&] { prepare_memory(); });
}

// What was made when they were not known: whether their ids can be had too, and the stub makes
// itself known by no signal that one of them has pending.
bool Restorer::fits_the_threads() const {
  const int signal = blank_->stub().stop_signal();
  const std::uint64_t own = signal == 0 ? 0 : std::uint64_t{1} << (signal - 1);
  return blank_has_ids() && (pending_signals() & own) == 0;
}

void Restorer::start_over() {
  huge_.reset();
  blank_.reset();
  space_ = AddressSpace();
  shared_.clear();
  vdso_parts_.clear();
  bulk_in_blank_ = -1;
  for (Mapping& mapping : mappings_) mapping = Mapping(std::move(mapping.record));
  laid_out_ = false;
}

// When every thread, the first page or the End has arrived: by then every VMA is known.
void Restorer::prepare() {
  if (prepared_) return;
  if (!process_ || threads_.empty()) {
    throw Error(Code::kCorrupt, "the image lacks its process or its threads");
  }
  prepared_ = true;
  if (laid_out_ && first_round_) check_staging();
  if (laid_out_ && !fits_the_threads()) start_over();
  if (laid_out_) return;
  if (!parts_->is_tree) {
    bool keep_ids = must_keep_ids();
    if (first_round_) {
      check_staging();
    } else if (keep_ids && blank_ && !blank_has_ids()) {
      blank_.reset();
    }
    if (!blank_) start_blank(keep_ids);
  }
  prepare_memory();
}

void Restorer::prepare_memory() {
  laid_out_ = true;
  std::sort(mappings_.begin(), mappings_.end(),
            [](const Mapping& a, const Mapping& b) { return a.start() < b.start(); });
  check_guard_pages();
  tracee::SameCpu turns(blank_->pid());
  check_root();
  lay_out();
  if (!parts_->is_tree) set_clocks(blank_->stub());
  give_files();
  SyscallProgram program;
  if (!first_round_) move_vdso_aside(program);
  move_shared_memory_aside(program);
  if (first_round_) {
    keep_staged(program);
  } else {
    clear_blank(program);
  }
  if (process().getThpDisable() != 0) add_thp_setting(process(), program);
  blank_->stub().run(program);
  map_memory();
}

// Only glibc can be told another pid, and not of threads that know theirs.
bool Restorer::must_keep_ids() const {
  return settings_.blank.pid_required || !process().getGlibc() || threads_.size() > 1 ||
         threads_.front().get<image::schema::Thread>().getClearChildTid() == 0;
}

// Those of its threads too.
bool Restorer::blank_has_ids() const {
  if (guest_pid() != wanted_pid()) return false;
  return space_of_pids_ || describe_taken_id(false).empty();
}

// "process id 42 is taken here by sleep", of the first such id; empty: all are free. `of_process`:
// its pid counts, which else it has.
std::string Restorer::describe_taken_id(bool of_process) const {
  std::vector<pid_t> ids = settings_.tree_ids;
  for (const image::Record& record : threads_) {
    ids.push_back(static_cast<pid_t>(record.get<image::schema::Thread>().getTid()));
  }
  const std::size_t first = of_process ? 0 : 1;
  if (ids.size() <= first) return "";
  const std::vector<int> errors = try_ids(std::span(ids).subspan(first));
  for (std::size_t i = first; i < ids.size(); ++i) {
    const int error = errors[i - first];
    if (error == 0) continue;
    const pid_t tid = ids[i];
    const char* what = i == 0 || parts_->pids.contains(tid) ? "process" : "thread";
    const std::string holder = describe_holder(tid);
    if (!holder.empty()) return describe_taken(what, tid, holder);
    switch (error) {
      case EEXIST:
        return describe_taken(what, tid, describe_holder_or_group(tid));
      case EPERM:
      case EINVAL:
        return fmt::format("{} id {} may not be chosen here by this user", what, tid);
      default:
        throw_errno(fmt::format("trying {} id {}", what, tid), error, Code::kResources);
    }
  }
  return "";
}

void Restorer::make_namespace(const std::string& why) {
  if (settings_.init_program.empty()) {
    throw Error(Code::kRefused, why + ", and the process must keep its ids");
  }
  why_namespace_ = why;
  refuse_ids(
      [&] { space_of_pids_ = PidNamespace::make(settings_.init_program, settings_.first_new_id); });
}

void Restorer::refuse_ids(const std::function<void()>& what_may_fail) const {
  try {
    what_may_fail();
  } catch (const Error& error) {
    throw Error(Code::kRefused, fmt::format("{}, and the process must keep its ids: {}",
                                            why_namespace_, error.text()));
  }
}

pid_t Restorer::wanted_pid() const {
  if (settings_.blank.want_pid != 0) return settings_.blank.want_pid;
  return static_cast<pid_t>(process().getPid());
}

// While the rest of the image is on its way. Most often it may have any pid.
void Restorer::start_blank_early() {
  if (blank_ || settings_.blank.pid_required || !process().getGlibc()) return;
  with_context("making the guest's process", [&] { start_blank(false); });
}

// At home: under the pid that has stood for it.
void Restorer::find_blank() {
  const std::string taken = settings_.finds_in_namespace ? "" : describe_taken_id(false);
  if (!taken.empty()) {
    throw Error(Code::kRefused, taken + ", and the process must keep its ids");
  }
  blank_ = std::make_unique<Blank>(settings_.find_blank(wanted_pid()));
  if (blank_->guest_pid() == wanted_pid()) return;
  throw Error(Code::kCorrupt, fmt::format("process {} came in the place of process {}",
                                          wanted_pid(), blank_->guest_pid()));
}

void Restorer::start_blank(bool pid_required) {
  if (settings_.find_blank) return find_blank();
  BlankSettings settings = settings_.blank;
  settings.want_pid = wanted_pid();
  settings.pid_required = pid_required;
  auto start = [&] { return std::make_unique<Blank>(Blank::start(settings)); };
  std::string taken;
  if (settings.pid_required && !space_of_pids_) taken = describe_taken_id(true);
  if (taken.empty() && !space_of_pids_) {
    try {
      blank_ = start();
    } catch (const Error& error) {
      if (error.code() != Code::kRefused) throw;
      taken = error.text();  // it has just been taken, or this user may not choose
    }
  }
  if (!blank_) {
    if (!space_of_pids_) make_namespace(taken);
    refuse_ids([&] { space_of_pids_->await_init(); });
    settings.space = &*space_of_pids_;
    blank_ = start();
  }
}

void Restorer::set_clocks(tracee::Stub& stub) {
  // An older image does not tell its clocks.
  if (!process().hasClocks() || settings_.own_clocks) return;
  std::optional<ClockChange> change = plan_clocks(process().getClocks(), read_host_clocks());
  if (!change) return;
  int error = 0;
  if (settings_.time_namespace) {
    error = enter_time_namespace(change->offsets, stub);
    if (error == 0) return;
  }
  warn(fmt::format("{}: to make a time namespace for it takes CAP_SYS_ADMIN and CAP_SYS_TIME{}",
                   describe_jump(*change),
                   error == 0 ? "" : fmt::format(" ({})", ::strerrordesc_np(error))));
}

void Restorer::lay_out() {
  for (const Mapping& mapping : mappings_) {
    space_.take(mapping.start(), mapping.start() + mapping.size());
    const Vma::Reader vma = mapping.vma();
    if (vma.getKind() != Vma::Kind::SHARED_ANONYMOUS || vma.hasSegment()) continue;
    SharedMemory& shared = shared_[mapping.vma().getSharedId()];
    shared.huge_shift = huge_shift(vma);
    shared.size = std::max(shared.size, mapping.vma().getOffset() + mapping.size());
    ++shared.users;
    auto area = parts_->shared.find(mapping.vma().getSharedId());
    if (area == parts_->shared.end()) continue;
    if (shared.size > area->second.size) {
      throw Error(Code::kCorrupt, "shared memory of the tree is larger than it says");
    }
    if (shared.huge_shift != area->second.huge_shift) {
      throw Error(Code::kCorrupt, "shared memory of the tree has other pages than it says");
    }
    shared.inherited = true;
  }
  if (first_round_) {
    check_staging();
  } else {
    place_stub();
  }
}

// What was made while it ran elsewhere, and is not to be lost.
void Restorer::check_staging() const {
  if (fits_the_threads()) return;
  const std::string taken = describe_taken_id(false);
  if (!taken.empty()) {
    throw Error(Code::kRefused, taken + ", and the process must keep its ids");
  }
  throw Error(Code::kFailed,
              fmt::format("signal {} waits for the process, and the destination was not made for "
                          "that while it ran; try again",
                          blank_->stub().stop_signal()));
}

void Restorer::place_stub() {
  blank_maps_ = kernel::read_maps(blank_->pid());
  for (const kernel::Vma& vma : blank_maps_) {
    if (!vma.is_vsyscall()) space_.take(vma.start, vma.end);
  }
  // One that was found may be in a terminal's foreground, which sends it when its size changes.
  const std::uint64_t sent = settings_.find_blank ? std::uint64_t{1} << (SIGWINCH - 1) : 0;
  blank_->thread().set_signal_mask(pending_signals() | sent);
  const std::uint64_t expected =
      process_ ? process().getThreads() : first_round_->get<image::schema::Round>().getIds().size();
  const std::uint64_t threads = std::max<std::uint64_t>(threads_.size(), expected);
  std::uint64_t data_size = kStubData + std::min(threads, kManyThreads) * kPerThread;
  RemotePtr address = space_.allocate(data_size + kHugePageSize, RemotePtr());
  auto place = [this](std::uint64_t size) { return space_.allocate(size, RemotePtr()); };
  blank_->install_stub({address, data_size, place, {}});
  huge_.emplace(blank_->stub(), settings_.moves_pages);
}

// The stub makes itself known by a signal that nobody cares for; one that the guest has pending
// would be taken for it, and be lost. The stub leaves alone what is blocked.
std::uint64_t Restorer::pending_signals() const {
  std::uint64_t pending = 0;
  auto add = [&pending](::capnp::List<::capnp::Data>::Reader signals) {
    for (::capnp::Data::Reader bytes : signals) {
      pending |= std::uint64_t{1} << (decode_siginfo(bytes).si_signo - 1);
    }
  };
  if (signals_) add(signals_->get<image::schema::Signals>().getPending());
  for (const image::Record& thread : threads_) {
    add(thread.get<image::schema::Thread>().getPending());
  }
  return pending;
}

// Every file that is mapped, once, into the blank.
void Restorer::give_files() {
  std::vector<UniqueFd> files;
  std::vector<int> numbers;
  std::map<std::pair<std::string, std::uint32_t>, std::size_t> known;
  std::vector<std::pair<Mapping*, std::size_t>> users;
  for (Mapping& mapping : mappings_) {
    Vma::Reader vma = mapping.vma();
    bool shared = vma.getKind() == Vma::Kind::SHARED_FILE;
    if (!shared && vma.getKind() != Vma::Kind::PRIVATE_FILE) continue;
    bool writable =
        shared && (vma.getFlags() & static_cast<std::uint64_t>(kernel::VmFlag::kMayWrite)) != 0;
    auto key = std::make_pair(std::string(vma.getFile().getPath()) + (writable ? "+" : ""),
                              vma.getFile().getContentId());
    auto [found, is_new] = known.emplace(key, files.size());
    if (is_new)
      files.push_back(
          parts_->open_files.open_for_mapping(vma.getFile(), parts_->contents, writable));
    users.emplace_back(&mapping, found->second);
  }
  for (const UniqueFd& file : files) numbers.push_back(file.get());
  const bool with_bulk = settings_.bulk_fd >= 0 && bulk_in_blank_ < 0;
  if (with_bulk) numbers.push_back(settings_.bulk_fd);
  std::vector<int> given = blank_->give_fds(numbers);
  if (with_bulk) bulk_in_blank_ = given.back();
  for (auto& [mapping, index] : users) mapping->file = given[index];
}

// What the blank process was born with, the stub and the parked vDSO aside.
void Restorer::clear_blank(SyscallProgram& program) {
  for (const kernel::Vma& vma : blank_maps_) {
    if (vma.is_vdso_or_vvar() || vma.is_vsyscall()) continue;
    program.call("unmapping the blank process", SYS_munmap, {vma.start, vma.size()});
  }
}

// What it was born with of a tree's shared memory, to where neither it nor the guest has anything.
void Restorer::move_shared_memory_aside(SyscallProgram& program) {
  for (auto& [id, shared] : shared_) {
    if (!shared.inherited) continue;
    TreeParts::SharedArea& area = parts_->shared.at(id);
    shared.size = area.size;
    if (parts_->were_there) {
      get_shared_memory(area, shared, program);
      continue;
    }
    shared.whole = room_for(shared);
    program.call_expecting(
        "moving shared memory", static_cast<std::int64_t>(shared.whole.value()), SYS_mremap,
        {area.address, area.size, area.size, MREMAP_MAYMOVE | MREMAP_FIXED, shared.whole});
  }
}

RemotePtr Restorer::room_for(const SharedMemory& shared) {
  const std::uint64_t page = std::uint64_t{1} << shared.huge_shift;
  return space_.allocate(shared.size, RemotePtr(), std::max(page, kHugePageSize));
}

// Nobody was born with it: the first that needs it makes it, and the others get it from that one,
// by a name that the kernel gives to nobody else (proc(5), /proc/PID/map_files).
void Restorer::get_shared_memory(TreeParts::SharedArea& area, SharedMemory& shared,
                                 SyscallProgram& program) {
  const bool is_first = area.holder == 0;
  if (is_first) make_shared_memory(area, shared, program);
  if (shared.huge_shift != 0) {
    run_if_large(program, true);
    shared.file = get_shared_file(area);
    return;
  }
  if (is_first) return;
  shared.whole = room_for(shared);
  const int number = get_shared_file(area);
  const int flags = MAP_SHARED | MAP_FIXED_NOREPLACE | (area.no_reserve ? MAP_NORESERVE : 0);
  program.call_expecting("sharing memory", static_cast<std::int64_t>(shared.whole.value()),
                         SYS_mmap,
                         {shared.whole, area.size, PROT_READ | PROT_WRITE, flags, number, 0});
  program.call("closing shared memory", SYS_close, {number});
}

void Restorer::make_shared_memory(TreeParts::SharedArea& area, SharedMemory& shared,
                                  SyscallProgram& program) {
  shared.whole = room_for(shared);
  area.holder = blank_->pid();
  area.address = shared.whole;
  program.call_expecting(
      "making shared memory", static_cast<std::int64_t>(shared.whole.value()), SYS_mmap,
      {shared.whole, area.size, PROT_READ | PROT_WRITE, area.flags() | MAP_FIXED_NOREPLACE, -1, 0});
}

// Its number in the blank.
int Restorer::get_shared_file(const TreeParts::SharedArea& area) {
  kernel::Vma vma;
  vma.start = area.address;
  vma.end = area.address + area.size;
  const UniqueFd file = open_file(kernel::map_files_path(area.holder, vma), O_RDWR);
  const int given[] = {file.get()};
  return blank_->give_fds(given).front();
}

Blank& Restorer::start_first() {
  with_context("making the guest's process", [&] { start_blank(true); });
  return *blank_;
}

void Restorer::finish() {
  finish_memory();
  finish_as_this_user();
  // Who is another user afterwards may not be one whose CPUs this process can choose.
  with_context("restoring credentials", [&] { restore_credentials(); });
  with_context("restoring threads", [&] { restore_threads(); });
  tracee::SameCpu turns(blank_->pid());
  // A timer may name the thread that it signals.
  with_context("restoring timers", [&] {
    restore_timers();
    restore_timer_files();
  });
  with_context("restoring descriptors", [&] {
    restore_owners();
    restore_listeners();
  });
  with_context("restoring limits", [&] { restore_limits(); });
  with_context("restoring memory", [&] { lock_the_future(); });
  with_context("restoring the process", [&] { restore_seccomp(); });
}

void Restorer::finish_memory() {
  if (std::exchange(has_memory_, true)) return;
  with_context("making the guest's process", [&] { prepare(); });
  tracee::SameCpu turns(blank_->pid());
  with_context("restoring memory", [&] {
    SyscallProgram program;
    settle_memory(program);
    place_vdso(program);
    run_if_large(program, true);
    lock_memory();
    seal_memory();
    begin_to_follow();
  });
  with_context("restoring the process", [&] { restore_layout(); });
  with_context("restoring descriptors", [&] { close_mapped_files(); });
}

void Restorer::finish_as_this_user() {
  tracee::SameCpu turns(blank_->pid());
  with_context("restoring descriptors", [&] {
    if (has_parents(parts_->with_parents_descriptors)) return;
    restore_descriptors();
    restore_event_files();
    close_hidden_targets();
    // To close any descriptor of a file lets go of its POSIX locks: none is closed any more.
    restore_locks();
  });
  with_context("restoring the process", [&] { restore_settings(); });
  with_context("restoring signals", [&] { restore_signals(); });
}

}  // namespace telefork::restore
