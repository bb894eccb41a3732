#include "tracee/fd_passing.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/error.h"

namespace telefork::tracee {
namespace {

constexpr std::size_t kMaxFdsAtOnce = 253;  // SCM_MAX_FD (include/net/scm.h)

void send_fds(int socket, std::span<const int> fds) {
  char byte = 0;
  iovec io = {&byte, 1};
  std::vector<char> control(CMSG_SPACE(fds.size_bytes()));
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) {
    throw_errno("sending descriptors to the process");
  }
}

struct Reception {
  SyscallProgram program;
  Data control;
  Data message;
};

Reception receive_fds(int socket, std::size_t count, bool closes) {
  Reception reception;
  SyscallProgram& program = reception.program;
  Data byte = program.buffer(1);
  Data io = program.buffer(sizeof(iovec));
  // Until they are there they are no descriptors.
  std::vector<std::byte> none(CMSG_SPACE(count * sizeof(int)), std::byte{0xff});
  reception.control = program.bytes(none);
  reception.message = program.buffer(sizeof(msghdr));
  iovec raw_io = {nullptr, 1};
  program.patch(io, std::as_bytes(std::span(&raw_io, 1)));
  program.point(io, byte);
  msghdr raw{};
  raw.msg_iovlen = 1;
  raw.msg_controllen = none.size();
  program.patch(reception.message, std::as_bytes(std::span(&raw, 1)));
  program.point(reception.message + offsetof(msghdr, msg_iov), io);
  program.point(reception.message + offsetof(msghdr, msg_control), reception.control);
  program.call_expecting("receiving descriptors", 1, SYS_recvmsg,
                         {socket, reception.message, MSG_CMSG_CLOEXEC});
  for (std::size_t i = 0; closes && i < count; ++i) {
    Result fd = program.undo(kOpLoad, {reception.control + CMSG_LEN(i * sizeof(int))});
    program.undo(SYS_close, {fd});
  }
  return reception;
}

// Numbers are given out from the lowest on: there are few ranges of them.
void undo_numbers(std::vector<int> numbers, SyscallProgram& program) {
  std::sort(numbers.begin(), numbers.end());
  for (std::size_t first = 0, next = 0; first < numbers.size(); first = next) {
    next = first + 1;
    while (next < numbers.size() && numbers[next] == numbers[next - 1] + 1) ++next;
    program.undo(SYS_close_range, {numbers[first], numbers[next - 1], 0});
  }
}

ProgramRun run_reception(Stub& stub, const Reception& reception, int our_socket,
                         std::span<const int> fds) {
  if (!stub.has_farewell()) {
    send_fds(our_socket, fds);
    return stub.run(reception.program);
  }
  stub.start(reception.program, stub.allocate_for(reception.program));
  try {
    send_fds(our_socket, fds);
  } catch (const Error&) {
    stub.interrupt_program();
    throw;
  }
  stub.finish_program();
  ProgramRun run = stub.results();
  run.check(reception.program);
  return run;
}

}  // namespace

std::vector<int> give_fds(Stub& stub, int our_socket, int their_socket, std::span<const int> fds) {
  std::vector<int> numbers;
  while (!fds.empty()) {
    std::span<const int> batch = fds.first(std::min(fds.size(), kMaxFdsAtOnce));
    fds = fds.subspan(batch.size());
    // What came before is the caller's to undo only when all of it is known.
    Reception reception = receive_fds(their_socket, batch.size(), stub.has_farewell());
    if (stub.has_farewell()) undo_numbers(numbers, reception.program);
    ProgramRun run = run_reception(stub, reception, our_socket, batch);
    auto answer = run.object<msghdr>(reception.message);
    std::span<const std::byte> control = run.data(reception.control);
    std::size_t received = 0;
    cmsghdr header;
    std::memcpy(&header, control.data(), sizeof(header));
    if (answer.msg_controllen >= sizeof(header) && header.cmsg_type == SCM_RIGHTS) {
      received = (header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
    }
    received = std::min(received, batch.size());
    numbers.resize(numbers.size() + received);
    std::memcpy(numbers.data() + numbers.size() - received, control.data() + CMSG_LEN(0),
                received * sizeof(int));
    if (received == batch.size()) continue;
    SyscallProgram close;
    for (int number : numbers) close.call_any("closing a descriptor", SYS_close, {number});
    if (!close.empty()) stub.run(close);
    throw Error(Code::kResources, "the process has no room for more descriptors (limit nofile)",
                EMFILE);
  }
  return numbers;
}

}  // namespace telefork::tracee
