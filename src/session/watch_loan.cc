#include "session/watch_loan.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/tree.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_task.h"
#include "net/stream.h"
#include "session/guest_tree.h"
#include "session/registry.h"

namespace telefork::session {
namespace {

constexpr char kBack[] = "back";
constexpr char kHeld[] = "held";
constexpr char kLend[] = "lend";
constexpr char kLent[] = "lent";
constexpr char kNo[] = "no";
constexpr std::size_t kLongestLine = 256 * 1024;  // of thousands of processes
constexpr timeval kPatienceOfKeeper{1, 0};        // a request is sent with the connection
// It may take its time to stop those that it lends.
constexpr timeval kAnswerPatience{30, 0};

void set_patience(const UniqueFd& talk, timeval patience) {
  ::setsockopt(talk.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

// Nothing where nobody hears it.
void send_line(const UniqueFd& talk, std::string text) {
  text += '\n';
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t count = ::send(talk.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    rest.remove_prefix(static_cast<std::size_t>(count));
  }
}

// Empty where none comes.
std::string receive_line(const UniqueFd& talk) {
  std::string line;
  char c = 0;
  while (line.size() < kLongestLine) {
    const ssize_t count = ::recv(talk.get(), &c, 1, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count != 1) return "";
    if (c == '\n') return line;
    line += c;
  }
  return "";
}

bool has_ended(const UniqueFd& process) {
  pollfd entry{process.get(), POLLIN, 0};
  return net::poll_until({&entry, 1}, net::Deadline::now()) > 0;
}

}  // namespace

std::optional<KeeperCall> find_keeper_call(pid_t pid, const std::vector<std::string>& registries) {
  for (const SessionInfo& info : list_sessions(registries)) {
    if (info.role != "guest" || !descends_from(info.session, pid)) continue;
    return KeeperCall{info.session, info.call, info.namespaces};
  }
  return std::nullopt;
}

// ---- Who borrows ----

WatchLoan::WatchLoan(const KeeperCall& keeper, pid_t pid)
    : talk_(net::connect_unix(keeper.path)->release()) {
  set_patience(talk_, kAnswerPatience);
  send_line(talk_, fmt::format("{} {}", kLend, pid));
  std::istringstream answer(receive_line(talk_));
  std::string word;
  answer >> word;
  if (word == kNo) {
    std::string why;
    std::getline(answer >> std::ws, why);
    throw Error(Code::kFailed,
                fmt::format("process {}: its keeper does not let it go: {}", pid, why));
  }
  if (word != kLent) {
    throw Error(Code::kLost, fmt::format("process {}: its keeper does not answer", pid));
  }
  while (answer >> word) {
    int member = 0;
    int stopped = 0;
    if (std::sscanf(word.c_str(), "%d:%d", &member, &stopped) != 2) {
      throw Error(Code::kCorrupt, fmt::format("process {}: its keeper's answer is strange", pid));
    }
    members_[member] = stopped != 0;
  }
}

WatchLoan::~WatchLoan() { send_line(talk_, kBack); }

void WatchLoan::tell(pid_t pid, int status) {
  auto member = members_.find(pid);
  if (member == members_.end()) return;
  send_line(talk_, fmt::format("{} {}", pid, status));
  if (WIFEXITED(status) || WIFSIGNALED(status)) {
    members_.erase(member);
  } else {
    member->second = WIFSTOPPED(status);
  }
}

void WatchLoan::tell_stopped(pid_t pid, bool stopped) {
  auto member = members_.find(pid);
  if (member == members_.end() || member->second == stopped) return;
  tell(pid, stopped ? stopped_by(SIGSTOP) : kContinued);
}

void WatchLoan::tell_held(const tracee::HeldProcess& held) {
  if (members_.count(held.process.pid) == 0) return;
  send_line(talk_,
            fmt::format("{} {} {} {} {} {}", kHeld, held.process.pid, held.process.start_time,
                        held.caller, held.gate.value(), held.lease.value()));
}

// ---- Who lends ----

WatchLender::WatchLender(const std::string& registry, GuestMembers& members, Tell tell)
    : members_(members), tell_(std::move(tell)) {
  if (registry.empty()) return;
  try {
    listener_.emplace(net::listen_unix(call_path(registry, ::getpid()), 0600));
  } catch (const Error&) {
    // As of the registry itself: they cannot be moved on then, and who asks for it hears so.
  }
}

void WatchLender::add_interest(std::vector<pollfd>& entries) const {
  if (listener_) entries.push_back({listener_->fd(), POLLIN, 0});
  for (const Loan& loan : loans_) {
    if (loan.talk) {
      entries.push_back({loan.talk.get(), POLLIN, 0});
    } else if (!loan.over) {
      entries.push_back({loan.borrower.get(), POLLIN, 0});
    }
  }
}

void WatchLender::look() {
  if (listener_) accept();
  for (Loan& loan : loans_) {
    if (loan.talk) read(loan);
    if (!loan.talk && !loan.over) loan.over = has_ended(loan.borrower);
    if (loan.over) take_back(loan);
  }
  std::erase_if(loans_, [](const Loan& loan) { return loan.over && loan.pids.empty(); });
}

void WatchLender::accept() {
  UniqueFd talk = listener_->try_accept();
  if (!talk) return;
  const uid_t user = net::peer_credentials(talk.get()).uid;
  if (user != 0 && user != ::geteuid()) return;
  try {
    lend(talk.duplicate());
  } catch (const Error& error) {
    send_line(talk, fmt::format("{} {}", kNo, error.text()));
  }
}

void WatchLender::lend(UniqueFd talk) {
  set_patience(talk, kPatienceOfKeeper);
  int pid = 0;
  if (std::sscanf(receive_line(talk).c_str(), "lend %d", &pid) != 1) return;
  Loan loan{std::move(talk), {}, {}};
  loan.borrower = kernel::open_pidfd(net::peer_credentials(loan.talk.get()).pid);
  std::vector<GuestMembers::Change> changes;
  std::vector<GuestMembers::Lent> lent;
  try {
    lent = members_.lend(capture::list_tree(pid), tracee::Patience{tracee::FrozenProcess::kLimit},
                         changes);
  } catch (const Error&) {
    tell_(changes);
    throw;
  }
  tell_(changes);
  std::string answer = kLent;
  for (const GuestMembers::Lent& one : lent) {
    answer += fmt::format(" {}:{}", one.pid, one.stopped ? 1 : 0);
    loan.pids.push_back(one.pid);
  }
  send_line(loan.talk, answer);
  loans_.push_back(std::move(loan));
}

void WatchLender::read(Loan& loan) {
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t count = ::recv(loan.talk.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) return loan.talk.reset();
    loan.received.append(buffer.data(), static_cast<std::size_t>(count));
    for (std::size_t end; (end = loan.received.find('\n')) != std::string::npos;) {
      take_line(loan.received.substr(0, end), loan);
      loan.received.erase(0, end + 1);
    }
  }
}

void WatchLender::take_line(const std::string& line, Loan& loan) {
  tracee::HeldProcess held;
  unsigned long long start = 0;
  unsigned long long gate = 0;
  unsigned long long lease = 0;
  int pid = 0;
  int status = 0;
  if (line == kBack) {
    loan.over = true;
  } else if (std::sscanf(line.c_str(), "held %d %llu %d %llu %llu", &held.process.pid, &start,
                         &held.caller, &gate, &lease) == 5) {
    held.process.start_time = start;
    held.gate = RemotePtr(gate);
    held.lease = RemotePtr(lease);
    members_.note_held(held);
  } else if (std::sscanf(line.c_str(), "%d %d", &pid, &status) == 2 &&
             std::erase(loan.pids, pid) == 1) {
    if (members_.is_lent(pid)) tell_(members_.take(pid, status));
    if (members_.is_lent(pid)) loan.pids.push_back(pid);
  }
}

void WatchLender::take_back(Loan& loan) {
  std::vector<GuestMembers::Change> changes;
  loan.pids = members_.take_back(loan.pids, changes);
  tell_(changes);
}

}  // namespace telefork::session
