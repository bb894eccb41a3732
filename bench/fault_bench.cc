// One page of memory that follows, which a process waits for while nothing else is under way: by
// the pager and the page server, and beside it what nobody can do without.
//
//     fault_bench --size 64M [--trials N] [--rounds N]
//
//     guest              handler                            server            source
//     touches a page --> read, userfaultfd
//                        want ------- unix stream socket --> read
//                                                            pread, 4 KB ----> /proc/PID/mem
//                        UFFDIO_COPY <---------------------- the page
//
// The floor's handler and server are a thread each, as the pager and the page server are, and do
// those steps alone. Each touch is far from the one before it, and some time after it, so that
// everybody sleeps and nothing was read ahead. By turns, `rounds` times.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "carry.h"
#include "kernel/probe.h"
#include "kernel/procfs.h"
#include "kernel/userfault.h"
#include "measure.h"
#include "migrate/page_server.h"
#include "migrate/pager.h"
#include "net/fd_passing.h"
#include "net/fd_stream.h"

namespace telefork::bench {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kStride = 64 * kPage;
constexpr int kPauseMicroseconds = 1000;

template <class Value>
void put(int fd, const Value& value) {
  if (write(fd, &value, sizeof value) != sizeof value) fail_errno("write");
}

template <class Value>
void get(int fd, Value& value) {
  if (recv(fd, &value, sizeof value, MSG_WAITALL) != sizeof value) fail_errno("recv");
}

// A process at whose memory nothing is yet; it touches that when it may, and tells how long each
// touch took.
class Guest {
 public:
  Guest(const TouchedMemory& memory, std::size_t touches) : size_(memory.size()) {
    auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
    pid_ = fork_bound_child();
    if (pid_ == 0) run(memory, touches, std::move(theirs));
    theirs.reset();
    std::byte byte{};
    net::ReceivedFds received =
        net::receive_fds(ours.get(), std::span(&byte, 1), 1, net::Deadline::never());
    if (received.fds.size() != 1) fail("the guest's userfaultfd did not come");
    faults_ = std::move(received.fds[0]);
    socket_ = std::move(ours);
    touches_ = touches;
  }

  pid_t pid() const { return pid_; }
  kernel::Userfault watch(RemotePtr start) {
    kernel::Userfault faults(std::move(faults_), false);
    faults.enlist(start, size_, false);
    return faults;
  }
  std::vector<double> touch_all() {
    put(socket_.get(), std::byte{1});
    std::vector<double> times(touches_);
    for (double& time : times) get(socket_.get(), time);
    reap(pid_);
    return times;
  }

 private:
  [[noreturn]] static void run(const TouchedMemory& memory, std::size_t touches, UniqueFd socket) {
    void* empty = mmap(memory.data(), memory.size(), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (empty == MAP_FAILED) fail_errno("mmap");
    UniqueFd faults(static_cast<int>(syscall(SYS_userfaultfd, kernel::Userfault::flags())));
    if (!faults) fail_errno("userfaultfd");
    std::byte byte{1};
    const int fds[] = {faults.get()};
    net::send_fds(socket.get(), std::span(&byte, 1), fds);
    faults.reset();
    get(socket.get(), byte);
    std::vector<double> times;
    for (std::size_t i = 0; i < touches; ++i) {
      usleep(kPauseMicroseconds);
      const double before = now();
      static_cast<void>(*const_cast<const volatile std::byte*>(memory.data() + i * kStride));
      times.push_back(now() - before);
    }
    for (double time : times) put(socket.get(), time);
    _exit(0);
  }

  std::size_t size_;
  std::size_t touches_ = 0;
  pid_t pid_ = 0;
  UniqueFd faults_;
  UniqueFd socket_;
};

// Has the pages in common with this process, as a fork's snapshot has.
class Snapshot {
 public:
  Snapshot() {
    pid_ = fork_bound_child();
    if (pid_ != 0) return;
    for (;;) pause();
  }
  ~Snapshot() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

class FaultBench {
 public:
  FaultBench(std::size_t size, std::size_t touches)
      : memory_(size, Pages::kSmall), touches_(touches) {}

