// The floor: what moving the memory costs when nothing else is done.
//
//     carry_floor --size 1G [--pages small|huge] [--trials N] [--whole yes]
//
//     source            sender                                    receiver
//     touched memory -- process_vm_readv, 1 MB --> buffer
//                       send ------ unix stream socket ---------> recv into huge-page staging
//                                                                 one mremap into place
//
// Three processes, and the best known way for each step (docs/benchmarks.md has what was tried).
// The time is from the sender's first step to the return of the mremap. Not in it: the processes'
// start, any record or checksum, looking for zero pages, registers, descriptors.
//
// With --whole the start is in it: a fork() of the source as the snapshot, and a receiver that is
// exec'ed for it; this is what a small process is held against.
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "carry.h"
#include "measure.h"

extern char** environ;

namespace telefork::bench {
namespace {

constexpr int kSendBuffer = 2 * 1024 * 1024;
constexpr int kReceiverSocket = 3;  // where an exec'ed receiver finds it

void send_all(int socket, const std::byte* bytes, std::size_t size) {
  while (size > 0) {
    ssize_t n = send(socket, bytes, size, MSG_NOSIGNAL);
    if (n <= 0) fail_errno("send");
    bytes += n;
    size -= static_cast<std::size_t>(n);
  }
}

void receive_all(int socket, void* bytes, std::size_t size) {
  if (recv(socket, bytes, size, MSG_WAITALL) != static_cast<ssize_t>(size)) fail_errno("recv");
}

// Receives the size, then the memory, and answers with the time when it was in place.
void receive(int socket) {
  std::uint64_t size = 0;
  receive_all(socket, &size, sizeof size);
  Staging staging(size);
  for (std::size_t at = 0; at < size; at += kPiece) {
    receive_all(socket, staging.data() + at, std::min(kPiece, size - at));
  }
  staging.put_in_place();
  const double done = now();
  if (write(socket, &done, sizeof done) != sizeof done) _exit(1);
  _exit(0);
}

struct SocketPair {
  int ours = -1;
  int theirs = -1;
  SocketPair() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) fail_errno("socketpair");
    ours = fds[0];
    theirs = fds[1];
    // Root may pass the system's limit.
    if (setsockopt(ours, SOL_SOCKET, SO_SNDBUFFORCE, &kSendBuffer, sizeof kSendBuffer) != 0) {
      setsockopt(ours, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
    }
  }
  ~SocketPair() { close(ours); }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;
};

pid_t fork_receiver(const SocketPair& sockets) {
  pid_t pid = fork();
  if (pid < 0) fail_errno("fork");
  if (pid == 0) receive(sockets.theirs);
  return pid;
}

pid_t exec_receiver(const SocketPair& sockets) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, sockets.theirs, kReceiverSocket);
  char name[] = "carry_floor";
  char mode[] = "--receive";
  char yes[] = "yes";
  char* arguments[] = {name, mode, yes, nullptr};
  pid_t pid = 0;
  errno = posix_spawn(&pid, "/proc/self/exe", &actions, nullptr, arguments, environ);
  if (errno != 0) fail_errno("posix_spawn");
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

void carry(pid_t source, const std::byte* from, std::uint64_t size, int socket) {
  static std::byte* const buffer = make_buffer();
  send_all(socket, reinterpret_cast<const std::byte*>(&size), sizeof size);
  for (std::size_t at = 0; at < size; at += kPiece) {
    const std::size_t piece = std::min<std::size_t>(kPiece, size - at);
    read_piece(source, from + at, buffer, piece);
    send_all(socket, buffer, piece);
  }
}

double carry_once(const Source& source, std::size_t size) {
  SocketPair sockets;
  pid_t receiver = fork_receiver(sockets);
  close(sockets.theirs);
  usleep(1000);
  const double start = now();
  carry(source.pid(), source.memory(), size, sockets.ours);
  double done = 0;
  receive_all(sockets.ours, &done, sizeof done);
  reap(receiver);
  return done - start;
}

double carry_whole(TouchedMemory& memory) {
  memory.own_again();
  const double start = now();
  pid_t snapshot = fork_bound_child();
  if (snapshot == 0) {
    for (;;) pause();
  }
  SocketPair sockets;
  pid_t receiver = exec_receiver(sockets);
  close(sockets.theirs);
  carry(snapshot, memory.data(), memory.size(), sockets.ours);
  double done = 0;
  receive_all(sockets.ours, &done, sizeof done);
  kill(snapshot, SIGKILL);
  waitpid(snapshot, nullptr, 0);
  reap(receiver);
  return done - start;
}

void run(const Arguments& arguments) {
  const std::size_t size = arguments.size("size");
  const bool whole = arguments.has("whole");
  std::unique_ptr<TouchedMemory> memory;
  std::unique_ptr<Source> source;
  if (whole) {
    memory = std::make_unique<TouchedMemory>(size, arguments.pages());
  } else {
    source = std::make_unique<Source>(size, arguments.pages());
  }
  std::vector<double> samples;
  for (long i = -1; i < arguments.number("trials", 5); ++i) {
    const double time = whole ? carry_whole(*memory) : carry_once(*source, size);
    if (i >= 0) samples.push_back(time);
  }
  Record record(whole ? "floor_whole" : "floor_carry");
  record.number("size", static_cast<double>(size));
  record.text("pages", arguments.text("pages", "small"));
  record.samples("carry_ms", samples);
  record.print();
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  telefork::bench::Arguments arguments(argc, argv, {"size", "pages", "trials", "whole", "receive"});
  if (arguments.has("receive")) telefork::bench::receive(telefork::bench::kReceiverSocket);
  telefork::bench::run(arguments);
  return 0;
}
