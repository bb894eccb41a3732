#include "migrate/save.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/writer.h"
#include "kernel/pidfd.h"
#include "kernel/task_flags.h"
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

// So often they are looked at whose members never stand still; a look that finds one gone is short.
constexpr int kMostLooks = 32;
constexpr int kMostFailedLooks = 1000;

// What is said of one that ends in this instant, or has just closed what was to be looked at.
bool is_of_change(const Error& error) {
  return error.code() == Code::kGone || error.error() == ENOENT || error.error() == EBADF;
}

// One without memory any more is root's (kernel/ptrace.c, fs/proc/base.c: task_dump_owner).
bool is_forbidden(const Error& error) { return error.error() == EACCES || error.error() == EPERM; }

// How far the end of a process has come. One that ends is listed until it is waited for, and lets
// go of what it has in common with others one by one (kernel/exit.c, do_exit).
enum class End { kFar, kUnderWay, kOver };

End look_at_end(pid_t pid) {
  try {
    const kernel::Stat stat = kernel::read_stat(pid);
    if (stat.state == 'Z') return End::kOver;
    return (stat.flags & kernel::kPfExiting) != 0 ? End::kUnderWay : End::kFar;
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return End::kOver;
  }
}

using Seen = std::vector<std::pair<pid_t, End>>;

Seen see_tree(pid_t pid) {
  Seen seen;
  for (const pid_t member : capture::list_tree(pid)) seen.emplace_back(member, look_at_end(member));
  return seen;
}