  std::vector<double> by_pager() {
    Guest guest(memory_, touches_);
    auto [here, there] = net::make_stream_pair();
    migrate::ServedMemory memory;
    memory.pid = snapshot_.pid();
    memory.shares_pages = true;
    memory.pagemap = kernel::pagemap_abi(kernel::probe_features());
    memory.mappings.push_back(mapping());
    migrate::PageServer server(std::move(there), {memory});
    migrate::Pager pager(std::move(here), "the source", migrate::Pager::Guard{});
    const kernel::PageRun whole{start(), memory_.size() / kPage};
    pager.begin(guest.pid(), guest.watch(start()), {&whole, 1}, {}, {}, false);
    std::vector<double> times = guest.touch_all();
    pager.check();
    return times;
  }

  std::vector<double> by_hand() {
    Guest guest(memory_, touches_);
    const kernel::Userfault faults = guest.watch(start());
    auto [here, there] = make_socket_pair(SOCK_STREAM);
    std::thread server([this, &socket = there] { serve_bare(socket.get()); });
    auto [over, end] = make_socket_pair(SOCK_STREAM);
    std::thread handler([&faults, &socket = here, &until = end] {
      handle_bare(faults, socket.get(), until.get());
    });
    std::vector<double> times = guest.touch_all();
    over.reset();
    handler.join();
    shutdown(here.get(), SHUT_RDWR);
    server.join();
    return times;
  }

 private:
  RemotePtr start() const { return RemotePtr(reinterpret_cast<std::uintptr_t>(memory_.data())); }
  kernel::Vma mapping() const {
    kernel::Vma vma;
    vma.start = start();
    vma.end = start() + memory_.size();
    vma.read = vma.write = true;
    return vma;
  }

  void serve_bare(int socket) const {
    const UniqueFd content = open_file(kernel::mem_path(snapshot_.pid()), O_RDONLY);
    std::uint64_t wanted = 0;
    std::byte page[kPage];
    while (recv(socket, &wanted, sizeof wanted, MSG_WAITALL) == sizeof wanted) {
      if (pread(content.get(), page, kPage, static_cast<off_t>(wanted)) != kPage) {
        fail_errno("pread");
      }
      put(socket, page);
    }
  }

  static void handle_bare(const kernel::Userfault& faults, int socket, int over) {
    alignas(kPage) std::byte page[kPage];
    for (;;) {
      pollfd entries[] = {{faults.fd(), POLLIN, 0}, {over, POLLIN, 0}};
      if (poll(entries, 2, -1) < 0) fail_errno("poll");
      if (entries[1].revents != 0) return;
      const auto event = faults.try_read();
      if (!event || event->kind != kernel::Userfault::Event::Kind::kFault) continue;
      put(socket, event->start.value());
      get(socket, page);
      const auto placed = faults.copy(event->start, page, false);
      if (placed.outcome != kernel::Userfault::Outcome::kDone) fail("UFFDIO_COPY");
    }
  }

  TouchedMemory memory_;
  Snapshot snapshot_;
  std::size_t touches_;
};

void run(const Arguments& arguments) {
  const std::size_t size = arguments.size("size");
  const auto most = static_cast<long>(size / kStride);
  FaultBench bench(size, static_cast<std::size_t>(std::min(most, arguments.number("trials", 200))));
  std::vector<double> pager;
  std::vector<double> floor;
  for (long round = 0; round < arguments.number("rounds", 4); ++round) {
    const std::vector<double> bare = bench.by_hand();
    floor.insert(floor.end(), bare.begin(), bare.end());
    const std::vector<double> served = bench.by_pager();
    pager.insert(pager.end(), served.begin(), served.end());
  }
  Record record("fault");
  record.text("node", "unix");
  record.text("pages", "small");
  record.number("size", static_cast<double>(size));
  record.samples("fault_ms", pager);
  record.samples("bare_ms", floor);
  record.print();
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  try {
    telefork::bench::run({argc, argv, {"size", "trials", "rounds"}});
  } catch (const telefork::Error& error) {
    telefork::bench::fail(error.text());
  }
  return 0;
}
