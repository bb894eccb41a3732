#include "deputy/supervisor.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <utility>

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::deputy {
namespace {

constexpr int kStandardErrorPatienceMs = 1000;

int status_of(const tracee::StopWatch::Event& event) {
  constexpr int kContinued = 0xffff;
  switch (event.kind) {
    case tracee::StopWatch::Event::Kind::kStopped:
      return event.signal << 8 | 0x7f;
    case tracee::StopWatch::Event::Kind::kContinued:
      return kContinued;
    case tracee::StopWatch::Event::Kind::kEnded:
      break;
  }
  return event.wait_status;
}

telefork_abi_header make_header(telefork_abi_magic magic, std::size_t size) {
  return {.magic = magic,
          .version = TELEFORK_ABI_VERSION,
          .size = static_cast<std::uint32_t>(size),
          .reserved = 0};
}

}  // namespace

void tell_on(const UniqueFd& standard_error, std::string_view text) {
  const std::string line = "telefork: " + std::string(text) + "\n";
  pollfd ready{.fd = standard_error.get(), .events = POLLOUT, .revents = 0};
  // A short write after a poll does not block, whoever shares the description; a reader that never
  // comes must not keep the pid alive.
  if (standard_error && poll(&ready, 1, kStandardErrorPatienceMs) == 1) {
    [[maybe_unused]] const ssize_t n =
        write(standard_error.get(), line.data(), std::min<std::size_t>(line.size(), 4096));
  }
}

Supervisor::Supervisor(tracee::StopWatch watch, UniqueFd socket, UniqueFd standard_error)
    : watch_(std::move(watch)),
      socket_(std::move(socket)),
      standard_error_(std::move(standard_error)) {
  auto [read_end, write_end] = make_pipe();
  send(TELEFORK_DEPUTY_START, 0, read_end.get());
  lifeline_ = std::move(write_end);
}

// The kernel lets a traced process run in the middle of a stop. A SIGCONT that ends it meanwhile is
// read by the deputy, as any other.
void Supervisor::begin(tracee::TracedThread& leader) {
  try {
    tracee::StopWatch::settle(leader);
    held_ = leader.in_group_stop();
    if (held_) leader.run_into_system_call(SYS_poll);
    tracee::StopWatch::begin(leader);
  } catch (const Error&) {
    watch_.release();
    throw;
  }
}

void Supervisor::on_readable() {
  while (socket_) {
    std::byte bytes[8 * sizeof(telefork_deputy_event)];
    const ssize_t n = recv(socket_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return socket_.reset();  // its end follows by SIGCHLD
    received_.insert(received_.end(), bytes, bytes + n);
    std::size_t used = 0;
    for (; received_.size() - used >= sizeof(telefork_deputy_event);
         used += sizeof(telefork_deputy_event)) {
      telefork_deputy_event event;
      std::memcpy(&event, received_.data() + used, sizeof event);
      on_event(event);
    }
    received_.erase(received_.begin(), received_.begin() + static_cast<std::ptrdiff_t>(used));
  }
}

void Supervisor::on_event(const telefork_deputy_event& event) {
  const telefork_abi_header expected = make_header(TELEFORK_MAGIC_EVENT, sizeof event);
  if (std::memcmp(&event.header, &expected, sizeof expected) != 0) {
    throw Error(Code::kCorrupt, "reading from the deputy: not an event of this version");
  }
  switch (event.kind) {
    case TELEFORK_DEPUTY_READY:
      events_.push_back({.kind = Event::Kind::kReady});
      return;
    case TELEFORK_DEPUTY_OBEYED:
      --unacknowledged_;
      return;
    case TELEFORK_DEPUTY_ECHOED:
      --unanswered_;
      return;
    case TELEFORK_DEPUTY_PARENT_DIED:
      events_.push_back({.kind = Event::Kind::kParentDied});
      return;
    case TELEFORK_DEPUTY_SIGNAL:
      if (event.info.ssi_signo == SIGCONT) on_continued();
      events_.push_back({.kind = Event::Kind::kSignal,
                         .info = event.info,
                         .from_terminal = event.info.ssi_code == SI_KERNEL});
      return;
    default:
      throw Error(Code::kCorrupt, "reading from the deputy: an event of an unknown kind");
  }
}

// By somebody at home; the deputy may have a STOP before it that it has not read.
void Supervisor::on_continued() {
  if (std::exchange(held_, false) && unacknowledged_ > 0) send(TELEFORK_DEPUTY_CONTINUE, 0);
}

void Supervisor::on_sigchld() {
  on_readable();  // what it has acknowledged before it stopped
  for (const tracee::StopWatch::Event& event : watch_.on_sigchld()) {
    if (tell_change_) tell_change_(status_of(event));
    switch (event.kind) {
      case tracee::StopWatch::Event::Kind::kStopped:
        on_stopped(event.signal);
        break;
      case tracee::StopWatch::Event::Kind::kContinued:
        break;  // the SIGCONT itself comes by the socket
      case tracee::StopWatch::Event::Kind::kEnded:
        on_readable();
        events_.push_back({.kind = ending_ ? Event::Kind::kEnded : Event::Kind::kKilled,
                           .wait_status = event.wait_status});
        break;
    }
  }
}

void Supervisor::on_stopped(int signal) {
  if (ending_ || (!held_ && unacknowledged_ > 0)) return wake();  // it has to read that
  if (std::exchange(held_, true)) return;
  events_.push_back({.kind = Event::Kind::kStopped, .signal = signal});
}

std::optional<Event> Supervisor::next_event() {
  if (events_.empty()) return std::nullopt;
  Event event = events_.front();
  events_.pop_front();
  return event;
}

// A deputy that is gone or going gives EPIPE; its end follows by SIGCHLD. The socket never fills:
// a command is a few bytes, and one that waits is followed by few.
void Supervisor::send(telefork_deputy_command_kind kind, int value, int fd) {
  telefork_deputy_command command{
      .header = make_header(TELEFORK_MAGIC_COMMAND, sizeof command), .kind = kind, .value = value};
  if (!socket_) return;
  iovec part{&command, sizeof command};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  ssize_t n;
  do {
    n = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno != EPIPE && errno != ECONNRESET) throw_errno("writing to the deputy");
  if (kind == TELEFORK_DEPUTY_STOP || kind == TELEFORK_DEPUTY_CONTINUE) ++unacknowledged_;
}

void Supervisor::ask_for_signals() {
  if (watch_.pid() == 0 || ending_) return;
  send(TELEFORK_DEPUTY_ECHO, 0);
  ++unanswered_;
}

// The deputy knows this SIGCONT by its value and does not send it on.
void Supervisor::wake() {
  siginfo_t info{};
  info.si_signo = SIGCONT;
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_uid = getuid();
  const std::uint64_t value = TELEFORK_DEPUTY_CONTINUE_VALUE;
  std::memcpy(&info.si_value, &value, sizeof value);
  if (watch_.pid() != 0) syscall(SYS_rt_sigqueueinfo, watch_.pid(), SIGCONT, &info);
}

void Supervisor::end(telefork_deputy_command_kind kind, int value) {
  if (watch_.pid() == 0 || ending_) return;
  ending_ = true;
  send(kind, value);
  if (watch_.stopped()) wake();
}

void Supervisor::exit_with(int status) { end(TELEFORK_DEPUTY_EXIT, status); }

void Supervisor::die(int signal) {
  if (signal != SIGKILL) return end(TELEFORK_DEPUTY_DIE, signal);
  ending_ = true;
  if (watch_.pid() != 0) kill(watch_.pid(), SIGKILL);
}

void Supervisor::stop(int signal) {
  if (watch_.pid() == 0 || ending_ || held_) return;
  held_ = true;
  send(TELEFORK_DEPUTY_STOP, signal);
}

// The command takes back a stop that the deputy has not read yet; the signal ends one that it has,
// now or when the stop is seen.
void Supervisor::resume() {
  if (watch_.pid() == 0 || ending_ || !held_) return;
  held_ = false;
  send(TELEFORK_DEPUTY_CONTINUE, 0);
  if (watch_.stopped()) wake();
}

void Supervisor::fail(std::string_view text) {
  tell(text);
  exit_with(TELEFORK_FAILED_STATUS);
}

}  // namespace telefork::deputy
