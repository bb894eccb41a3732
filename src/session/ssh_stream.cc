#include "session/ssh_stream.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <string_view>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/shell_word.h"
#include "protocol/handshake.h"
#include "session/become_user.h"
#include "session/spawn.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMaxSaid = 2048;
constexpr int kSshFailed = 255;  // ssh(1), "EXIT STATUS"
// Of the shell at the node.
constexpr int kCommandNotFound = 127;
constexpr int kCannotExecute = 126;
constexpr char kSayWhere[] =
    "have TELEFORK_SSH_TELEPAD, or ssh.telepad in config.toml, say where it is";
// For ssh to say why when its connection has ended already.
constexpr auto kWordsPatience = 3s;
constexpr auto kEndPatience = 1s;

// ssh ends its lines as on a terminal in raw mode.
std::string on_one_line(const std::string& said) {
  std::string line;
  for (char c : said) {
    if (c == '\r') continue;
    if (c == '\n') {
      if (!line.empty() && !line.ends_with("; ")) line += "; ";
    } else {
      line += c;
    }
  }
  while (line.ends_with(' ') || line.ends_with(';')) line.pop_back();
  return line;
}

}  // namespace

bool is_about_authorisation(const std::string& said) {
  constexpr std::array kWords = {"Permission denied",
                                 "Host key verification failed",
                                 "REMOTE HOST IDENTIFICATION HAS CHANGED",
                                 "Too many authentication failures",
                                 "No supported authentication methods",
                                 "Could not open a connection to your authentication agent"};
  return std::any_of(kWords.begin(), kWords.end(),
                     [&](const char* words) { return said.find(words) != std::string::npos; });
}

SshStream::SshStream(std::unique_ptr<net::FdStream> socket, UniqueFd errors, pid_t pid,
                     std::string telepad)
    : socket_(std::move(socket)),
      errors_(std::move(errors)),
      pid_(pid),
      telepad_(std::move(telepad)) {}

std::unique_ptr<SshStream> SshStream::connect(const net::NodeAddress& node, const std::string& ssh,
                                              const std::string& telepad) {
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  auto [errors, errors_there] = make_pipe();
  std::vector<std::string> arguments = {"-T", "-a", "-x", "-oBatchMode=yes", "-oControlMaster=no",
                                        "-oClearAllForwardings=yes", "-oRemoteCommand=none",
                                        "-oPermitLocalCommand=no",
                                        // Since OpenSSH 8.7.
                                        "-oIgnoreUnknown=StdinNull,SessionType", "-oStdinNull=no",
                                        "-oSessionType=default", "-oConnectTimeout=10"};
  if (!node.user.empty()) arguments.insert(arguments.end(), {"-l", node.user});
  arguments.insert(arguments.end(),
                   {"--", node.host, quote_for_shell(telepad) + " --stdio --quiet"});
  Spawn what{ssh, std::move(arguments), {}, true, {}};
  what.standard = {theirs.get(), theirs.get(), errors_there.get()};
  // Its configuration may have it run whatever the user likes.
  what.prepare = drop_lent_capability;
  pid_t pid = spawn(what);
  auto socket = std::make_unique<net::FdStream>(std::move(ours), node.text());
  return std::unique_ptr<SshStream>(
      new SshStream(std::move(socket), std::move(errors), pid, telepad));
}

SshStream::~SshStream() {
  socket_.reset();
  if (pid_ == 0) return;
  for (int signal : {0, SIGTERM, SIGKILL}) {
    if (signal != 0) ::kill(pid_, signal);
    if (await_end(net::Deadline::in(kEndPatience))) return;
  }
}

// Only the end of it is kept, however much comes.
void SshStream::drain_errors() {
  std::array<char, 1024> bytes;
  for (;;) {
    pollfd entry{errors_.get(), POLLIN, 0};
    if (!errors_ || net::poll_until({&entry, 1}, net::Deadline::now()) == 0) return;
    ssize_t count = ::read(errors_.get(), bytes.data(), bytes.size());
    if (count <= 0) return errors_.reset();
    said_.append(bytes.data(), static_cast<std::size_t>(count));
    if (said_.size() > kMaxSaid) said_.erase(0, said_.size() - kMaxSaid);
  }
}

