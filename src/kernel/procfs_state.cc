#include "kernel/procfs_state.h"

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr std::size_t kMaxAuxEntries = 256;  // the kernel has about 25
constexpr std::size_t kMaxTimers = 1 << 20;

// notify: signal/tid.4711
void take_notify(PosixTimer& timer, TextScanner& scanner) {
  if (scanner.try_skip("signal/"))
    timer.notify = PosixTimer::Notify::kSignal;
  else if (scanner.try_skip("none/"))
    timer.notify = PosixTimer::Notify::kNone;
  else if (scanner.try_skip("thread/"))
    timer.notify = PosixTimer::Notify::kThread;
  else
    scanner.fail("signal, none or thread");
  timer.to_thread = scanner.try_skip("tid.");
  if (!timer.to_thread) scanner.expect("pid.");
  timer.target = scanner.integer();
}

// False for a line that starts with another key.
bool try_take_timer_line(PosixTimer& timer, TextScanner& scanner) {
  if (scanner.try_skip("signal: ")) {
    timer.signal = scanner.integer();
    scanner.expect('/');
    timer.value = scanner.try_skip("(null)") ? 0 : scanner.hex();
  } else if (scanner.try_skip("notify: ")) {
    take_notify(timer, scanner);
  } else if (scanner.try_skip("ClockID: ")) {
    timer.clock_id = scanner.integer();
  } else {
    return false;
  }
  scanner.end_line();
  return true;
}

// monotonic           0         0
TimeOffset parse_offset(TextScanner& scanner) {
  TimeOffset offset;
  scanner.skip_blanks();
  offset.seconds = scanner.signed_decimal();
  scanner.skip_blanks();
  offset.nanoseconds = scanner.signed_decimal();
  scanner.end_line();
  return offset;
}

void take_arguments(SyscallState& state, TextScanner& scanner) {
  for (std::uint64_t& argument : state.arguments) {
    scanner.expect(' ');
    argument = scanner.prefixed_hex();
  }
}

}  // namespace

AuxVector parse_auxv(std::string_view bytes) {
  constexpr std::size_t kEntry = 2 * sizeof(std::uint64_t);
  if (bytes.size() % kEntry != 0 || bytes.size() / kEntry > kMaxAuxEntries)
    throw Error(Code::kCorrupt, fmt::format("an auxiliary vector of {} bytes", bytes.size()));
  AuxVector entries;
  for (; !bytes.empty(); bytes.remove_prefix(kEntry)) {
    std::uint64_t entry[2];
    std::memcpy(entry, bytes.data(), kEntry);
    entries.emplace_back(entry[0], entry[1]);
  }
  return entries;
}

AuxVector read_auxv(pid_t pid) { return parse_auxv(read_proc_file(pid, "auxv")); }

std::string read_cmdline(pid_t pid) { return read_proc_file(pid, "cmdline"); }
std::string read_environ_block(pid_t pid) { return read_proc_file(pid, "environ"); }

std::string read_comm(pid_t pid, pid_t tid) {
  std::string comm = read_proc_file(pid, fmt::format("task/{}/comm", tid));
  // Exactly one: the name itself may end in newlines.
  if (comm.ends_with('\n')) comm.pop_back();
  return comm;
}

std::string read_wchan(pid_t tid) { return read_proc_file(tid, "wchan"); }

std::vector<PosixTimer> parse_timers(std::string_view text, std::string_view what) {
  std::vector<PosixTimer> timers;
  TextScanner scanner(text, what);
  while (!scanner.at_end()) {
    if (scanner.try_skip("ID: ")) {
      if (timers.size() == kMaxTimers) scanner.fail("fewer timers");
      timers.push_back({.id = scanner.integer()});
      scanner.end_line();
      continue;
    }
    if (timers.empty()) scanner.fail("'ID: '");
    if (!try_take_timer_line(timers.back(), scanner)) scanner.rest_of_line();
  }
  return timers;
}

std::vector<PosixTimer> read_timers(pid_t pid) {
  return parse_timers(read_proc_file(pid, "timers"), fmt::format("timers of {}", pid));
}

