// What round_trip.h promises.
#include <malloc.h>
#include <sched.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <set>

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "image/memory_stream.h"
#include "image/reader.h"
#include "image/show.h"
#include "image/writer.h"
#include "kernel/probe.h"
#include "kernel/procfs.h"
#include "migrate/round_trip.h"
#include "protocol/machine.h"

namespace telefork::migrate {
namespace {

using image::RecordType;
using Clock = std::chrono::steady_clock;

constexpr char kStayed = 's';
constexpr char kMoved = 'm';
constexpr int kPatience = 30'000;  // milliseconds; a victim that takes longer hangs

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// In the forked child.
[[noreturn]] void be_victim(const Victim& victim, const UniqueFd (&streams)[3]) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int fd = 0; fd < 3; ++fd) {
    if (::dup2(streams[fd].get(), fd) != fd) ::_exit(101);
  }
  if (::close_range(3, ~0u, 0) != 0) ::_exit(102);
  try {
    Self self;
    victim(self);
  } catch (const std::exception& error) {
    ::dprintf(2, "exception: %s\n", error.what());
    ::_exit(103);
  }
  ::_exit(0);
}

// What to look at when something hangs.
std::string describe_hang(pid_t pid) {
  std::string text;
  for (pid_t tid : kernel::list_threads(pid)) {
    for (const char* name : {"status", "wchan", "syscall", "stack"}) {
      std::string path = fmt::format("/proc/{}/task/{}/{}", pid, tid, name);
      std::unique_ptr<FILE, int (*)(FILE*)> file(::fopen(path.c_str(), "r"), &::fclose);
      if (!file) continue;
      char buffer[4096];
      std::size_t count = ::fread(buffer, 1, sizeof(buffer), file.get());
      text += fmt::format("--- {}\n{}\n", path, std::string_view(buffer, count));
    }
  }
  return text;
}

bool all_sleep(pid_t pid) {
  std::vector<pid_t> tids = kernel::list_threads(pid);
  return std::all_of(tids.begin(), tids.end(),
                     [](pid_t tid) { return kernel::read_stat(tid).state == 'S'; });
}

void wait_until_asleep(pid_t pid) {
  for (auto start = Clock::now(); !all_sleep(pid);) {
    if (kernel::read_stat(pid).state == 'Z') {
      throw Error(Code::kGone, "the victim ended before its time");
    }
    if (ms_since(start) > kPatience) {
      throw Error(Code::kFailed, "threads of the victim do not sleep:\n" + describe_hang(pid));
    }
    ::usleep(500);
  }
}

bool wait_readable(int fd) {
  pollfd poll = {fd, POLLIN, 0};
  return ::poll(&poll, 1, kPatience) == 1;
}

std::string flag_letters(const kernel::Vma& vma) {
  std::string letters;
  for (unsigned bit = 0; bit < 40; ++bit) {
    auto flag = static_cast<kernel::VmFlag>(std::uint64_t{1} << bit);
    // These tell what may have happened to it once: kGuard stays when the guards are gone.
    bool history = flag == kernel::VmFlag::kSoftDirty || flag == kernel::VmFlag::kGuard;
    // mprotect(2) takes it from what was never touched.
    bool unsure = flag == kernel::VmFlag::kAccount && !vma.write;
    if (!history && !unsure && vma.has(flag)) {
      letters += fmt::format(" {}", kernel::vm_flag_name(flag));
    }
  }
  return letters;
}

// Maps, flags and resident memory. That of files is the page cache's business; zeros are not sent,
// which `zero_pages` of the original may account for.
void describe_maps(pid_t pid, std::vector<std::string>& lines) {
  for (const kernel::Vma& vma : kernel::read_smaps(pid)) {
    // The kernel's own, of which there is one build only while one machine is tested on.
    lines.push_back(fmt::format("vma {:x}-{:x} prot {} {} offset {:x} {}{} flags{}",
                                vma.start.value(), vma.end.value(), vma.protection(),
                                vma.shared ? "shared" : "private", vma.offset, vma.path,
                                vma.deleted ? " (deleted)" : "", flag_letters(vma)));
  }
}

// "pipe:[4711]" without its number, which another one has.
std::string without_number(const std::string& link) {
  for (const char* kind : {"pipe:[", "socket:["}) {
    if (link.starts_with(kind)) return kind;
  }
  return link;
}

