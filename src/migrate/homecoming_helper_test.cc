// What homecoming_trip.h promises.
#include <sched.h>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include <capnp/message.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "image/hash.h"
#include "image/memory_stream.h"
#include "image/reader.h"
#include "image/writer.h"
#include "kernel/pid_space.h"
#include "kernel/probe.h"
#include "kernel/procfs.h"
#include "migrate/homecoming_trip.h"
#include "protocol/machine.h"
#include "restore/map_plan.h"
#include "tracee/testing_tracer_death.h"

namespace telefork::migrate {
namespace {

using image::RecordType;

constexpr std::int64_t kLeft = 100;  // what the caller's read(2) returns there, and at home
constexpr std::int64_t kHome = 101;
constexpr int kPatience = 30'000;

kernel::PageMapAbi best_pagemap() {
  static const kernel::PageMapAbi kAbi = kernel::pagemap_abi(kernel::probe_features());
  return kAbi;
}

// Raw bytes, as from the bulk stream of a link.
class SocketSource final : public image::ByteSource {
 public:
  explicit SocketSource(int fd) : fd_(fd) {}
  void read(std::span<std::byte> bytes) override {
    while (!bytes.empty()) {
      ssize_t count = ::recv(fd_, bytes.data(), bytes.size(), 0);
      if (count < 0 && errno == EAGAIN) continue;  // the patience of who has it too
      if (count <= 0) throw Error(Code::kLost, "the payloads end early");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

 private:
  int fd_;
};

void send_all(const UniqueFd& socket, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) return;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

// The records of an image, and its payloads, which stood between them.
void part(const std::vector<std::byte>& whole, image::ByteSink& records,
          image::ByteSink& payloads) {
  image::MemorySource source(whole);
  image::Reader reader(source);
  image::Writer writer(records, payloads);
  for (;;) {
    image::Record record = reader.next();
    if (record.type() == RecordType::kEnd) break;
    ::capnp::MallocMessageBuilder message;
    message.setRoot(record.fields());
    if (record.payload_bytes() == 0 && !image::has_payload(record.type())) {
      writer.write(record.type(), message);
      continue;
    }
    writer.begin_payload_record(record.type(), message, record.payload_bytes());
    std::vector<std::byte> bytes(record.payload_bytes());
    reader.read_payload(bytes);
    writer.payload(bytes);
  }
  writer.end();
}

[[noreturn]] void be_victim(const std::function<void(Away&)>& victim, const UniqueFd (&streams)[3],
                            const UniqueFd& session) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int fd = 0; fd < 3; ++fd) {
    if (::dup2(streams[fd].get(), fd) != fd) ::_exit(101);
  }
  if (::dup3(session.get(), Away::kSession, O_CLOEXEC) < 0) ::_exit(102);
  if (::close_range(Away::kSession + 1, ~0u, 0) != 0) ::_exit(102);
  try {
    Away away;
    victim(away);
  } catch (const std::exception& error) {
    ::dprintf(2, "exception: %s\n", error.what());
    ::_exit(103);
  }
  ::_exit(0);
}

// The records with what a session would have made of them: where the read(2) of the caller ends.
class Edit final : public image::RecordSink {
 public:
  Edit(image::Writer& writer, std::uint32_t caller, std::int64_t result)
      : writer_(writer), caller_(caller), result_(result) {}
  void write(RecordType type, ::capnp::MessageBuilder& message) override {
    if (type == RecordType::kThreads) edit(message.getRoot<image::schema::Thread>());
    if (type == RecordType::kVma) {
      vmas_.push_back(std::make_unique<::capnp::MallocMessageBuilder>());
      vmas_.back()->setRoot(message.getRoot<image::schema::Vma>().asReader());
    }
    writer_.write(type, message);
  }
  void begin_payload_record(RecordType type, ::capnp::MessageBuilder& message,
                            std::uint64_t bytes) override {
    writer_.begin_payload_record(type, message, bytes);
  }
  void payload(std::span<const std::byte> bytes) override { writer_.payload(bytes); }
  std::vector<image::schema::Vma::Reader> vmas() const {
    std::vector<image::schema::Vma::Reader> readers;
    for (const auto& vma : vmas_) readers.push_back(vma->getRoot<image::schema::Vma>().asReader());
    return readers;
  }

 private:
  // It is in the call still.
  void edit(image::schema::Thread::Builder thread) const {
    if (thread.getTid() != caller_) return;
    user_regs_struct registers;
    std::memcpy(&registers, thread.getRegisters().begin(), sizeof(registers));
    registers.orig_rax = static_cast<unsigned long long>(-1);
    registers.rax = static_cast<unsigned long long>(result_);
    thread.setRegisters(capture::as_data(registers));
  }

