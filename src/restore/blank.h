// The blank process: a child of the keeper that becomes the guest.
//
//     Blank blank = Blank::start(settings);     // exec'ed, traced, stopped before its first
//                                               // instruction
//     blank.install_stub(address);
//     blank.stub().run(program);
//     ...
//     blank.give_fds(fds)                       // descriptors into it, in order
//
// It dies with its keeper until release() (PTRACE_O_EXITKILL), and the destructor kills and reaps
// it unless it was released. Owned by the keeper's main thread.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "restore/pid_namespace.h"
#include "tracee/stub.h"
#include "tracee/thread.h"

namespace telefork::restore {

struct BlankSettings {
  std::string program;        // path of telefork-blank
  pid_t want_pid = 0;         // 0: any
  bool pid_required = false;  // another pid is an Error (kRefused); else it is taken
  pid_t process_group = 0;    // to join; 0: one of its own
  // Where it is to be, with `want_pid` as it is seen there; null: where this process is.
  const PidNamespace* space = nullptr;
};

class Blank {
 public:
  static Blank start(const BlankSettings& settings);
  // One that runs telefork-blank already: `thread` stands still at its first instruction, with
  // PTRACE_O_EXITKILL, and `socket` is the other end of its descriptor `number`, which is its only
  // one.
  static Blank take(UniqueFd socket, int number, tracee::TracedThread thread);
  // One that another blank has made, with CLONE_PTRACE, inside a stub that found it as `born`: what
  // that one was then, beside the stub's pages. They have one socket, which belongs to whoever
  // runs.
  static std::unique_ptr<Blank> adopt(const Blank& maker, const tracee::ThreadState& born,
                                      pid_t pid, pid_t guest_pid);
  Blank(Blank&&) noexcept;
  Blank& operator=(Blank&&) = delete;
  ~Blank();

  pid_t pid() const { return pid_; }
  // As it sees itself, in its pid namespace.
  pid_t guest_pid() const { return guest_pid_; }
  tracee::TracedThread& thread() { return thread_; }
  tracee::Stub& stub() { return *stub_; }
  bool has_stub() const { return stub_ != nullptr; }
  void install_stub(const tracee::Stub::Options& options);

  // Through the socket that the blank was born with; their numbers there, in order.
  std::vector<int> give_fds(std::span<const int> fds);
  // The socket's number in a blank that was started here.
  static constexpr int kSocket = 3;
  int socket_number() const { return socket_number_; }

  // With all that has become of it. Whoever traces other threads of it waits for them before this
  // object goes, which waits for the whole.
  void kill();
  // It is a guest now: neither killed nor reaped by this object any more.
  void release() { pid_ = 0; }

 private:
  Blank(pid_t pid, pid_t guest_pid, UniqueFd socket, tracee::TracedThread thread);

  pid_t pid_;
  pid_t guest_pid_;
  UniqueFd socket_;
  int socket_number_ = kSocket;
  tracee::TracedThread thread_;
  std::unique_ptr<tracee::Stub> stub_;
};

}  // namespace telefork::restore
