#include "kernel/probe_tries.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "base/unique_fd.h"
#include "kernel/abi.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_task.h"
#include "kernel/time_namespace.h"

namespace telefork::kernel {
namespace {

// A child by the bare system call: its exit signal is 0, so that it wakes nobody's SIGCHLD handler
// and no waitpid(-1) finds it; and no atfork handler runs. In it other threads' locks may be held:
// nothing but system calls is allowed there.
pid_t clone_child() {
  long pid = ::syscall(SYS_clone, 0, 0, 0, 0, 0);
  if (pid < 0) throw_errno("making a child to try what the kernel can do");
  return static_cast<pid_t>(pid);
}

int wait_for_child(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, __WALL) < 0 && errno == EINTR) {
  }
  return status;
}

// Whether `attempt`, in a child, came back true. A child that a seccomp filter kills did not.
template <class F>
bool works_in_child(F&& attempt) {
  pid_t pid = clone_child();
  if (pid == 0) ::_exit(attempt() ? 0 : 1);
  int status = wait_for_child(pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// A child that does nothing, for as long as its owner lives.
class IdleChild {
 public:
  IdleChild() : pid_(clone_child()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  IdleChild(const IdleChild&) = delete;
  IdleChild& operator=(const IdleChild&) = delete;
  ~IdleChild() {
    ::kill(pid_, SIGKILL);
    wait_for_child(pid_);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

// Anonymous memory, unmapped at the end of the scope.
class TrialMemory {
 public:
  TrialMemory(std::size_t size, int flags)
      : size_(size), data_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0)) {
    if (data_ == MAP_FAILED) throw_errno("mapping memory to try what the kernel can do");
  }
  TrialMemory(const TrialMemory&) = delete;
  TrialMemory& operator=(const TrialMemory&) = delete;
  ~TrialMemory() { ::munmap(data_, size_); }
  void* data() const { return data_; }
  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(data_); }

 private:
  std::size_t size_;
  void* data_;
};

UniqueFd try_open(const std::string& path, int flags) {
  return UniqueFd(::open(path.c_str(), flags | O_CLOEXEC));
}

PrctlMmMap current_mm_map() {
  Stat stat = read_stat(::getpid());
  return {.start_code = stat.start_code.value(),
          .end_code = stat.end_code.value(),
          .start_data = stat.start_data.value(),
          .end_data = stat.end_data.value(),
          .start_brk = stat.start_brk.value(),
          .brk = static_cast<std::uint64_t>(::syscall(SYS_brk, 0)),
          .start_stack = stat.start_stack.value(),
          .arg_start = stat.arg_start.value(),
          .arg_end = stat.arg_end.value(),
          .env_start = stat.env_start.value(),
          .env_end = stat.env_end.value(),
          .exe_fd = ~0u};
}

bool set_mm_map(const PrctlMmMap& map) {
  return ::prctl(kPrSetMm, kPrSetMmMap, &map, sizeof map, 0) == 0;
}

bool unshares(int flags) {
  return works_in_child([flags] { return ::syscall(SYS_unshare, flags) == 0; });
}

// Where a user may make user namespaces, but gets no capabilities in them (AppArmor), the second
// call fails.
bool unshares_in_user_namespace(int flags) {
  return works_in_child([flags] {
    return ::syscall(SYS_unshare, CLONE_NEWUSER) == 0 && ::syscall(SYS_unshare, flags) == 0;
  });
}

bool unshares_somehow(int flags) { return unshares(flags) || unshares_in_user_namespace(flags); }

UniqueFd userfaultfd_of_device() {
  UniqueFd device = try_open("/dev/userfaultfd", O_RDWR);
  if (!device) return {};
  return UniqueFd(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC));
}

UniqueFd userfaultfd(int flags) {
  return UniqueFd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | flags)));
}

}  // namespace

bool may_open_memory_of_child() {
  IdleChild child;
  return static_cast<bool>(try_open(mem_path(child.pid()), O_RDWR));
}

bool has_process_vm() {
  IdleChild child;
  char here = 0;
  static const char there = 1;
  iovec local{.iov_base = &here, .iov_len = 1};
  iovec remote{.iov_base = const_cast<char*>(&there), .iov_len = 1};
  return ::process_vm_readv(child.pid(), &local, 1, &remote, 1, 0) == 1 && here == 1;
}