  image::Writer& writer_;
  std::uint32_t caller_;
  std::int64_t result_;
  std::vector<std::unique_ptr<::capnp::MallocMessageBuilder>> vmas_;
};

void write_header(image::Writer& writer, image::schema::Header::Purpose purpose) {
  ::capnp::MallocMessageBuilder message;
  auto header = message.initRoot<image::schema::Header>();
  header.setVersion(image::kFormatVersion);
  header.setPurpose(purpose);
  protocol::gather_machine(header.initMachine());
  writer.write(RecordType::kHeader, message);
}

capture::CaptureSettings capture_settings() {
  capture::CaptureSettings settings;
  settings.pagemap = best_pagemap();
  return settings;
}

UniqueFd open_memory(pid_t pid) { return open_file(kernel::mem_path(pid), O_RDONLY); }

// Also of what the process itself may not read. False: there is none.
bool read_page(const UniqueFd& memory, RemotePtr at, std::byte* page) {
  return ::pread(memory.get(), page, kPageSize, static_cast<off_t>(at.value())) ==
         static_cast<ssize_t>(kPageSize);
}

// The pages of a guest that are not as they are at home.
class ChangedPages {
 public:
  ChangedPages(pid_t home, pid_t guest)
      : home_(open_memory(home)),
        guest_(open_memory(guest)),
        map_(guest, best_pagemap()),
        maps_(kernel::read_smaps(home)) {}

  void write(const std::vector<image::schema::Vma::Reader>& readers, image::Writer& writer) {
    for (const restore::MapPiece& piece : restore::plan_map(maps_, readers, {})) {
      if (piece.image != nullptr && restore::has_own_pages(*piece.image)) look_at(piece);
    }
    ::capnp::MallocMessageBuilder message;
    auto pages = message.initRoot<image::schema::Pages>();
    fill(changed_, [&](unsigned count) { return pages.initRuns(count); });
    fill(dropped_, [&](unsigned count) { return pages.initDropped(count); });
    writer.begin_payload_record(RecordType::kPages, message, bytes_.size());
    writer.payload(bytes_);
  }

 private:
  void look_at(const restore::MapPiece& piece) {
    bool keeps = piece.kind == restore::MapPiece::Kind::kKeep;
    bool shared = piece.image->getKind() == image::schema::Vma::Kind::SHARED_ANONYMOUS;
    std::set<RemotePtr> own;
    for (kernel::PageRun run : map_.private_pages(piece.range.start, piece.range.end())) {
      for (std::uint64_t i = 0; i < run.pages; ++i) own.insert(run.start + i * kPageSize);
    }
    std::vector<std::byte> here(kPageSize), there(kPageSize);
    for (RemotePtr at = piece.range.start; at < piece.range.end(); at = at + kPageSize) {
      bool has = shared || own.count(at) != 0;
      if (!keeps && !has) continue;
      if (!read_page(guest_, at, there.data())) continue;
      if (keeps && read_page(home_, at, here.data()) && here == there) continue;
      if (!has) {
        append(dropped_, at, at == piece.range.start);
        continue;
      }
      append(changed_, at, at == piece.range.start);
      bytes_.insert(bytes_.end(), there.begin(), there.end());
    }
  }
  // A run is of one mapping.
  static void append(std::vector<kernel::PageRun>& runs, RemotePtr at, bool begins) {
    if (begins || runs.empty() || runs.back().end() != at) runs.push_back({at, 0});
    ++runs.back().pages;
  }
  template <class Init>
  void fill(const std::vector<kernel::PageRun>& from, const Init& init) {
    auto runs = init(static_cast<unsigned>(from.size()));
    for (unsigned i = 0; i < runs.size(); ++i) {
      runs[i].setStart(from[i].start.value());
      runs[i].setPages(from[i].pages);
    }
  }