bool SshStream::await_end(net::Deadline deadline) {
  if (pid_ == 0) return true;
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  while (process) {
    std::array<pollfd, 2> entries = {{{process.get(), POLLIN, 0}, {errors_.get(), POLLIN, 0}}};
    if (net::poll_until(entries, deadline) == 0) return false;
    drain_errors();
    if (entries[0].revents != 0) break;
  }
  // Somebody else may have reaped it.
  ::waitpid(pid_, &status_, 0);
  pid_ = 0;
  return true;
}

std::optional<Error> SshStream::try_explain() {
  bool ended = await_end(net::Deadline::in(kWordsPatience));
  drain_errors();
  if (ended && WIFEXITED(status_) && WEXITSTATUS(status_) == 0 && heard_) return std::nullopt;
  std::string text = name() + ": ";
  std::string words = on_one_line(said_);
  Code code = heard_ ? Code::kLost : Code::kUnreachable;
  if (!ended) {
    text += "the node closed the connection";
  } else if (WIFSIGNALED(status_)) {
    text += fmt::format("ssh was killed by signal {}", WTERMSIG(status_));
  } else if (WEXITSTATUS(status_) == kSshFailed) {
    if (is_about_authorisation(said_)) code = heard_ ? code : Code::kUnauthorised;
    text += "ssh failed";
  } else if (WEXITSTATUS(status_) == kCommandNotFound) {
    text += fmt::format("{} is not to be found there; install telefork there, or {}", telepad_,
                        kSayWhere);
  } else if (WEXITSTATUS(status_) == kCannotExecute) {
    text +=
        fmt::format("{} cannot be executed there; make it a program, or {}", telepad_, kSayWhere);
  } else {
    text += fmt::format("{} ended there with {}", telepad_, WEXITSTATUS(status_));
  }
  if (!words.empty()) text += ": " + words;
  return Error(code, text);
}

// What has come and nobody has read yet; nothing where that is to be had no more.
std::size_t SshStream::read_rest(Bytes bytes) {
  try {
    return socket_->try_read(bytes).value_or(0);
  } catch (const Error& error) {
    if (error.code() != Code::kLost) throw;
    return 0;
  }
}

// A shell may greet, or tell why it starts nothing, where telepad is to speak.
void SshStream::check_is_telepad(ConstBytes begun) {
  auto text_of = [](ConstBytes bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  std::string said(text_of(begun));
  if (protocol::begins_greeting(said)) return;
  std::array<std::byte, 512> more;
  said += text_of(std::span(more).first(read_rest(more)));
  throw Error(Code::kUnreachable,
              fmt::format("{}: what answers is no telepad; have the shell there print nothing "
                          "before {} starts, and {}; it says: {}",
                          name(), telepad_, kSayWhere, on_one_line(said)));
}

std::optional<std::size_t> SshStream::try_read(Bytes bytes) {
  drain_errors();
  std::optional<std::size_t> count;
  try {
    count = socket_->try_read(bytes);
  } catch (const Error& error) {
    if (error.code() != Code::kLost) throw;
    count = 0;
  }
  if (!count || bytes.empty()) return count;
  if (*count > 0) {
    if (!heard_) check_is_telepad(bytes.first(*count));
    heard_ = true;
  } else if (std::optional<Error> why = try_explain()) {
    throw Error(*why);
  }
  return count;
}

std::optional<std::size_t> SshStream::try_write(ConstBytes head, ConstBytes body) {
  drain_errors();
  try {
    return socket_->try_write(head, body);
  } catch (const Error& error) {
    if (error.code() != Code::kLost) throw;
    // It may have said something that is no greeting, and have ended before it heard ours.
    std::array<std::byte, 512> said;
    if (!heard_) check_is_telepad(std::span(said).first(read_rest(said)));
    if (std::optional<Error> why = try_explain()) throw Error(*why);
    throw;
  }
}

}  // namespace telefork::session
