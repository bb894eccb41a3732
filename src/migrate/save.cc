#include "migrate/save.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/writer.h"
#include "net/file_stream.h"
#include "protocol/byte_streams.h"
#include "protocol/machine.h"
#include "tracee/stub.h"

namespace telefork::migrate {
namespace {

using Clock = std::chrono::steady_clock;

double since_ms(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool is_unchanged(const capture::FileEntry& now, const capture::FileEntry& before) {
  return now.identity.device == before.identity.device &&
         now.identity.inode == before.identity.inode &&
         now.identity.ctime_ns == before.identity.ctime_ns;
}

void write_header(image::Writer& writer, const std::string& creator) {
  ::capnp::MallocMessageBuilder message;
  auto header = message.initRoot<image::schema::Header>();
  header.setVersion(image::kFormatVersion);
  header.setPurpose(image::schema::Header::Purpose::SAVE);
  header.setCreator(creator);
  protocol::gather_machine(header.initMachine());
  writer.write(image::RecordType::kHeader, message);
}

// The process ends when its image is written: it is to be somewhere then.
void refuse_what_keeps_nothing(const std::string& path) {
  struct stat stat {};
  if (::stat(path.c_str(), &stat) != 0 || !S_ISCHR(stat.st_mode)) return;
  // null, zero, random, urandom: null(4), random(4).
  constexpr unsigned kNowhere[] = {3, 5, 8, 9};
  if (major(stat.st_rdev) == 1 && std::find(std::begin(kNowhere), std::end(kNowhere),
                                            minor(stat.st_rdev)) != std::end(kNowhere)) {
    throw Error(
        Code::kUsage,
        fmt::format("{} keeps nothing: the process would be lost; with --keep it runs on", path));
  }
}

// The image takes the place of what was there, which the process could then not be loaded without.
void refuse_what_the_process_uses(const std::string& path, const capture::Survey& survey) {
  struct stat stat {};
  if (::stat(path.c_str(), &stat) != 0 || !S_ISREG(stat.st_mode)) return;
  for (const capture::FileEntry& entry : survey.files.entries()) {
    if (entry.stat.st_dev != stat.st_dev || entry.stat.st_ino != stat.st_ino) continue;
    throw Error(Code::kUsage, fmt::format("{} is a file that process {} uses", path, survey.pid));
  }
}

}  // namespace

namespace {

// As ptrace(2) compares them, of one's own process.
bool is_more_capable(pid_t pid) {
  try {
    kernel::Status its = kernel::read_status(pid);
    kernel::Status own = kernel::read_status(::getpid());
    return its.uids == own.uids && (its.cap_permitted & ~own.cap_permitted) != 0;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

capture::Survey survey_by_pid(pid_t pid, const capture::SurveyOptions& options,
                              capture::Survey earlier) {
  if (!kernel::has_own_proc()) {
    capture::throw_refusals(
        {capture::refuse(fmt::format("process {}", pid), capture::Reason::kForeignProc)});
  }
  try {
    capture::Survey survey = capture::survey_process(pid, options, std::move(earlier));
    if (survey.refusals.empty()) return survey;
    // It runs: what it opened or mapped while it was looked at may have looked like what it is not.
    capture::Survey again = capture::survey_process(pid, options);
    std::erase_if(again.refusals, [&](const capture::Refusal& refusal) {
      return std::find(survey.refusals.begin(), survey.refusals.end(), refusal) ==
             survey.refusals.end();
    });
    return again;
  } catch (const Error& error) {
    bool forbidden = error.error() == EACCES || error.error() == EPERM;
    if (!forbidden && error.code() != Code::kGone) throw;
    capture::Reason reason = capture::Reason::kNoProcess;
    if (forbidden) {
      reason =
          is_more_capable(pid) ? capture::Reason::kMoreCapable : capture::Reason::kNotPermitted;
    }
    capture::throw_refusals({capture::refuse(fmt::format("process {}", pid), reason)});
    throw;
  }
}

void Save::give_way() const {
  if (settings_.interrupted && settings_.interrupted()) {
    throw Error(Code::kFailed, fmt::format("interrupted while saving process {}", settings_.pid));
  }
}

// A file is taken from where it is loaded if it is the same there, which its hash tells; one that
// has no name any more travels.
void Save::settle_files(capture::Survey& survey, const capture::Survey* before) const {
  auto& entries = survey.files.entries();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    capture::FileEntry& entry = entries[i];
    if (entry.must_be_same || entry.moves() || !S_ISREG(entry.stat.st_mode)) continue;
    const bool made_up = kernel::is_made_up(entry.identity.fs_type);
    const bool embeds = settings_.embed_files && !made_up;
    if (entry.readable && !made_up && (embeds || entry.deleted)) {
      survey.files.carry_content(i);
    } else if (entry.deleted || (embeds && !entry.readable)) {
      survey.refusals.push_back(
          capture::refuse("file " + entry.path, capture::Reason::kUnreadableFile));
      continue;
    }
    if (before != nullptr) {
      const auto& known = before->files.entries();
      auto found = std::find_if(known.begin(), known.end(), [&](const capture::FileEntry& old) {
        return is_unchanged(entry, old);
      });
      if (found != known.end()) entry.hash = found->hash;
    }
    give_way();
    survey.files.compute_hash(i);
  }
}

capture::Survey Save::survey(const capture::Survey* before) const {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kSave;
  options.trace_bar = settings_.trace_bar;
  options.copy_shared = settings_.copy_shared;
  capture::Survey survey = survey_by_pid(settings_.pid, options);
  if (survey.refusals.empty()) settle_files(survey, before);
  capture::throw_refusals(survey.refusals);
  return survey;
}

image::Totals Save::write_image(const capture::Survey& survey, tracee::FrozenProcess& frozen,
                                image::ByteSink& file) const {
  tracee::Stub stub(frozen.leader(), settings_.pid, {});
  capture::CaptureSettings capture_settings;
  capture_settings.pagemap = settings_.pagemap;
  capture_settings.on_progress = [this](std::uint64_t) { give_way(); };
  capture::Capture capture(survey, frozen, stub, capture_settings);
  image::Writer writer(file);
  write_header(writer, settings_.creator);
  capture.write_metadata(writer);
  // Pages are read from outside: from here on there is nothing of ours in the process.
  stub.remove();
  capture.write_pages(writer);
  writer.end();
  return writer.totals();
}

tracee::FrozenProcess Save::freeze(bool suspends_seccomp) {
  const std::uint64_t options = suspends_seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0;
  tracee::Patience patience{tracee::FrozenProcess::kLimit};
  if (settings_.interrupted) {
    patience.interrupt_fd = settings_.interrupt_fd;
    patience.interrupted = settings_.interrupted;
  }
  try {
    return tracee::FrozenProcess::freeze(settings_.pid, options, patience);
  } catch (const Error& error) {
    // Others of its threads stood still by then.
    frozen_ = error.code() == Code::kFailed;
    throw;
  }
}

SaveReport Save::run() {
  auto start = Clock::now();
  SaveReport report;
  if (settings_.path.empty()) throw Error(Code::kUsage, "the file has no name");
  if (!settings_.keep) refuse_what_keeps_nothing(settings_.path);
  capture::Survey before = survey(nullptr);
  refuse_what_the_process_uses(settings_.path, before);
  net::FileSink file(settings_.path, [this] { give_way(); });
  protocol::FileByteSink sink(file);
  give_way();

  auto freeze_start = Clock::now();
  tracee::FrozenProcess frozen = freeze(before.status.seccomp != 0);
  frozen_ = true;
  try {
    capture::Survey now = survey(&before);
    if (now.status.seccomp != before.status.seccomp) {
      capture::throw_refusals(
          {capture::refuse(fmt::format("process {}", settings_.pid), capture::Reason::kSeccomp)});
    }
    report.totals = write_image(now, frozen, sink);
    give_way();
    file.commit();
  } catch (const Error& error) {
    // A process that has ended cannot run on.
    if (error.code() == Code::kGone) frozen_ = false;
    throw;
  }
  frozen_ = false;
  if (settings_.keep) {
    frozen.thaw();
  } else {
    frozen.kill();
  }
  report.freeze_ms = since_ms(freeze_start);
  report.total_ms = since_ms(start);
  return report;
}

}  // namespace telefork::migrate