  UniqueFd home_, guest_;
  kernel::PageMap map_;
  std::vector<kernel::Vma> maps_;
  std::vector<kernel::PageRun> changed_, dropped_;
  std::vector<std::byte> bytes_;
};

tracee::TracedThread& thread_of(tracee::FrozenProcess& frozen, pid_t own_tid) {
  for (tracee::TracedThread& thread : frozen.threads()) {
    if (kernel::read_status(thread.tid()).ns_pids.back() == own_tid) return thread;
  }
  throw Error(Code::kGone, "the guest's caller has ended");
}

struct Told {
  char what = 0;
  pid_t tid = 0;
};

// Empty where process `pid` has ended instead.
Told read_told(const UniqueFd& from, pid_t pid) {
  Told told;
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd poll[] = {{from.get(), POLLIN, 0}, {process.get(), POLLIN, 0}};
  if (::poll(poll, 2, kPatience) < 1 || (poll[0].revents & POLLIN) == 0 ||
      ::read(from.get(), &told, sizeof(told)) != sizeof(told)) {
    return {};
  }
  return told;
}

}  // namespace

bool Away::leave() {
  Told told{'r', ::gettid()};
  VERIFY(::write(1, &told, sizeof(told)) == sizeof(told));
  char byte = 0;
  long result = ::syscall(SYS_read, kSession, &byte, 1);
  VERIFY(result == kLeft || result == 0);
  return result == kLeft;
}

void Away::come_home() {
  Told told{'d', ::gettid()};
  VERIFY(::write(1, &told, sizeof(told)) == sizeof(told));
  char byte = 0;
  VERIFY(::syscall(SYS_read, 0, &byte, 1) == kHome);
}

Journey::Journey(const std::function<void(Away&)>& victim) {
  UniqueFd session;
  std::tie(session_, session) = make_socket_pair(SOCK_STREAM);
  std::tie(streams_[0], go_) = make_pipe();
  std::tie(told_, streams_[1]) = make_pipe();
  std::tie(talk_, streams_[2]) = make_pipe();
  pid_ = ::fork();
  if (pid_ < 0) throw_errno("forking a victim");
  if (pid_ == 0) be_victim(victim, streams_, session);
  Told told = read_told(told_, pid_);
  caller_ = told.tid;
  if (told.what == 'r') return;
  std::string text;
  int status = finish(&text);
  throw Error(Code::kFailed, fmt::format("the victim was not ready (status {:#x}): {}",
                                         static_cast<unsigned>(status), text));
}

Journey::~Journey() {
  end_guest();
  parked_.reset();
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, __WALL);
}

void Journey::end_guest() {
  if (guest_ > 0) {
    ::kill(guest_, SIGKILL);
    ::waitpid(guest_, nullptr, __WALL);
    guest_ = 0;
  }
  space_.reset();
}

void Journey::leave() {
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(pid_, 0);
  thread_of(frozen, caller_).run_into_system_call(SYS_read);
  tracee::ParkedProcess::Options options;
  options.caller = caller_;
  options.wait = std::chrono::milliseconds(1);
  parked_ = std::make_unique<tracee::ParkedProcess>(std::move(frozen), options);
  image::MemorySink sink;
  image::Writer writer(sink);
  {
    capture::SurveyOptions survey_options = options_of(capture::Purpose::kRunOn);
    survey_options.own_fds = {Away::kSession};
    survey_options.takes_stdin = true;
    capture::Survey survey = capture::survey_process(pid_, survey_options);
    tracee::Stub& stub = parked_->stub();
    std::erase_if(survey.mappings,
                  [&](const capture::Mapping& mapping) { return stub.owns(mapping.vma); });
    capture::throw_refusals(survey.refusals);
    for (const capture::Mapping& mapping : survey.mappings) home_.push_back(mapping.vma);
    for (const capture::Descriptor& descriptor : survey.descriptors) {
      sent_fds_.emplace(descriptor.fd, static_cast<std::uint32_t>(descriptor.description));
    }
    capture::CaptureSettings settings = capture_settings();
    capture::Capture capture(survey, parked_->frozen(), stub, settings);
    write_header(writer, image::schema::Header::Purpose::RUN_ON);
    Edit edit(writer, static_cast<std::uint32_t>(caller_), kLeft);
    capture.write_metadata(edit);
    capture.write_pages(writer);
    writer.end();
  }
  parked_->hold_for(std::chrono::milliseconds(1));

  make_guest(sink.bytes());
  if (read_told(told_, guest_).what != 'd') {
    std::string text;
    roll_back();
    int status = finish(&text);
    throw Error(Code::kFailed, fmt::format("the guest does not want to come home ({:#x}): {}",
                                           static_cast<unsigned>(status), text));
  }
}