bool has_pidfd_getfd() {
  IdleChild child;
  UniqueFd file = try_open("/", O_PATH | O_DIRECTORY);
  UniqueFd pidfd(static_cast<int>(::syscall(kNrPidfdOpen, child.pid(), 0)));
  if (!pidfd) return false;
  // The child was made before the file was opened: EBADF is the answer of a working call.
  UniqueFd taken(static_cast<int>(::syscall(kNrPidfdGetfd, pidfd.get(), file.get(), 0)));
  return static_cast<bool>(taken) || errno == EBADF;
}

// PTRACE_GET_RSEQ_CONFIGURATION is there when rseq(2) is (Linux 5.13, CONFIG_RSEQ), and no ptrace
// is needed to ask: flags that do not exist are EINVAL.
bool has_rseq() {
  return ::syscall(SYS_rseq, nullptr, 0, ~0u, 0) == 0 || (errno != ENOSYS && errno != EPERM);
}

bool has_mm_map() {
  PrctlMmMap map = current_mm_map();
  return works_in_child([&map] { return set_mm_map(map); });
}

// The old program is still mapped: EBUSY says that all else was right.
bool may_set_exe() {
  UniqueFd exe = try_open(exe_path(::getpid()), O_RDONLY);
  PrctlMmMap map = current_mm_map();
  map.exe_fd = static_cast<std::uint32_t>(exe.get());
  return exe && works_in_child([&map] { return set_mm_map(map) || errno == EBUSY; });
}

bool has_timer_restore_ids() {
  return ::prctl(kPrTimerCreateRestoreIds, kPrTimerCreateRestoreIdsGet, 0, 0, 0) >= 0;
}

bool has_pagemap_scan(std::uint64_t categories) {
  UniqueFd fd = try_open(pagemap_path(::getpid()), O_RDONLY);
  PageRegion region;
  PagemapScanArg query{.size = sizeof query,
                       .vec = reinterpret_cast<std::uint64_t>(&region),
                       .vec_len = 1,
                       .return_mask = categories};
  return fd && ::ioctl(fd.get(), kPagemapScan, &query) >= 0;
}

bool may_open_map_files() {
  TrialMemory memory(kPageSize, MAP_SHARED | MAP_ANONYMOUS);
  Vma vma;
  vma.start = RemotePtr(memory.address());
  vma.end = vma.start + kPageSize;
  // Each has a file of its own, so that it is never merged and this VMA is exactly there.
  return static_cast<bool>(try_open(map_files_path(::getpid(), vma), O_RDONLY));
}

bool has_madvise(int advice) {
  TrialMemory memory(kPageSize, MAP_PRIVATE | MAP_ANONYMOUS);
  return ::madvise(memory.data(), kPageSize, advice) == 0;
}

// EINVAL: not known. ENOMEM or EAGAIN: no huge page is free just now.
bool has_madvise_collapse() {
  TrialMemory memory(2 * kHugePageSize, MAP_PRIVATE | MAP_ANONYMOUS);
  void* aligned = reinterpret_cast<void*>(round_up(memory.address(), kHugePageSize));
  std::memset(aligned, 1, 1);
  return ::madvise(aligned, kHugePageSize, kMadvCollapse) == 0 || errno != EINVAL;
}

UffdSupport try_userfaultfd() {
  UffdSupport support;
  UniqueFd fd = userfaultfd(0);
  if (!fd) fd = userfaultfd_of_device();
  support.kernel_faults = static_cast<bool>(fd);
  if (!fd) fd = userfaultfd(UFFD_USER_MODE_ONLY);
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  support.present = fd && ::ioctl(fd.get(), UFFDIO_API, &api) == 0;
  if (support.present) support.features = api.features;
  return support;
}

bool has_user_namespace() { return unshares(CLONE_NEWUSER); }
// Not in a user namespace: whoever arrives is in none.
bool has_time_namespace() {
  return works_in_child([] { return enter_time_namespace("monotonic 1 0\n") == 0; });
}
bool has_network_namespace() { return unshares_somehow(CLONE_NEWNET); }

bool has_tcp_repair() {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int on = 1;
  return socket && ::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) == 0;
}

bool has_capability(int capability) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) return false;
  return (data[static_cast<unsigned>(capability) / 32].effective >> (capability % 32) & 1) != 0;
}

}  // namespace telefork::kernel