// The standard streams are the test's own pipes, and those of the restored process too.
void describe_descriptors(pid_t pid, std::vector<std::string>& lines) {
  for (int fd : kernel::list_fds(pid)) {
    kernel::FdInfo info = kernel::read_fdinfo(pid, fd);
    std::string link = kernel::read_fd_link(pid, fd);
    lines.push_back(fmt::format("fd {} -> {} flags {:o} position {}", fd,
                                fd < 3 ? link : without_number(link), info.flags, info.position));
  }
}

void describe_threads(pid_t pid, std::vector<std::string>& lines) {
  for (pid_t tid : kernel::list_threads(pid)) {
    kernel::Status status = kernel::read_status(tid);
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    ::sched_getaffinity(tid, sizeof(cpus), &cpus);
    lines.push_back(
        fmt::format("thread {} {} blocked {:x} pending {:x} nice {} policy {} slack {} cpus {}",
                    tid, kernel::read_comm(pid, tid), status.blocked, status.thread_pending,
                    ::getpriority(PRIO_PROCESS, static_cast<id_t>(tid)), ::sched_getscheduler(tid),
                    kernel::read_timerslack_ns(tid), CPU_COUNT(&cpus)));
  }
}

void describe_process(pid_t pid, std::vector<std::string>& lines) {
  kernel::Status status = kernel::read_status(pid);
  kernel::Stat stat = kernel::read_stat(pid);
  lines.push_back(fmt::format("name {} umask {:o} ppid {} pgrp {} session {} exit signal {}",
                              stat.comm, status.umask, stat.ppid, stat.pgrp, stat.session,
                              stat.exit_signal));
  lines.push_back(fmt::format("uids {} gids {} groups {}", fmt::join(status.uids, ","),
                              fmt::join(status.gids, ","), fmt::join(status.groups, ",")));
  lines.push_back(fmt::format("capabilities {:x} {:x} {:x} {:x} {:x} no_new_privs {}",
                              status.cap_inheritable, status.cap_permitted, status.cap_effective,
                              status.cap_bounding, status.cap_ambient, status.no_new_privs));
  lines.push_back(fmt::format("signals pending {:x} ignored {:x} caught {:x}",
                              status.shared_pending, status.ignored, status.caught));
  lines.push_back(fmt::format("cwd {} root {} exe {}", kernel::read_cwd_link(pid),
                              kernel::read_root_link(pid), kernel::read_exe_link(pid)));
  lines.push_back("cmdline " + kernel::read_cmdline(pid));
  lines.push_back("environ " + kernel::read_environ_block(pid));
  for (auto [type, value] : kernel::read_auxv(pid)) {
    lines.push_back(fmt::format("auxv {} {:x}", type, value));
  }
  for (unsigned resource = 0; resource < RLIM_NLIMITS; ++resource) {
    rlimit limit{};
    ::prlimit(pid, static_cast<__rlimit_resource>(resource), nullptr, &limit);
    lines.push_back(fmt::format("limit {} {} {}", resource, limit.rlim_cur, limit.rlim_max));
  }
  lines.push_back(fmt::format("oom {} coredump {:x} personality {:x}",
                              kernel::read_oom_score_adj(pid), kernel::read_coredump_filter(pid),
                              kernel::read_personality(pid)));
  lines.push_back(fmt::format("layout {:x} {:x} {:x} {:x} {:x} {:x} {:x}", stat.start_code.value(),
                              stat.end_code.value(), stat.start_data.value(), stat.end_data.value(),
                              stat.start_brk.value(), stat.start_stack.value(),
                              stat.arg_start.value()));
}

std::vector<std::string> describe(pid_t pid) {
  std::vector<std::string> lines;
  describe_process(pid, lines);
  describe_threads(pid, lines);
  describe_descriptors(pid, lines);
  describe_maps(pid, lines);
  return lines;
}

constexpr std::size_t kMaxDifferences = 30;

// Lines of only one of them, in the order of each.
std::vector<std::string> differences(const std::vector<std::string>& before,
                                     const std::vector<std::string>& after) {
  std::vector<std::string> found;
  std::multiset<std::string> rest(after.begin(), after.end());
  for (const std::string& line : before) {
    auto same = rest.find(line);
    if (same != rest.end()) {
      rest.erase(same);
    } else {
      found.push_back("before: " + line);
    }
  }
  for (const std::string& line : after) {
    auto extra = rest.find(line);
    if (extra == rest.end()) continue;
    rest.erase(extra);
    found.push_back("after:  " + line);
  }
  if (found.size() > kMaxDifferences) {
    std::string more = fmt::format("... {} lines", found.size());
    found.resize(kMaxDifferences);
    found.push_back(more);
  }
  return found;
}