// Returns when the ends that are under way are over, or take long: memory is given back page by
// page.
void await_ends(const Seen& seen) {
  constexpr int kPatienceMs = 100;
  for (const auto& [pid, end] : seen) {
    if (end != End::kUnderWay) continue;
    try {
      const UniqueFd process = kernel::open_pidfd(pid);
      pollfd over = {process.get(), POLLIN, 0};
      ::poll(&over, 1, kPatienceMs);
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
}

// They run: where somebody has begun or ended meanwhile, what they share may look as if others had
// it too. Then they are looked at once more, unless they never stand still.
capture::TreeSurvey look_at_tree(pid_t pid, const capture::SurveyOptions& options,
                                 capture::Survey earlier) {
  int failed = 0;
  for (int look = 1;; ++look) {
    const Seen before = see_tree(pid);
    try {
      capture::TreeSurvey tree =
          capture::survey_tree(pid, options, std::exchange(earlier, capture::Survey()));
      if (tree.refusals.empty() || look == kMostLooks) return tree;
      const Seen after = see_tree(pid);
      const bool is_any_ending = std::any_of(after.begin(), after.end(), [](const auto& member) {
        return member.second == End::kUnderWay;
      });
      if (after == before && !is_any_ending) return tree;
      await_ends(after);
    } catch (const Error& error) {
      // Of a member that has come and gone; of the first one it is final.
      const bool may_be_of_change =
          is_of_change(error) || (is_forbidden(error) && before.size() > 1);
      const int most = is_forbidden(error) ? kMostLooks : kMostFailedLooks;
      if (!may_be_of_change || ++failed >= most) throw;
      kernel::read_stat(pid);
      --look;
    }
  }
}

}  // namespace

capture::TreeSurvey survey_tree_by_pid(pid_t pid, const capture::SurveyOptions& options,
                                       capture::Survey earlier) {
  if (!kernel::has_own_proc()) {
    capture::throw_refusals(
        {capture::refuse(fmt::format("process {}", pid), capture::Reason::kForeignProc)});
  }
  try {
    capture::TreeSurvey tree = look_at_tree(pid, options, std::move(earlier));
    if (tree.refusals.empty()) return tree;
    // What one opened or mapped while it was looked at may have looked like what it is not.
    capture::TreeSurvey again = look_at_tree(pid, options, {});
    std::erase_if(again.refusals, [&](const capture::Refusal& refusal) {
      return std::find(tree.refusals.begin(), tree.refusals.end(), refusal) == tree.refusals.end();
    });
    return again;
  } catch (const Error& error) {
    const bool forbidden = is_forbidden(error);
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

capture::Survey survey_by_pid(pid_t pid, const capture::SurveyOptions& options,
                              capture::Survey earlier) {
  capture::TreeSurvey tree = survey_tree_by_pid(pid, options, std::move(earlier));
  tree.first().refusals = std::move(tree.refusals);
  return std::move(tree.first());
}

void Save::give_way() const {
  if (settings_.interrupted && settings_.interrupted()) {
    throw Error(Code::kFailed, fmt::format("interrupted while saving process {}", settings_.pid));
  }
}

// A file is taken from where it is loaded if it is the same there, which its hash tells; one that
// has no name any more travels.
void Save::settle_files(capture::TreeSurvey& tree, const capture::Survey* before) const {
  capture::Survey& survey = tree.first();
  auto& entries = survey.files.entries();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    capture::FileEntry& entry = entries[i];
    if (entry.must_be_same || entry.moves() || !S_ISREG(entry.stat.st_mode)) continue;
    const bool made_up = kernel::is_made_up(entry.identity.fs_type);
    const bool embeds = settings_.embed_files && !made_up;
    if (entry.readable && !made_up && (embeds || entry.deleted)) {
      survey.files.carry_content(i);
    } else if (entry.deleted || (embeds && !entry.readable)) {
      tree.refusals.push_back(
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

capture::TreeSurvey Save::survey(const capture::Survey* before) const {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kSave;
  options.trace_bar = settings_.trace_bar;
  options.copy_shared = settings_.copy_shared;
  options.own_namespaces = settings_.own_namespaces;
  capture::TreeSurvey tree = survey_tree_by_pid(settings_.pid, options);
  if (tree.refusals.empty()) settle_files(tree, before);
  capture::throw_refusals(tree.refusals);
  return tree;
}

void Save::write_member(capture::TreeSurvey& tree, std::size_t member,
                        tracee::FrozenProcess& frozen, image::RecordSink& sink) const {
  const capture::Survey& survey = tree.members[member];
  const capture::CommonPart common(tree, member);
  tracee::Stub stub(frozen.leader(), survey.pid, {});
  capture::CaptureSettings settings;
  settings.pagemap = settings_.pagemap;
  settings.on_progress = [this](std::uint64_t) { give_way(); };
  settings = capture::settings_of(tree, member, std::move(settings));
  capture::Capture capture(survey, frozen, stub, settings);
  capture.write_metadata(sink);
  // Pages are read from outside: from here on there is nothing of ours in the process.
  stub.remove();
  capture.write_pages(sink);
}

image::Totals Save::write_image(capture::TreeSurvey& tree, tracee::FrozenTree& frozen,
                                image::ByteSink& file) const {
  image::Writer writer(file);
  write_header(writer, settings_.creator);
  capture::write_tree(tree, writer);
  for (std::size_t i = 0; i < tree.members.size(); ++i) {
    give_way();
    write_member(tree, i, frozen.of(tree.members[i].pid), writer);
  }
  writer.end();
  return writer.totals();
}

std::uint64_t Save::options_of(pid_t pid) {
  if (kernel::read_status(pid).seccomp == 0) return 0;
  under_seccomp_.insert(pid);
  return PTRACE_O_SUSPEND_SECCOMP;
}

// One that has got a filter between the look at it and its freeze would be killed by it.
void Save::check_seccomp(const capture::TreeSurvey& tree) const {
  for (const capture::Survey& member : tree.members) {
    if ((member.status.seccomp != 0) == under_seccomp_.contains(member.pid)) continue;
    capture::throw_refusals(
        {capture::refuse(fmt::format("process {}", member.pid), capture::Reason::kSeccomp)});
  }
}

tracee::FrozenTree Save::freeze(bool alone) {
  tracee::Patience patience{tracee::FrozenProcess::kLimit};
  if (settings_.interrupted) {
    patience.interrupt_fd = settings_.interrupt_fd;
    patience.interrupted = settings_.interrupted;
  }
  try {
    return tracee::FrozenTree::freeze(
        settings_.pid, [this](pid_t pid) { return options_of(pid); }, patience);
  } catch (const Error& error) {
    // Others of its threads, or of its tree, stood still by then.
    frozen_ = error.code() == Code::kFailed || (!alone && error.code() != Code::kGone);
    throw;
  }
}

SaveReport Save::run() {
  auto start = Clock::now();
  SaveReport report;
  if (settings_.path.empty()) throw Error(Code::kUsage, "the file has no name");
  if (!settings_.keep) refuse_what_keeps_nothing(settings_.path);
  capture::TreeSurvey before = survey(nullptr);
  refuse_what_the_process_uses(settings_.path, before.first());
  net::FileSink file(settings_.path, [this] { give_way(); });
  protocol::FileByteSink sink(file);
  give_way();

  auto freeze_start = Clock::now();
  tracee::FrozenTree frozen = freeze(before.alone());
  frozen_ = true;
  try {
    capture::TreeSurvey now = survey(&before.first());
    check_seccomp(now);
    for (tracee::FrozenProcess& process : frozen.processes()) {
      if (process.leader().in_group_stop()) now.stopped.insert(process.pid());
    }
    report.processes = now.members.size();
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