SyscallState parse_syscall(std::string_view text, std::string_view what) {
  SyscallState state;
  TextScanner scanner(text, what);
  if (scanner.try_skip("running")) return scanner.end_line(), state;
  state.number = scanner.integer();
  state.where = state.number < 0 ? SyscallState::Where::kInUser : SyscallState::Where::kInSyscall;
  if (state.number >= 0) take_arguments(state, scanner);
  scanner.expect(' ');
  state.stack_pointer = RemotePtr(scanner.prefixed_hex());
  scanner.expect(' ');
  state.instruction_pointer = RemotePtr(scanner.prefixed_hex());
  scanner.end_line();
  return state;
}

SyscallState read_syscall(pid_t tid) {
  return parse_syscall(read_proc_file(tid, "syscall"), fmt::format("syscall of {}", tid));
}

TimeNamespaceOffsets parse_timens_offsets(std::string_view text, std::string_view what) {
  TimeNamespaceOffsets offsets;
  TextScanner scanner(text, what);
  scanner.expect("monotonic");
  offsets.monotonic = parse_offset(scanner);
  scanner.expect("boottime");
  offsets.boottime = parse_offset(scanner);
  if (!scanner.at_end()) scanner.fail("nothing more");
  return offsets;
}

TimeNamespaceOffsets read_timens_offsets(pid_t pid) {
  return parse_timens_offsets(read_proc_file(pid, "timens_offsets"),
                              fmt::format("timens_offsets of {}", pid));
}

TimeNamespaceOffsets try_read_timens_offsets(pid_t pid) {
  try {
    return read_timens_offsets(pid);
  } catch (const Error& error) {
    if (error.error() != ENOENT) throw;
    return {};
  }
}

std::string format_timens_offsets(const TimeNamespaceOffsets& offsets) {
  return fmt::format("monotonic {} {}\nboottime {} {}\n", offsets.monotonic.seconds,
                     offsets.monotonic.nanoseconds, offsets.boottime.seconds,
                     offsets.boottime.nanoseconds);
}

void write_timens_offsets(pid_t pid, const TimeNamespaceOffsets& offsets) {
  write_proc_file(pid, "timens_offsets", format_timens_offsets(offsets));
}

TimeOffset TimeOffset::of_nanoseconds(std::int64_t total) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  std::int64_t seconds = total / kSecond;
  if (seconds * kSecond > total) --seconds;  // rounded down, also below zero
  return {seconds, total - seconds * kSecond};
}

void map_single_user(pid_t pid, uid_t uid, gid_t gid) {
  write_proc_file(pid, "setgroups", "deny");
  write_proc_file(pid, "uid_map", fmt::format("{0} {0} 1", uid));
  write_proc_file(pid, "gid_map", fmt::format("{0} {0} 1", gid));
}

int read_oom_score_adj(pid_t pid) {
  return static_cast<int>(
      parse_signed_decimal(read_proc_file(pid, "oom_score_adj"), "oom_score_adj"));
}
void write_oom_score_adj(pid_t pid, int value) {
  write_proc_file(pid, "oom_score_adj", fmt::format("{}\n", value));
}

unsigned read_coredump_filter(pid_t pid) {
  std::string text = read_proc_file(pid, "coredump_filter");
  // A zombie has no memory and an empty filter.
  if (text.empty()) return 0;
  return static_cast<unsigned>(parse_hex(text, "coredump_filter"));
}
void write_coredump_filter(pid_t pid, unsigned value) {
  write_proc_file(pid, "coredump_filter", fmt::format("{:#x}\n", value));
}

std::uint64_t read_timerslack_ns(pid_t tid) {
  return parse_decimal(read_proc_file(tid, "timerslack_ns"), "timerslack_ns");
}

unsigned read_personality(pid_t pid) {
  return static_cast<unsigned>(parse_hex(read_proc_file(pid, "personality"), "personality"));
}

void write_uid_map(pid_t pid, std::string_view lines) { write_proc_file(pid, "uid_map", lines); }
void write_gid_map(pid_t pid, std::string_view lines) { write_proc_file(pid, "gid_map", lines); }
void deny_setgroups(pid_t pid) { write_proc_file(pid, "setgroups", "deny"); }

}  // namespace telefork::kernel