void write_header(image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto header = message.initRoot<image::schema::Header>();
  header.setVersion(image::kFormatVersion);
  header.setPurpose(image::schema::Header::Purpose::SAVE);
  protocol::gather_machine(header.initMachine());
  header.setCreator("round_trip");
  sink.write(RecordType::kHeader, message);
}

std::string value_of(const image::Tree& tree) {
  return std::visit(
      [](const auto& value) -> std::string {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, image::Tree::Absent>) return "absent";
        if constexpr (std::is_same_v<T, image::Tree::Bytes>) return image::hex(value);
        if constexpr (std::is_integral_v<T> || std::is_same_v<T, std::string>) {
          return fmt::format("{}", value);
        }
        return "";
      },
      tree.value);
}

// What differs between two captures of a process that did not change: clocks, what was read of a
// file, what timers have left.
bool is_fleeting(const std::string& name) {
  static const std::set<std::string> kNames = {
      "record", "remaining",     "ctime",     "value",  "hash",        "code",    "pages",
      "runs",   "payload_bytes", "shared_id", "clocks", "expirations", "deadline"};
  return kNames.count(name) != 0;
}

// The processor may say of registers that hold what they begin with that they do (XSTATE_BV), or
// not: of the vector registers here, whose state is the bytes from 160 to 416.
std::string settle_xstate(std::string hex) {
  constexpr std::size_t kSse = 2 * 160, kSseEnd = 2 * 416, kBits = 2 * 512 + 1;
  if (hex.size() <= kBits || hex.substr(kSse, kSseEnd - kSse).find_first_not_of('0') != hex.npos) {
    return hex;
  }
  // The low half of a byte in hexadecimal; bit 1 is theirs.
  constexpr std::string_view kDigits = "0123456789abcdef";
  hex[kBits] = kDigits[kDigits.find(hex[kBits]) & ~std::size_t{2}];
  return hex;
}

void flatten(const image::Tree& tree, const std::string& path, std::vector<std::string>& lines) {
  if (is_fleeting(tree.name)) return;
  if (path.starts_with("vma ") && tree.name == "flags") return;  // compared by name
  std::string here = tree.name.empty() ? path : path + "." + tree.name;
  std::string value = tree.name == "xstate" ? settle_xstate(value_of(tree)) : value_of(tree);
  if (tree.name == "name") value = without_number(value);
  if (!value.empty()) lines.push_back(here + " = " + value);
  unsigned index = 0;
  for (const image::Tree& child : tree.children) {
    flatten(child, child.name.empty() ? fmt::format("{}[{}]", here, index++) : here, lines);
  }
}

std::vector<std::string> flatten_image(const std::vector<std::byte>& image) {
  std::vector<std::string> lines;
  image::MemorySource source(image);
  image::Reader reader(source);
  unsigned number = 0;
  image::for_each_tree(reader, [&](const image::Tree& record) {
    std::string type = std::get<std::string>(record.find("type")->value);
    if (type == "header" || type == "pages" || type == "end") return;
    if (type == "file content") return;
    std::string name = fmt::format("{} {}", type, number++);
    if (type == "vma")
      name = fmt::format("vma {:x}", std::get<std::uint64_t>(record.find("start")->value));
    flatten(record, name, lines);
  });
  return lines;
}

struct Captured {
  std::vector<std::byte> image;
  capture::MemoryTotals memory;
  std::vector<std::string> left_home;
};

Captured capture_frozen(tracee::FrozenProcess& frozen, const TripOptions& options) {
  Captured captured;
  image::MemorySink sink;
  image::Writer writer(sink);
  capture::Survey survey = capture::survey_process(frozen.pid(), options.survey);
  capture::throw_refusals(survey.refusals);
  if (options.hash_files) {
    for (std::size_t i = 0; i < survey.files.entries().size(); ++i) survey.files.compute_hash(i);
  }
  tracee::Stub stub(frozen.leader(), frozen.pid(), {});
  capture::Capture capture(survey, frozen, stub, options.capture);
  write_header(writer);
  capture.write_metadata(writer);
  captured.memory = capture.write_pages(writer);
  writer.end();
  stub.remove();
  captured.image = sink.take();
  captured.left_home = survey.left_home;
  return captured;
}

template <class T>
void copy_root(const image::Record& record, ::capnp::MallocMessageBuilder& message) {
  message.setRoot(record.get<T>());
}

