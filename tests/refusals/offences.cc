#include "offences.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

namespace offences {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr long kMapShadowStack = 453;  // newer than the headers, as the next
constexpr long kMseal = 462;

void* map(std::size_t size, int flags, int fd = -1) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}
void* map_page() { return map(kPage, MAP_PRIVATE | MAP_ANONYMOUS); }

// But for a few, without which a program could not go on.
bool map_as_often_as_allowed() {
  constexpr std::size_t kMany = 200'000;
  constexpr std::size_t kLeft = 8;
  std::size_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  if (most > kMany) return false;
  std::ifstream maps("/proc/self/maps");
  const auto have = static_cast<std::size_t>(
      std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n'));
  // Every other page may only be read.
  const std::size_t pages = most - kLeft - have;
  auto* memory = static_cast<char*>(map(pages * kPage, MAP_PRIVATE | MAP_ANONYMOUS));
  for (std::size_t page = 1; memory != nullptr && page < pages; page += 2) {
    if (mprotect(memory + page * kPage, kPage, PROT_READ) != 0) return false;
  }
  return memory != nullptr;
}

bool open_eventfd() { return eventfd(0, 0) >= 0; }
bool open_epoll() { return epoll_create1(0) >= 0; }
bool open_timerfd() { return timerfd_create(CLOCK_MONOTONIC, 0) >= 0; }
bool open_inotify() { return inotify_init() >= 0; }
// At a number that is a standard stream's in other programs.
bool put_at_stderr(int fd) { return fd >= 0 && dup2(fd, 2) == 2 && close(fd) == 0; }
bool have_eventfd_as_stderr() { return put_at_stderr(eventfd(0, 0)); }
bool have_memfd_as_stderr() { return put_at_stderr(memfd_create("offence", 0)); }

bool have_listener_as_stderr() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  return listen(listener, 1) == 0 && put_at_stderr(listener);
}

bool have_pipe_end_as_stderr() {
  int ends[2];
  return pipe(ends) == 0 && put_at_stderr(ends[0]) && close(ends[1]) == 0;
}

bool open_namespace() { return open("/proc/self/ns/net", O_RDONLY) >= 0; }
bool open_own_status() { return open("/proc/self/status", O_RDONLY) >= 0; }
bool open_folder_of_tasks() { return open("/proc/self/task", O_RDONLY | O_DIRECTORY) >= 0; }

// Its folder of descriptors cannot even be looked at any more.
bool open_folder_of_the_dead() {
  int ends[2];
  if (pipe(ends) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    char byte = 0;
    close(ends[1]);
    _exit(static_cast<int>(read(ends[0], &byte, 1)));
  }
  const std::string path = "/proc/" + std::to_string(child) + "/fd";
  const bool opened = child > 0 && open(path.c_str(), O_RDONLY | O_DIRECTORY) >= 0;
  close(ends[0]);
  close(ends[1]);
  return opened && waitpid(child, nullptr, 0) == child;
}

bool open_pidfd() { return syscall(SYS_pidfd_open, getpid(), 0) >= 0; }

bool open_signalfd() {
  sigset_t none;
  sigemptyset(&none);
  return signalfd(-1, &none, 0) >= 0;
}

int setup_io_uring(io_uring_params& parameters) {
  return static_cast<int>(syscall(SYS_io_uring_setup, 4, &parameters));
}

bool open_io_uring() {
  io_uring_params parameters{};
  return setup_io_uring(parameters) >= 0;
}

// Its descriptor may be closed: the rings stay.
bool map_io_uring() {
  io_uring_params parameters{};
  const int ring = setup_io_uring(parameters);
  if (ring < 0) return false;
  const bool mapped = map(kPage, MAP_SHARED, ring) != nullptr;
  close(ring);
  return mapped;
}

bool open_perf_event() {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.config = PERF_COUNT_SW_TASK_CLOCK;
  attributes.exclude_kernel = 1;
  return syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0) >= 0;
}

bool open_deleted_file() {
  char path[] = "/tmp/telefork-offence.XXXXXX";
  return mkstemp(path) >= 0 && unlink(path) == 0;
}

// Any disk; nothing is read of it.
bool open_block_device() {
  DIR* folder = opendir("/dev");
  if (folder == nullptr) return false;
  int disk = -1;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_type != DT_BLK) continue;
    disk = openat(dirfd(folder), entry->d_name, O_RDONLY);
    if (disk >= 0) break;
  }
  closedir(folder);
  return disk >= 0;
}