void Journey::make_guest(const std::vector<std::byte>& image) {
  restore::RestoreSettings settings;
  settings.blank.program = blank_program();
  settings.blank.pid_required = true;
  settings.init_program = TELEFORK_INIT_PROGRAM;
  settings.first_new_id = kernel::choose_ids_for(pid_).front();
  settings.live = true;
  settings.session_number = Away::kSession;
  settings.session_socket = open_file("/dev/null", O_RDONLY);
  for (int i = 0; i < 3; ++i) settings.streams[i] = streams_[i].duplicate();
  restore::Restorer restorer(std::move(settings));
  image::MemorySource source(image);
  image::Reader reader(source);
  while (restorer.take(reader)) {
  }
  restorer.finish();
  arrived_ = restorer.arrived_files();
  origins_.emplace(restorer.pid(), restorer.files());
  guest_ = restorer.release();
  space_ = restorer.take_namespace();
}

void Journey::capture_guest() {
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(guest_, 0);
  tracee::TracedThread& caller = thread_of(frozen, caller_);
  caller.run_into_system_call(SYS_read);
  image::MemorySink sink;
  image::Writer writer(sink);
  capture::SurveyOptions options = options_of(capture::Purpose::kReturn);
  options.own_fds = {Away::kSession};
  for (unsigned stream = 0; stream < 3; ++stream) {
    struct stat stat {};
    if (::fstat(streams_[stream].get(), &stat) != 0) throw_errno("looking at a stream");
    options.streams[stream] = stat.st_ino;
  }
  if (origins_) options.origins = &*origins_;
  if (arrived_) {
    options.originals = [this](std::uint64_t device, std::uint64_t inode) {
      return arrived_->find(device, inode);
    };
  }
  capture::Survey survey = capture::survey_process(guest_, options);
  // It was restored into them.
  std::erase_if(survey.refusals, [](const capture::Refusal& refusal) {
    return refusal.why.find("namespace") != std::string::npos;
  });
  capture::throw_refusals(survey.refusals);
  for (std::size_t i = 0; i < survey.files.entries().size(); ++i) survey.files.compute_hash(i);
  tracee::Stub stub(caller, guest_, {});
  capture::CaptureSettings settings = capture_settings();
  capture::Capture capture(survey, frozen, stub, settings);
  write_header(writer, image::schema::Header::Purpose::RETURN);
  Edit edit(writer, static_cast<std::uint32_t>(caller_), kHome);
  capture.write_metadata(edit);
  stub.remove();
  ChangedPages pages(pid_, guest_);
  pages.write(edit.vmas(), writer);
  writer.end();
  image_ = sink.take();
  frozen.kill();
  end_guest();
}

restore::HomecomingSettings Journey::settings() const {
  restore::HomecomingSettings settings;
  settings.our_socket = session_.get();
  settings.their_socket = Away::kSession;
  settings.own_fds = {Away::kSession};
  settings.sent_fds = sent_fds_;
  settings.home = home_;
  return settings;
}

void Journey::come_home(restore::HomecomingSettings settings) {
  image::MemorySource source(image_);
  image::Reader reader(source);
  restore::Homecoming homecoming(*parked_, std::move(settings));
  while (homecoming.take(reader)) {
  }
  homecoming.apply();
  parked_.reset();
}

void Journey::come_home(Way way) {
  restore::HomecomingSettings coming = settings();
  coming.least_area = way == Way::kFile ? std::uint64_t{1} << 40 : kPageSize;
  if (way != Way::kMixed) coming.least_run = kPageSize;
  coming.moves_pages = way != Way::kProcess;
  if (way == Way::kReceived || way == Way::kMixed) {
    come_home_raw(std::move(coming));
  } else {
    come_home(std::move(coming));
  }
}

void Journey::interrupt_at(std::size_t bytes, std::function<void()> action) {
  interrupted_at_ = bytes;
  interruption_ = std::move(action);
}

void Journey::come_home_raw(restore::HomecomingSettings settings) {
  image::MemorySink records, payloads;
  part(image_, records, payloads);
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  settings.bulk_fd = ours.get();
  SocketSource source(ours.get());
  image::MemorySource record_source(records.bytes());
  image::Reader reader(record_source, &source);
  // Who waits for a traced leader takes the SIGCHLDs of the whole process.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread feeder([&, &socket = theirs] { feed(socket, payloads.bytes()); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  // Where it is refused nobody reads the rest.
  auto end = [&, &socket = ours] {
    ::shutdown(socket.get(), SHUT_RDWR);
    feeder.join();
  };
  try {
    restore::Homecoming homecoming(*parked_, std::move(settings));
    while (homecoming.take(reader)) {
    }
    homecoming.apply();
  } catch (const Error&) {
    end();
    throw;
  }
  end();
  parked_.reset();
}