void copy_root(const image::Record& record, ::capnp::MallocMessageBuilder& message) {
  namespace schema = image::schema;
  switch (record.type()) {
    case RecordType::kHeader:
      return copy_root<schema::Header>(record, message);
    case RecordType::kProcess:
      return copy_root<schema::Process>(record, message);
    case RecordType::kVma:
      return copy_root<schema::Vma>(record, message);
    case RecordType::kPages:
      return copy_root<schema::Pages>(record, message);
    case RecordType::kFileContent:
      return copy_root<schema::FileContent>(record, message);
    case RecordType::kFreezeMark:
      return copy_root<schema::FreezeMark>(record, message);
    case RecordType::kFiles:
      return copy_root<schema::Files>(record, message);
    case RecordType::kSockets:
      return copy_root<schema::Sockets>(record, message);
    case RecordType::kTimers:
      return copy_root<schema::Timers>(record, message);
    case RecordType::kSignals:
      return copy_root<schema::Signals>(record, message);
    case RecordType::kThreads:
      return copy_root<schema::Thread>(record, message);
    default:
      TELEFORK_ASSERT(false);
  }
}

std::vector<std::byte> edit_image(const std::vector<std::byte>& image, const EditRecord& edit) {
  image::MemorySource source(image);
  image::Reader reader(source);
  image::MemorySink sink;
  image::Writer writer(sink);
  for (;;) {
    image::Record record = reader.next();
    if (record.type() == RecordType::kEnd) break;
    ::capnp::MallocMessageBuilder message;
    copy_root(record, message);
    edit(record.type(), message);
    if (!image::has_payload(record.type())) {
      writer.write(record.type(), message);
      continue;
    }
    std::vector<std::byte> payload(record.payload_bytes());
    reader.read_payload(payload);
    writer.begin_payload_record(record.type(), message, payload.size());
    writer.payload(payload);
  }
  writer.end();
  return sink.take();
}

kernel::PageMapAbi best_pagemap() {
  static const kernel::PageMapAbi kAbi = kernel::pagemap_abi(kernel::probe_features());
  return kAbi;
}

}  // namespace

void fail_victim(const char* file, int line, const char* what) {
  int error = errno;
  ::dprintf(2, "%s:%d: not true: %s (errno %d, %s)\n", file, line, what, error,
            ::strerrordesc_np(error));
  ::_exit(1);
}

void Self::say_ready() { VERIFY(::write(1, "r", 1) == 1); }

bool Self::travel() {
  say_ready();
  char byte = 0;
  VERIFY(::read(0, &byte, 1) == 1);
  VERIFY(byte == kStayed || byte == kMoved);
  return byte == kMoved;
}

std::string blank_program() { return TELEFORK_BLANK_PROGRAM; }

bool can_choose_pids() {
  static const bool kCan = kernel::probe_features().set_tid;
  return kCan;
}

ScratchFile::ScratchFile(const std::string& content) {
  char name[] = "/tmp/telefork-test-XXXXXX";
  UniqueFd file(::mkostemp(name, O_CLOEXEC));
  if (!file) throw_errno("making a scratch file");
  path_ = name;
  write_fully(file, std::as_bytes(std::span(content)), path_);
}

ScratchFile::~ScratchFile() { ::unlink(path_.c_str()); }

void ScratchFile::write(const std::string& content) const {
  UniqueFd file = open_file(path_, O_WRONLY | O_TRUNC);
  write_fully(file, std::as_bytes(std::span(content)), path_);
}

std::string ScratchFile::read() const {
  UniqueFd file = open_file(path_, O_RDONLY);
  std::string text(1 << 20, 0);
  ssize_t count = ::read(file.get(), text.data(), text.size());
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  return text;
}

Traveller::Traveller(const Victim& victim) {
  UniqueFd said;
  std::tie(streams_[0], go_) = make_pipe();
  std::tie(ready_, streams_[1]) = make_pipe();
  std::tie(talk_, streams_[2]) = make_pipe();
  // What earlier images took up would travel with the victim.
  ::malloc_trim(0);
  pid_ = ::fork();
  if (pid_ < 0) throw_errno("forking a victim");
  if (pid_ == 0) be_victim(victim, streams_);
  char byte = 0;
  if (!wait_readable(ready_.get()) || ::read(ready_.get(), &byte, 1) != 1 || byte != 'r') {
    std::string text;
    int status = finish(&text);
    throw Error(Code::kFailed, fmt::format("the victim was not ready (status {:#x}): {}",
                                           static_cast<unsigned>(status), text));
  }
}

