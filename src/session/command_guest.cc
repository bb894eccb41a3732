#include "session/command_guest.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/soft_limits.h"
#include "session/become_user.h"

namespace telefork::session {
namespace {

constexpr int kNotFound = 127;
constexpr int kNotExecutable = 126;

std::vector<std::string> decode_strings(::capnp::List<::capnp::Data>::Reader list) {
  std::vector<std::string> strings;
  for (::capnp::Data::Reader data : list) {
    strings.emplace_back(reinterpret_cast<const char*>(data.begin()), data.size());
  }
  return strings;
}

std::vector<char*> as_pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

CommandGuest::CommandGuest(UniqueFd (&streams)[3]) {
  for (int i = 0; i < 3; ++i) streams_[i] = std::move(streams[i]);
}

CommandGuest::~CommandGuest() {
  if (pid_ == 0 || started_) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void CommandGuest::decode(image::schema::Command::Reader command) {
  arguments_ = decode_strings(command.getArguments());
  environment_ = decode_strings(command.getEnvironment());
  cwd_ = command.getCwd();
  umask_ = command.getUmask();
  nice_ = command.getNice();
  ignored_signals_ = command.getIgnoredSignals();
  if (arguments_.empty()) throw Error(Code::kCorrupt, "the command has no name");
}

void CommandGuest::receive(image::RecordSource& source) {
  bool decoded = false;
  for (image::Record record = source.next(); record.type() != image::RecordType::kEnd;
       record = source.next()) {
    if (record.type() == image::RecordType::kCommand) {
      decode(record.get<image::schema::Command>());
      decoded = true;
    }
    source.skip_payload();
  }
  if (!decoded) throw Error(Code::kCorrupt, "the image has no command");
  if (::access(cwd_.c_str(), X_OK) != 0) {
    throw_errno("changing to directory " + cwd_ + " there", Code::kRefused);
  }
  auto [read_end, write_end] = make_pipe();
  pid_ = ::fork();
  if (pid_ < 0) throw_errno("forking for the command", Code::kResources);
  if (pid_ == 0) {
    write_end.reset();
    run_child(read_end.get());
  }
  gate_ = std::move(write_end);
  for (UniqueFd& stream : streams_) stream.reset();
}

void CommandGuest::start() {
  started_ = true;
  // If the child is gone already its status tells.
  [[maybe_unused]] ssize_t told = ::write(gate_.get(), "", 1);
  gate_.reset();
}

void CommandGuest::run_child(int gate) {
  ::setpgid(0, 0);
  char byte = 0;
  ssize_t opened = ::read(gate, &byte, 1);
  if (opened != 1) ::_exit(kNotFound);
  for (int fd = 0; fd < 3; ++fd) {
    int from = streams_[fd].get();
    if (from < 0) {
      ::close(fd);
    } else if (from == fd) {
      ::fcntl(fd, F_SETFD, 0);
    } else {
      ::dup2(from, fd);
    }
  }
  ::close_range(3, ~0u, 0);
  for (int signal = 1; signal <= 64; ++signal) {
    ::signal(signal, (ignored_signals_ >> (signal - 1) & 1) != 0 ? SIG_IGN : SIG_DFL);
  }
  restore_soft_limits();
  // Nobody is refused less of the processor; more is the node's own matter.
  if (nice_ > ::getpriority(PRIO_PROCESS, 0)) ::setpriority(PRIO_PROCESS, 0, nice_);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::umask(umask_);
  std::vector<char*> arguments = as_pointers(arguments_);
  std::vector<char*> environment = as_pointers(environment_);
  int error = drop_lent_capability();
  if (error == 0 && ::chdir(cwd_.c_str()) != 0) error = errno;
  if (error == 0) {
    // execvpe looks in this process's PATH: the caller's environment decides.
    ::clearenv();
    for (const std::string& entry : environment_) ::putenv(const_cast<char*>(entry.c_str()));
    ::execvpe(arguments[0], arguments.data(), environment.data());
    error = errno;
  }
  std::string text = fmt::format("telefork: {}: {}\n", arguments_[0], std::strerror(error));
  [[maybe_unused]] ssize_t told = ::write(STDERR_FILENO, text.data(), text.size());
  ::_exit(error == ENOENT ? kNotFound : kNotExecutable);
}

}  // namespace telefork::session