void Journey::feed(const UniqueFd& socket, std::span<const std::byte> payloads) const {
  if (interruption_) {
    send_all(socket, payloads.first(interrupted_at_));
    payloads = payloads.subspan(interrupted_at_);
    interruption_();
  }
  send_all(socket, payloads);
}

void Journey::roll_back() {
  end_guest();
  if (parked_) parked_->roll_back({});
  parked_.reset();
}

// The kernel writes there which processor a thread runs on.
void Journey::blank_rseq(RemotePtr at, std::vector<std::byte>& page) const {
  if (!parked_) return;
  for (const tracee::TracedThread& thread : parked_->frozen().threads()) {
    auto area = thread.rseq();
    if (!area || area->address < at.value() || area->address >= at.value() + page.size()) continue;
    std::size_t offset = area->address - at.value();
    std::fill_n(page.begin() + static_cast<std::ptrdiff_t>(offset),
                std::min<std::size_t>(area->size, page.size() - offset), std::byte{0});
  }
}

std::uint64_t Journey::checksum() const {
  image::Hash64 hash;
  UniqueFd memory = open_memory(pid_);
  std::vector<std::byte> page(kPageSize);
  for (const kernel::Vma& vma : kernel::read_maps(pid_)) {
    if (vma.is_vdso_or_vvar() || vma.is_vsyscall()) continue;
    if (parked_ && parked_->stub().owns(vma)) continue;
    std::string line = fmt::format("{:x}-{:x} {} {}", vma.start.value(), vma.end.value(),
                                   vma.protection(), vma.path);
    hash.add(std::as_bytes(std::span(line)));
    for (RemotePtr at = vma.start; at < vma.end; at = at + kPageSize) {
      if (!read_page(memory, at, page.data())) continue;
      blank_rseq(at, page);
      hash.add(page);
    }
  }
  return hash.value();
}

int Journey::finish(std::string* said) {
  session_.reset();
  for (UniqueFd& stream : streams_) stream.reset();
  for (;;) {
    pollfd poll = {talk_.get(), POLLIN, 0};
    if (::poll(&poll, 1, kPatience) != 1) {
      *said += "it hangs";
      ::kill(pid_, SIGKILL);
      break;
    }
    char buffer[4096];
    ssize_t count = ::read(talk_.get(), buffer, sizeof(buffer));
    if (count <= 0) break;
    said->append(buffer, static_cast<std::size_t>(count));
  }
  int status = -1;
  ::waitpid(pid_, &status, __WALL);
  pid_ = 0;
  return status;
}

namespace {

const char* name_of(Way way) {
  switch (way) {
    case Way::kFile:
      return "its pages wait in a file";
    case Way::kProcess:
      return "its pages wait in the process";
    case Way::kReceived:
      return "the process receives its pages";
    case Way::kMixed:
      break;
  }
  return "the process receives most of its pages";
}

void expect_comes_home_by(Way way, const std::function<void(Away&)>& victim) {
  Journey journey(victim);
  try {
    journey.leave();
    journey.capture_guest();
    journey.come_home(way);
  } catch (const Error& error) {
    ADD_FAILURE() << error.text();
    journey.roll_back();
  }
  std::string said;
  int status = journey.finish(&said);
  EXPECT_EQ(status, 0) << "the victim said: " << said;
}

void expect_stays_away_by(Way way, const std::function<void(Away&)>& victim, const std::string& why,
                          const std::function<void(Journey&)>& at_home) {
  Journey journey(victim);
  journey.leave();
  journey.capture_guest();
  if (at_home) at_home(journey);
  std::uint64_t before = journey.checksum();
  try {
    journey.come_home(way);
    ADD_FAILURE() << "it came home";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find(why), std::string::npos) << error.text();
    EXPECT_EQ(journey.checksum(), before);
    journey.roll_back();
  }
  std::string said;
  int status = journey.finish(&said);
  EXPECT_EQ(status, 0) << "the victim said: " << said;
}

}  // namespace

void expect_comes_home(const std::function<void(Away&)>& victim) {
  std::vector<int> own_fds = kernel::list_fds(::getpid());
  for (Way way : kWays) {
    SCOPED_TRACE(name_of(way));
    expect_comes_home_by(way, victim);
  }
  EXPECT_EQ(kernel::list_fds(::getpid()), own_fds) << "descriptors of the tracer";
}

void expect_stays_away(const std::function<void(Away&)>& victim, const std::string& why,
                       const std::function<void(Journey&)>& at_home) {
  for (Way way : kWays) {
    SCOPED_TRACE(name_of(way));
    expect_stays_away_by(way, victim, why, at_home);
  }
}

}  // namespace telefork::migrate