Traveller::~Traveller() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, __WALL);
}

void Traveller::reap_original() {
  int status = 0;
  // Its tracer is its parent here, and has waited for its end already.
  if (::waitpid(pid_, &status, 0) < 0 && errno != ECHILD) throw_errno("reaping the original");
  pid_ = 0;
}

void Traveller::save(const TripOptions& options) {
  if (options.wait_for_sleep) wait_until_asleep(pid_);
  auto start = Clock::now();
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(pid_, 0);
  if (options.compare) before_ = describe(pid_);
  start = Clock::now();
  TripOptions own = options;
  own.capture.pagemap = best_pagemap();
  Captured captured = capture_frozen(frozen, own);
  report_.capture_ms = ms_since(start);
  report_.memory = captured.memory;
  report_.image_bytes = captured.image.size();
  report_.left_home = captured.left_home;
  image_ = std::move(captured.image);
  frozen.kill();
  reap_original();
}

void Traveller::load(const TripOptions& options) {
  std::vector<std::byte> edited;
  if (options.edit) edited = edit_image(image_, options.edit);
  if (options.on_the_way) options.on_the_way();
  restore::RestoreSettings settings;
  settings.blank.program = blank_program();
  settings.blank.pid_required = true;
  for (int i = 0; i < 3; ++i) settings.streams[i] = streams_[i].duplicate();
  settings.warn = [this](const std::string& text) { report_.warnings.push_back(text); };
  if (options.settings) options.settings(settings);
  image::MemorySource source(options.edit ? edited : image_);
  image::Reader reader(source);
  auto start = Clock::now();
  restore::Restorer restorer(std::move(settings));
  while (restorer.take(reader)) {
  }
  restorer.finish();
  pid_ = restorer.release();
  report_.restore_ms = ms_since(start);
}

std::vector<std::string> Traveller::compare(const TripOptions& options) {
  if (options.wait_for_sleep) wait_until_asleep(pid_);
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(pid_, 0);
  std::vector<std::string> found = differences(before_, describe(pid_));
  if (!options.compare_images) return found;
  TripOptions own = options;
  own.capture.pagemap = best_pagemap();
  Captured again = capture_frozen(frozen, own);
  for (const std::string& line : differences(flatten_image(image_), flatten_image(again.image))) {
    found.push_back("image " + line);
  }
  return found;
}

int Traveller::finish(std::string* said) {
  for (UniqueFd& stream : streams_) stream.reset();
  ::signal(SIGPIPE, SIG_IGN);
  char byte = image_.empty() ? kStayed : kMoved;
  [[maybe_unused]] ssize_t told = ::write(go_.get(), &byte, 1);
  go_.reset();
  // The end of its stderr is the end of it; more than a pipe holds is read meanwhile.
  std::string hang;
  for (;;) {
    if (!wait_readable(talk_.get())) {
      hang = "it hangs:\n" + describe_hang(pid_);
      ::kill(pid_, SIGKILL);
    }
    char buffer[4096];
    ssize_t count = ::read(talk_.get(), buffer, sizeof(buffer));
    if (count <= 0) break;
    said->append(buffer, static_cast<std::size_t>(count));
  }
  *said += hang;
  int status = -1;
  ::waitpid(pid_, &status, __WALL);
  pid_ = 0;
  return status;
}

TripReport expect_survives(const Victim& victim, const TripOptions& options) {
  std::vector<int> own_fds = kernel::list_fds(::getpid());
  TripReport report;
  {
    // First where it is: this proves the victim.
    Traveller stays(victim);
    if (options.wait_for_sleep) wait_until_asleep(stays.pid());
    std::string said;
    int status = stays.finish(&said);
    EXPECT_EQ(status, 0) << "the victim that stayed said: " << said;
  }
  {
    Traveller traveller(victim);
    try {
      traveller.save(options);
      traveller.load(options);
      if (options.restored) options.restored(traveller.pid());
      if (options.compare) {
        EXPECT_EQ(fmt::format("{}", fmt::join(traveller.compare(options), "\n")), "");
      }
    } catch (const Error& error) {
      ADD_FAILURE() << error.text();
    }
    std::string said;
    int status = traveller.finish(&said);
    EXPECT_EQ(status, 0) << "the victim said: " << said;
    report = traveller.report();
  }
  EXPECT_EQ(kernel::list_fds(::getpid()), own_fds) << "descriptors of the tracer";
  return report;
}

}  // namespace telefork::migrate