// Without a reservation, so that no huge page has to be there.
bool map_huge_pages() {
  return map(kHugePage, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE) != nullptr;
}

bool watch_memory() {
  const int watcher = static_cast<int>(syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY));
  uffdio_api api{UFFD_API, 0, 0};
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uintptr_t>(map_page()), kPage};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  return watcher >= 0 && ioctl(watcher, UFFDIO_API, &api) == 0 &&
         ioctl(watcher, UFFDIO_REGISTER, &range) == 0;
}

bool protect_by_key() {
  const int key = pkey_alloc(0, 0);
  return key > 0 && pkey_mprotect(map_page(), kPage, PROT_READ | PROT_WRITE, key) == 0;
}

bool seal_memory() { return syscall(kMseal, map_page(), kPage, 0) == 0; }

// The kernel makes one also for a thread that uses none.
bool map_shadow_stack() { return syscall(kMapShadowStack, 0L, kPage, 0L) != -1; }

bool map_droppable() {
  constexpr int kDroppable = 8;  // MAP_DROPPABLE, newer than Debian 12's headers
  return map(kPage, kDroppable | MAP_ANONYMOUS) != nullptr;
}

bool share_memory() { return map(kPage, MAP_SHARED | MAP_ANONYMOUS) != nullptr; }

bool map_memfd() {
  const int file = memfd_create("offence", 0);
  const bool mapped = ftruncate(file, kPage) == 0 && map(kPage, MAP_SHARED, file) != nullptr;
  close(file);
  return mapped;
}

bool attach_system_v_memory() {
  const int id = shmget(IPC_PRIVATE, kPage, 0600);
  if (id < 0) return false;
  const bool attached = shmat(id, nullptr, 0) != reinterpret_cast<void*>(-1);
  shmctl(id, IPC_RMID, nullptr);
  return attached;
}

// What others may write to, and this process cannot.
bool watch_memfd() {
  constexpr int kSealFutureWrite = 0x10;  // F_SEAL_FUTURE_WRITE
  const int file = memfd_create("offence", MFD_ALLOW_SEALING);
  const bool mapped = ftruncate(file, kPage) == 0 &&
                      fcntl(file, F_ADD_SEALS, kSealFutureWrite) == 0 &&
                      mmap(nullptr, kPage, PROT_READ, MAP_SHARED, file, 0) != MAP_FAILED;
  close(file);
  return mapped;
}

bool watch_system_v_memory() {
  const int id = shmget(IPC_PRIVATE, kPage, 0600);
  if (id < 0) return false;
  const bool attached = shmat(id, nullptr, SHM_RDONLY) != reinterpret_cast<void*>(-1);
  shmctl(id, IPC_RMID, nullptr);
  return attached;
}

bool watch_unlinked_memory() {
  char path[] = "/dev/shm/telefork-offence.XXXXXX";
  const int writing = mkstemp(path);
  const int reading = open(path, O_RDONLY);
  const bool mapped = ftruncate(writing, kPage) == 0 && unlink(path) == 0 &&
                      mmap(nullptr, kPage, PROT_READ, MAP_SHARED, reading, 0) != MAP_FAILED;
  close(writing);
  close(reading);
  return mapped;
}

bool filter_system_calls() {
  sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  sock_fprog program{1, allow};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

constexpr int kOfAThread = -1;

// Another thread does it, and stays.
template <bool (*commit)()>
bool in_a_thread() {
  static int state = kOfAThread;  // until it is 0 or 1
  auto body = [](void*) -> void* {
    const bool done = commit();
    __atomic_store_n(&state, done ? 1 : 0, __ATOMIC_RELEASE);
    for (;;) pause();
  };
  pthread_t thread;
  if (pthread_create(&thread, nullptr, body, nullptr) != 0) return false;
  while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) == kOfAThread) sched_yield();
  return state == 1;
}

bool narrow_bounding_set() { return geteuid() == 0 && prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) == 0; }

bool give_up_new_privileges() { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0; }

// For one that is removed then.
bool leave_root() {
  char root[] = "/tmp/telefork-offence.XXXXXX";
  const int folder = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
  const bool left = folder >= 0 && mkdtemp(root) != nullptr && unshare(CLONE_FS) == 0 &&
                    chroot(root) == 0 && unlinkat(folder, root + sizeof "/tmp", AT_REMOVEDIR) == 0;
  close(folder);
  return left;
}

