#include "kernel/procfs_fdinfo.h"

#include <string_view>

#include "base/error.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

// The rest of the first line that begins with `key`.
std::optional<std::string_view> find(const FdInfo& info, std::string_view key) {
  for (const std::string& line : info.details) {
    if (line.starts_with(key)) return std::string_view(line).substr(key.size());
  }
  return std::nullopt;
}

std::string_view need(const FdInfo& info, std::string_view key) {
  if (auto value = find(info, key)) return trim(*value);
  throw Error(Code::kCorrupt, "fdinfo has no line " + std::string(key));
}

// "(12, 345)": seconds, nanoseconds.
std::int64_t parse_time(std::string_view text, std::string_view what) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  constexpr std::int64_t kMost = INT64_MAX / kSecond - 1;
  TextScanner scanner(text, what);
  scanner.expect('(');
  std::int64_t seconds = scanner.signed_decimal();
  scanner.expect(',');
  scanner.skip_blanks();
  std::int64_t nanoseconds = scanner.signed_decimal();
  scanner.expect(')');
  if (seconds < 0 || seconds > kMost || nanoseconds < 0 || nanoseconds >= kSecond) {
    scanner.fail("a time");
  }
  return seconds * kSecond + nanoseconds;
}

// Behind "key:", blanks in front of the number allowed.
void expect_key(TextScanner& scanner, std::string_view key) {
  scanner.skip_blanks();
  scanner.expect(key);
  scanner.skip_blanks();
}

std::uint32_t hex32(TextScanner& scanner) {
  std::uint64_t value = scanner.hex();
  if (value > UINT32_MAX) scanner.fail("a 32-bit number");
  return static_cast<std::uint32_t>(value);
}

std::vector<std::byte> parse_bytes(std::string_view text, std::string_view what) {
  if (text.size() % 2 != 0) throw Error(Code::kCorrupt, std::string(what) + ": half a byte");
  std::vector<std::byte> bytes;
  for (std::size_t at = 0; at < text.size(); at += 2) {
    bytes.push_back(std::byte(parse_hex(text.substr(at, 2), what)));
  }
  return bytes;
}

InotifyTarget parse_watch(std::string_view line) {
  constexpr std::string_view kWhat = "an inotify watch";
  TextScanner scanner(line, kWhat);
  InotifyTarget target;
  expect_key(scanner, "inotify");
  expect_key(scanner, "wd:");
  target.number = static_cast<int>(hex32(scanner));
  expect_key(scanner, "ino:");
  target.inode = scanner.hex();
  expect_key(scanner, "sdev:");
  target.device = hex32(scanner);
  expect_key(scanner, "mask:");
  target.mask = hex32(scanner);
  expect_key(scanner, "ignored_mask:");
  scanner.hex();
  scanner.skip_blanks();
  // Of a filesystem that gives no handles there are none of these.
  if (scanner.at_line_end()) return target;
  expect_key(scanner, "fhandle-bytes:");
  const std::uint64_t size = scanner.hex();
  expect_key(scanner, "fhandle-type:");
  target.handle_type = static_cast<int>(hex32(scanner));
  expect_key(scanner, "f_handle:");
  target.handle = parse_bytes(scanner.word(), kWhat);
  if (target.handle.size() != size) scanner.fail("as many bytes as it says");
  return target;
}

// `state` of a lease is ACTIVE, BREAKING or BREAKER (lock_get_status in fs/locks.c).
LockInfo::Kind lock_kind(std::string_view word, std::string_view state) {
  if (word == "FLOCK") return LockInfo::Kind::kFlock;
  if (word == "POSIX") return LockInfo::Kind::kPosix;
  if (word == "OFDLCK") return LockInfo::Kind::kDescription;
  if (word == "LEASE" && state == "ACTIVE") return LockInfo::Kind::kLease;
  return LockInfo::Kind::kOther;
}

// "1: POSIX  ADVISORY  WRITE 4711 fe:00:10953200 3 6", the last being the last byte, or EOF.
LockInfo parse_lock(std::string_view text) {
  TextScanner scanner(text, "a lock");
  std::vector<std::string_view> words = split_words(text);
  LockInfo lock;
  if (words.size() < 3) scanner.fail("the kind of a lock");
  lock.kind = lock_kind(words[1], words[2]);
  if (lock.kind == LockInfo::Kind::kOther) return lock;
  if (words.size() < 8) scanner.fail("eight words");
  lock.exclusive = words[3] == "WRITE";
  lock.start = parse_decimal(words[6], "a lock");
  if (words[7] == "EOF") return lock;
  const std::uint64_t last = parse_decimal(words[7], "a lock");
  if (last < lock.start || last == UINT64_MAX) scanner.fail("the last byte behind the first");
  lock.length = last - lock.start + 1;
  return lock;
}

}  // namespace

EventfdInfo parse_eventfd(const FdInfo& info) {
  EventfdInfo eventfd;
  eventfd.count = parse_hex(need(info, "eventfd-count:"), "the count of an eventfd");
  if (auto semaphore = find(info, "eventfd-semaphore:")) {
    eventfd.semaphore = parse_decimal(*semaphore, "whether an eventfd is a semaphore") != 0;
  }
  return eventfd;
}

TimerfdInfo parse_timerfd(const FdInfo& info) {
  TimerfdInfo timer;
  timer.clock = static_cast<int>(parse_signed_decimal(need(info, "clockid:"), "a clock"));
  timer.expirations = parse_decimal(need(info, "ticks:"), "the expirations of a timerfd");
  timer.flags = static_cast<unsigned>(
      TextScanner(need(info, "settime flags:"), "the flags of a timerfd").octal());
  timer.remaining_ns = parse_time(need(info, "it_value:"), "the time of a timerfd");
  timer.interval_ns = parse_time(need(info, "it_interval:"), "the interval of a timerfd");
  return timer;
}

std::uint64_t parse_signalfd(const FdInfo& info) {
  return parse_hex(need(info, "sigmask:"), "the signals of a signalfd");
}

std::vector<EpollTarget> parse_epoll(const FdInfo& info) {
  std::vector<EpollTarget> targets;
  for (const std::string& line : info.details) {
    if (!line.starts_with("tfd:")) continue;
    TextScanner scanner(line, "a target of an epoll");
    EpollTarget target;
    expect_key(scanner, "tfd:");
    target.fd = scanner.integer();
    if (target.fd < 0) scanner.fail("a descriptor before this");
    expect_key(scanner, "events:");
    target.events = hex32(scanner);
    expect_key(scanner, "data:");
    target.data = scanner.hex();
    targets.push_back(target);
  }
  return targets;
}

std::vector<InotifyTarget> parse_inotify(const FdInfo& info) {
  std::vector<InotifyTarget> targets;
  for (const std::string& line : info.details) {
    if (line.starts_with("inotify ")) targets.push_back(parse_watch(line));
  }
  return targets;
}

std::uint64_t parse_sent_descriptors(const FdInfo& info) {
  auto count = find(info, "scm_fds:");
  return count ? parse_decimal(*count, "the descriptors sent through a socket") : 0;
}

pid_t parse_pidfd(const FdInfo& info) {
  return static_cast<pid_t>(parse_signed_decimal(need(info, "Pid:"), "the process of a pidfd"));
}

std::vector<LockInfo> parse_locks(const FdInfo& info) {
  std::vector<LockInfo> locks;
  for (const std::string& line : info.details) {
    if (line.starts_with("lock:")) locks.push_back(parse_lock(std::string_view(line).substr(5)));
  }
  return locks;
}

}  // namespace telefork::kernel