bool leave_descriptors() { return unshare(CLONE_FILES) == 0; }

bool leave_network() { return unshare(CLONE_NEWNET) == 0; }

bool change_root() { return chroot("/usr") == 0; }

// Its children are in the namespace; so this goes on in one.
bool enter_pid_namespace() {
  if (unshare(CLONE_NEWPID) != 0) return false;
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0;
  int status = 0;
  waitpid(child, &status, 0);
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

bool put_children_elsewhere() { return unshare(CLONE_NEWPID) == 0; }

// Where nobody can name it. All of it is removed again: what the kernel would tell is as long.
bool descend_beyond_path_max() {
  const std::string name(255, 'd');
  char top[] = "/tmp/telefork-offence.XXXXXX";
  int depth = 0;
  bool well = mkdtemp(top) != nullptr && chdir(top) == 0;
  for (; well && depth < 20; ++depth) {
    well = mkdir(name.c_str(), 0700) == 0 && chdir(name.c_str()) == 0;
  }
  const int bottom = open(".", O_RDONLY | O_DIRECTORY);
  for (; depth > 0; --depth) well = chdir("..") == 0 && rmdir(name.c_str()) == 0 && well;
  return rmdir(top) == 0 && fchdir(bottom) == 0 && close(bottom) == 0 && well;
}

bool have_a_child() {
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child != 0) return child > 0;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(0);
  for (;;) pause();
}

int stay_in_its_memory(void*) {
  syscall(SYS_close_range, 0U, ~0U, 0U);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) pause();
}

// No child: a sibling, which ends with the parent of both.
bool share_its_memory() {
  constexpr std::size_t kStack = 16 * kPage;
  void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack == MAP_FAILED) return false;
  char* top = static_cast<char*>(stack) + kStack;
  return clone(stay_in_its_memory, top, CLONE_VM | CLONE_PARENT | SIGCHLD, nullptr) > 0;
}

pthread_t the_leader;

void* outlive(void* done) {
  pthread_join(the_leader, nullptr);
  // The C library lets go of a thread before the kernel has ended it.
  const std::string path = "/proc/self/task/" + std::to_string(getpid()) + "/stat";
  for (char text[256] = ""; std::strstr(text, ") Z ") == nullptr;) {
    const int file = open(path.c_str(), O_RDONLY);
    const ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    text[n < 0 ? 0 : n] = '\0';
  }
  reinterpret_cast<void (*)()>(done)();
  return nullptr;
}

constexpr char kMemoryFile[] =
    "memory that others may share stays at home; have a copy of it made with Options::shared = "
    "copy (--shared=copy)";
constexpr char kDescriptor[] = "this kind of descriptor cannot move yet; close it";

}  // namespace

const Offence kAll[] = {
    {"eventfd", "fd ", kDescriptor, open_eventfd, "", true, false},
    {"epoll", "fd ", kDescriptor, open_epoll, "", true, false},
    {"timerfd", "fd ", kDescriptor, open_timerfd, "", true, false},
    {"signalfd", "fd ", kDescriptor, open_signalfd, "", true, false},
    {"inotify", "fd ", kDescriptor, open_inotify, "", true, false},
    {"pidfd", "fd ", kDescriptor, open_pidfd, "", true, false},
    {"io_uring", "fd ", kDescriptor, open_io_uring, "io_uring"},
    {"perf_event", "fd ", kDescriptor, open_perf_event, "perf_event"},
    {"eventfd_as_stderr", "fd 2 -> ", kDescriptor, have_eventfd_as_stderr, "", true, false},
    {"memfd_as_stderr", "fd 2 -> ", "a memfd cannot move yet; close it", have_memfd_as_stderr, "",
     true, false},
    {"listener_as_stderr", "fd 2 -> ", "a socket cannot move yet; close it",
     have_listener_as_stderr, "", true, false},
    {"pipe_end_as_stderr", "fd 2 -> ", "a pipe whose other end stays cannot move yet; close it",
     have_pipe_end_as_stderr, "", true, false},
    {"namespace", "fd ", "a namespace cannot move; close it", open_namespace},
    {"own_status", "fd ", "it tells of a process here; close it", open_own_status, "", true, false},
    {"folder_of_tasks", "fd ", "it tells of a process here; close it", open_folder_of_tasks, "",
     true, false},
    {"folder_of_the_dead", "fd ", "it tells of a process here; close it", open_folder_of_the_dead},
    {"deleted_file", "fd ", "a deleted file that is open for writing cannot move yet; close it",
     open_deleted_file, "", true, false},
    {"block_device", "fd ", "a block device cannot move; close it", open_block_device,
     "block_device"},
    {"hugetlb", "mapping ", "hugetlb memory cannot be captured yet; use transparent huge pages",
     map_huge_pages, "hugetlb", true, false},
    {"userfaultfd", "mapping ",
     "a userfaultfd of the program watches it; end that use of userfaultfd", watch_memory,
     "userfaultfd"},
    {"protection_key", "mapping ", "memory protection keys cannot be restored yet", protect_by_key,
     "pku"},
    {"shadow_stack", "mapping ",
     "a shadow stack cannot be restored yet; start it with "
     "GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
     map_shadow_stack, "user_shstk"},
    {"mseal", "mapping ", "mseal'ed memory cannot be restored yet", seal_memory, "mseal", true,
     false},
    {"droppable", "mapping ", "droppable memory cannot be restored yet", map_droppable,
     "MAP_DROPPABLE", true, false},
    {"io_uring_mapping", "mapping ", "device memory cannot move; have the program close the device",
     map_io_uring, "io_uring"},
    {"many_mappings", "process ", "it has too many mappings: ", map_as_often_as_allowed,
     "vm.max_map_count"},
    {"memfd_mapping", "mapping ", kMemoryFile, map_memfd, "", true, false},
    {"system_v_memory", "mapping ", kMemoryFile, attach_system_v_memory, "", true, false},
    {"memfd_view", "mapping ", kMemoryFile, watch_memfd, "", true, false},
    {"system_v_view", "mapping ", kMemoryFile, watch_system_v_memory, "", true, false},
    {"unlinked_memory_view", "mapping ", kMemoryFile, watch_unlinked_memory, "", true, false},
    {"seccomp", "process ",
     "it runs under seccomp, which cannot be restored yet; start it without a seccomp filter",
     filter_system_calls, "", true, false},
    {"seccomp_of_a_thread", "thread ",
     "it runs under seccomp, which cannot be restored yet; start it without a seccomp filter",
     in_a_thread<filter_system_calls>, "", false},
    {"capabilities_of_a_thread", "thread ",
     "it does not have the first thread's capabilities, which", in_a_thread<narrow_bounding_set>,
     "root", false},
    {"no_new_privs_of_a_thread", "thread ",
     "it does not have the first thread's no_new_privs, which", in_a_thread<give_up_new_privileges>,
     "", false},
    {"directories_of_a_thread", "thread ",
     "it does not have the first thread's directories and umask, which", in_a_thread<leave_root>,
     "root", false},
    {"descriptors_of_a_thread", "thread ", "it does not have the first thread's descriptors, which",
     in_a_thread<leave_descriptors>, "", false},
    {"namespace_of_a_thread", "thread ", "it does not have the first thread's net namespace, which",
     in_a_thread<leave_network>, "root", false},
    {"long_directory", "process ",
     "the path of its working directory is too long: the kernel does not tell it; have it change "
     "to another one",
     descend_beyond_path_max},
    {"chroot", "process ", "its root directory is not this machine's (chroot)", change_root, "root",
     false, false},
    {"pid_namespace", "process ",
     "it is in another pid namespace than telefork; run telefork inside of that namespace",
     enter_pid_namespace, "root", false},
    {"childrens_namespace", "process ",
     "its children are in another pid namespace than it is itself; have a child of it ask, which "
     "is "
     "inside",
     put_children_elsewhere, "root"},
    {"memory_of_two", "process ", "it shares its memory with process ", share_its_memory, "",
     false},
    {"shared_memory", "mapping ",
     "memory shared with processes that stay cannot move; have a copy of it made with "
     "Options::shared = copy (--shared=copy)",
     [] { return share_memory() && have_a_child(); }, "", true, false},
    {"dead_leader", "process ", "its first thread has ended, and the others live on",
     [] { return true; }, "", false},
    {}};

const Offence* find(std::string_view name) {
  for (const Offence* offence = kAll; offence->name != nullptr; ++offence) {
    if (name == offence->name) return offence;
  }
  return nullptr;
}

void go_on_without_leader(void (*done)()) {
  pthread_t thread;
  the_leader = pthread_self();
  if (pthread_create(&thread, nullptr, outlive, reinterpret_cast<void*>(done)) == 0) {
    pthread_exit(nullptr);
  }
}

}  // namespace offences
