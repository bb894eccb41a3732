#include "capture/refusal.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::capture {
namespace {

constexpr char kClose[] = "close it";
constexpr char kCopyShared[] = "have a copy of it made with Options::shared = copy (--shared=copy)";
constexpr char kCloseDevice[] = "have the program close the device";
constexpr char kNegotiation[] = "src/session/file_negotiation.cc";
constexpr char kMemoryCheck[] = "src/session/memory_check.cc";
constexpr char kYama[] = "src/kernel/yama.cc";
constexpr char kStub[] = "src/tracee/stub.cc";

constexpr std::array kRules = {
    Rule{Reason::kPipe, Part::kDescriptors,
         "a pipe or FIFO, other than the standard streams; for `telefork save`, `move` and `fork` "
         "one that another process has too",
         "a pipe whose other end stays cannot move yet", kClose},
    Rule{Reason::kSocket, Part::kDescriptors,
         "a socket; for `telefork save`, `move` and `fork` not one whose other end the process has "
         "too (socketpair(2), for `telefork fork` not where that is only on its way in another "
         "socket; and, other than for `telefork fork`, accept(2) where what listened is open "
         "still), one of UDP that is not connected and in no multicast group, one of TCP that "
         "listens or was never connected, a unix one that is not connected and has no name in a "
         "file system but an absolute one that still leads to it, one of netlink (NETLINK_ROUTE) "
         "that is not connected and in no group",
         "a socket cannot move yet", kClose},
    Rule{Reason::kStream, Part::kDescriptors,
         "for `telefork move --detach`: a standard stream that is a pipe, a terminal or a socket",
         "nothing of the process stays here that could carry this stream",
         "have it write to a file, or move it without --detach"},
    Rule{Reason::kDescriptor, Part::kDescriptors,
         "userfaultfd, io_uring, perf, bpf, a pidfd of another process; except for `telefork "
         "save`, `move` and `fork` also epoll, eventfd, timerfd, signalfd, inotify, any pidfd",
         "this kind of descriptor cannot move yet", kClose},
    Rule{Reason::kMemfd, Part::kDescriptors, "a memfd, but for `telefork save`, `move` and `fork`",
         "a memfd cannot move yet", kClose},
    Rule{Reason::kLock, Part::kDescriptors,
         "a file with a lock; for `telefork save`, `move` and `fork` only with a lease for "
         "writing, or one that is being broken (fcntl(2), F_SETLEASE)",
         "a lock on the file cannot move yet", kClose},
    Rule{Reason::kKept, Part::kDescriptors,
         "for `telefork fork`: a file with a lock, a socket that has an address or a name, a FIFO "
         "that has a name",
         "the original keeps it, and only one can have it", kClose},
    Rule{Reason::kDeletedWritable, Part::kDescriptors,
         "a deleted file open for writing, but for `telefork save`, `move` and `fork`",
         "a deleted file that is open for writing cannot move yet", kClose},
    Rule{Reason::kHolder, Part::kDescriptors,
         "for `telefork save`, `move` and `fork`: an epoll, eventfd, timerfd, signalfd, inotify, "
         "socket, memfd, pseudo-terminal or deleted file that another process has too",
         "process {} has it too, and stays", kClose},
    Rule{Reason::kEpollTarget, Part::kDescriptors,
         "for `telefork save`, `move` and `fork`: an epoll that watches what the process has "
         "closed and another process has open",
         "what it watches as fd {} is no descriptor of the process any more",
         "end that other process"},
    Rule{Reason::kUnreadEvents, Part::kDescriptors,
         "for `telefork save`, `move` and `fork`: an inotify with events that were not read",
         "it has events that were not read, and the kernel shows them to nobody else",
         "have the program read them"},
    Rule{Reason::kUnknownWatch, Part::kDescriptors,
         "for `telefork save`, `move` and `fork`: an inotify that watches what has no name any "
         "more, or, of a plain user's, anything",
         "what it watches (number {}) is not told here by a name", "ask as root, or close it"},
    Rule{Reason::kUnread, Part::kDescriptors,
         "for `telefork save`, `move` and `fork`: a socket of TCP with connections that were not "
         "accepted, or a unix one with such of which the other end stays or has sent something, "
         "for `telefork fork` with any, or of UDP or netlink, or a unix one with a name, with "
         "datagrams that were not read; a pseudo-terminal with a status of packet mode (TIOCPKT) "
         "that was not read, or, unless it is raw, with more than 3 KB",
         "it has what was not accepted or read yet", "have the program take it"},
    Rule{Reason::kSentAlong, Part::kDescriptors,
         "for `telefork save`, `move` and `fork`: a unix socket with something unread that has, "
         "with SO_PASSCRED, its sender's ids with it, or a descriptor that has a lock or an owner "
         "(F_SETOWN), or is of another kind than files, pipes, sockets and eventfds, and is open "
         "nowhere else",
         "descriptors or ids were sent along with what it has not read",
         "have the program read it"},
    Rule{Reason::kTerminal, Part::kDescriptors,
         "for `telefork save`, `move` and `fork`: a pseudo-terminal that is no other machine's to "
         "make: with a slave that was never opened, a master that is not open for both reading and "
         "writing, another line discipline than N_TTY or locked settings (TIOCSLCKTRMIOS); the "
         "controlling terminal of the first process's session, or one whose foreground process "
         "group has ended",
         "it is a terminal that cannot be made again as it is: {}", kClose},
    Rule{Reason::kDevice, Part::kDescriptors,
         "a character device other than null, zero, full, random, urandom; for `telefork save`, "
         "`move` and `fork` not a pseudo-terminal of /dev/ptmx with both its ends",
         "device state cannot move", kClose},
    Rule{Reason::kBlockDevice, Part::kDescriptors, "a block device", "a block device cannot move",
         kClose},
    Rule{Reason::kNamespaceFile, Part::kDescriptors, "a namespace, as setns(2) takes it",
         "a namespace cannot move", kClose},
    Rule{Reason::kProcFile, Part::kDescriptors,
         "a file or directory that procfs has of a process, those of the network among them; for "
         "`telefork save`, `move` and `fork` not what it has of that process itself, unless it was "
         "read in part or is a thread's",
         "it tells of a process here", kClose},
    Rule{Reason::kOtherFile, Part::kDescriptors, "anything else that a descriptor can name",
         "this kind of file cannot move", kClose},

    Rule{Reason::kNotSameFile, Part::kFiles,
         "a file open for writing that is not the same file at the destination",
         "it is open for writing, and the destination does not have this very file",
         "put it on a filesystem that both machines share, or close it", kNegotiation},
    Rule{Reason::kFileDenied, Part::kFiles,
         "a file or directory that the user may not open at the destination, and that cannot be "
         "sent",
         "the user may not open it anew: {}", "close it, or give that user access to it",
         kNegotiation},
    Rule{Reason::kFileDiffers, Part::kFiles,
         "a file that is another one at the destination, and cannot be sent",
         "the destination has another file of that name",
         "it cannot be sent: it is no regular file, or may not be read", kNegotiation},
    Rule{Reason::kNoDirectory, Part::kFiles,
         "a directory, open, the working directory or the root directory, that is not at the "
         "destination",
         "the destination does not have this directory",
         "make it there, or have the program leave it", kNegotiation},
    Rule{Reason::kUnreadableFile, Part::kFiles,
         "a file that is to travel in a saved image, and may not be read",
         "its content may not be read", ""},

    Rule{Reason::kSharedMemory, Part::kMemory, "memory shared with a process that stays",
         "memory shared with processes that stay cannot move", kCopyShared},
    Rule{Reason::kMemoryFile, Part::kMemory,
         "a mapping of a memfd, of a deleted file in memory, of SysV memory, of /dev/shm; for "
         "`telefork save`, `move` and `fork` of the first two only what another process has too "
         "and, of a plain user's, what no descriptor of the process names; for `telefork save` and "
         "`move` of SysV memory only what another process has too, what is mapped in part, or "
         "locked by shmctl(2), and of /dev/shm only what another process has too, or lies in a "
         "folder there",
         "memory that others may share stays at home", kCopyShared},
    Rule{Reason::kSharedThere, Part::kMemory,
         "either of the two on the way home (`run_on`, `telefork home`), where it came to be there",
         "memory that others may share stays there", "have the program unmap it before"},
    Rule{Reason::kUnknownShared, Part::kMemory, "shared memory that is none of these",
         "shared memory of an unknown kind cannot move", ""},
    Rule{Reason::kHugeTlb, Part::kMemory,
         "hugetlb; for `telefork save`, `move` and `fork` only a file of a hugetlbfs that is "
         "mounted, pages larger than 1 GB, what is shared without a reservation (MAP_NORESERVE) "
         "of a plain user's, and one page mapped twice by remap_file_pages(2)",
         "hugetlb memory cannot be captured yet", "use transparent huge pages"},
    Rule{Reason::kFewHugePages, Part::kMemory,
         "more hugetlb pages than the destination has free, or may make",
         "it takes {} pages of {} kB, and {} are free {}", "have root raise {} {}", kMemoryCheck},
    Rule{Reason::kSegmentTaken, Part::kMemory,
         "System V memory of which the destination has the id or the key already",
         "its {} is taken {}, by {}", "`ipcrm -m {}` {}, if nobody needs that", kMemoryCheck},
    Rule{Reason::kSegmentStays, Part::kMemory,
         "System V memory, where the destination is on the same machine",
         "the process itself has it until it has gone, and the destination is this machine",
         "move it to another one", kMemoryCheck},
    Rule{Reason::kSegmentId, Part::kMemory,
         "System V memory, where a plain user's processes are to come to",
         "to choose an id takes root {} (shm_next_id)", "", kMemoryCheck},
    Rule{Reason::kUserfaultfd, Part::kMemory, "memory watched by the program's own userfaultfd",
         "a userfaultfd of the program watches it", "end that use of userfaultfd"},
    Rule{Reason::kDeviceMapping, Part::kMemory,
         "a mapping of a device, other than a private one of /dev/zero",
         "the mapping of a device cannot move", kCloseDevice},
    Rule{Reason::kDeviceMemory, Part::kMemory, "memory of a device, of io_uring, of perf",
         "device memory cannot move", kCloseDevice},
    Rule{Reason::kAioRing, Part::kMemory, "the ring of an io_setup(2)",
         "the kernel tells nobody which requests of aio are under way",
         "end that use of aio (io_destroy(2))"},
    Rule{Reason::kShadowStack, Part::kMemory, "a shadow stack",
         "a shadow stack cannot be restored yet",
         "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"},
    Rule{Reason::kSealed, Part::kMemory,
         "mseal'ed memory, but for `telefork save`, `move` and `fork`",
         "mseal'ed memory cannot be restored yet", ""},
    Rule{Reason::kDroppable, Part::kMemory,
         "droppable memory, but for `telefork save`, `move` and `fork`",
         "droppable memory cannot be restored yet", ""},
    Rule{Reason::kProtectionKey, Part::kMemory, "memory with a protection key of the program's",
         "memory protection keys cannot be restored yet", ""},
    Rule{Reason::kUnknownFlag, Part::kMemory, "memory with a flag of a newer kernel",
         "it has a flag that telefork does not know: {}", ""},
    Rule{Reason::kReplacedFile, Part::kMemory,
         "a mapping of a file that has been deleted or replaced",
         "the file was deleted or replaced since it was mapped, and this user may not open the "
         "old one",
         "restart the program, or ask as root"},
    Rule{Reason::kMappedFile, Part::kMemory, "a mapping of a file that cannot be opened",
         "its file: {}", ""},
    Rule{Reason::kManyMappings, Part::kMemory,
         "as many mappings as vm.max_map_count allows, or nearly: telefork takes 16 of them",
         "it has too many mappings: {}", "have it unmap some, or have root raise vm.max_map_count"},

    Rule{Reason::kNoProcess, Part::kProcess, "no process",
         "there is no such process, or it has ended", ""},
    Rule{Reason::kThreadsId, Part::kProcess, "the id of a thread in the place of its process's",
         "it is a thread of process {}", "name the process"},
    Rule{Reason::kNotPermitted, Part::kProcess, "a process that one may not look at",
         "it is another user's, or protected",
         "ask as its user or as root, or have it set PR_SET_DUMPABLE (prctl(2)) to 1"},
    Rule{Reason::kMoreCapable, Part::kProcess, "a process with capabilities that telefork lacks",
         "it has capabilities that telefork has not",
         "ask as one who has them, root for instance where it was not denied them, or have it drop "
         "them (capset(2))"},
    Rule{Reason::kForeignProc, Part::kProcess, "a /proc of another pid namespace",
         "/proc here is that of another pid namespace, which does not know it by this number",
         "mount the right one (mount -t proc proc /proc, or unshare --mount-proc)"},
    Rule{Reason::kSeccomp, Part::kProcess,
         "seccomp, but for a `telefork save`, `move` or `fork` of root's (CAP_SYS_ADMIN) where the "
         "process has no_new_privs or CAP_SYS_ADMIN too, of strict mode only one thread; for "
         "`telefork home` one thread only",
         "it runs under seccomp, which cannot be restored yet",
         "start it without a seccomp filter"},
    Rule{Reason::kSeccompListener, Part::kProcess,
         "a seccomp filter that asks a process (SECCOMP_RET_USER_NOTIF), once it is stopped",
         "its seccomp filter asks another process, which would stay",
         "start it without that filter"},
    Rule{
        Reason::kThreadDiffers, Part::kProcess,
        "a thread with descriptors, namespaces or seccomp filters of its own, other than for a "
        "fork; with a personality of its own for a call; with directories and a umask of its own "
        "for a call, or where it shares "
        "them with another one, or they are in another mount namespace, or in a root that was "
        "removed "
        "or has no path; with ids or "
        "capabilities of its own for a call, or where the first thread may not take those on (that "
        "needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP)",
        "it does not have the first thread's {}, which cannot be restored yet",
        "have all threads keep the same"},
    Rule{Reason::kSharer, Part::kProcess,
         "memory, descriptors or directories that another process has too (clone(2), vfork(2)), "
         "other than for a fork",
         "it shares its {}, which would stay", "end that one first"},
    Rule{Reason::kSharerMoves, Part::kProcess,
         "the same with a process that goes along, but for descriptors and directories that parent "
         "and child share, other than for `telefork home`",
         "it shares its {}, which cannot be restored yet",
         "wait until that one has ended or begun another program"},
    Rule{Reason::kTraced, Part::kProcess, "a debugger attached", "process {} traces it",
         "end that debugger first"},
    Rule{Reason::kYamaStrangers, Part::kProcess,
         "any process but one that allows it, for `telefork save`, `move` and `fork`, where Yama's "
         "ptrace_scope is 1",
         "Yama lets only its ancestors trace it (kernel.yama.ptrace_scope is 1)",
         "ask as root, have it call prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY), or have root set "
         "that to 0",
         kYama},
    Rule{Reason::kYamaUsers, Part::kProcess,
         "any process of a plain user's, where Yama's ptrace_scope is 2",
         "Yama lets only root trace (kernel.yama.ptrace_scope is 2)",
         "ask as root, or have root set that to 1", kYama},
    Rule{Reason::kYamaEverybody, Part::kProcess, "any process, where Yama's ptrace_scope is 3",
         "Yama lets nobody trace until the machine starts anew (kernel.yama.ptrace_scope is 3)",
         "have it start with another setting", kYama},
    Rule{Reason::kChroot, Part::kProcess,
         "chroot, for a fork or a call (`run_on`); for `telefork save`, `move` and `fork` only "
         "where "
         "the root directory has no path for telefork: mounted over, or outside of telefork's own",
         "its root directory is not this machine's (chroot)", ""},
    Rule{
        Reason::kNamespace, Part::kProcess,
        "other namespaces than telefork's; for `telefork save`, `move` and `fork` of what has come "
        "here, than those that were made for it",
        "it is in another {} namespace than telefork", "run telefork inside of that namespace"},
    Rule{Reason::kLeftNamespace, Part::kProcess,
         "on the way home: another namespace than it began in, but for a mount namespace of a "
         "`run_on`",
         "it has left its {} namespace there, and does not come home in another",
         "have it, or f of a call, stay in it, or leave it in a child"},
    Rule{Reason::kChildrenElsewhere, Part::kProcess,
         "children in another pid namespace than the process's own (unshare(2), setns(2))",
         "its children are in another pid namespace than it is itself",
         "have a child of it ask, which is inside"},
    Rule{Reason::kDirectoryRemoved, Part::kProcess,
         "for a call (`run_on`), or of a thread that has its own: a working directory that is gone",
         "its working directory was removed: {}", "have it change to another one"},
    Rule{Reason::kLongDirectory, Part::kProcess,
         "a working or root directory whose path is longer than PATH_MAX",
         "the path of its {} directory is too long: the kernel does not tell it",
         "have it change to another one"},
    Rule{Reason::kProgramFile, Part::kProcess, "a program file that cannot be opened",
         "its program file: {}", ""},
    Rule{Reason::kForeignProgram, Part::kProcess, "a 32-bit program", "it is a 32-bit program", ""},
    Rule{Reason::kChildrenThere, Part::kProcess, "children begun in a `run_on`, when it returns",
         "it has children there, which would stay behind",
         "have whoever began them wait for them before f returns"},
    Rule{
        Reason::kUnmakeable, Part::kProcess,
        "a child in a session or process group that it could not be brought into again: an orphan, "
        "for instance, whose session's leader lives and is no child of its new parent's",
        "it cannot be made again as it is: {}", "have it begin a session of its own (setsid(2))"},
    Rule{
        Reason::kOwnAncestor, Part::kProcess,
        "a process that `telefork save`, `move` or `fork` has come of itself, the shell that began "
        "it for instance",
        "telefork itself is among its children", "ask from elsewhere"},
    Rule{Reason::kCopyUnderWay, Part::kProcess,
         "a process whose copy's memory still follows that, for `telefork save` and `move`",
         "the memory of a copy of it is still on its way from here",
         "wait until `telefork ps` no longer says of the copy that memory follows"},
    Rule{Reason::kLeaderEnded, Part::kProcess, "a thread group whose leader has ended",
         "its first thread has ended, and the others live on", ""},
    Rule{Reason::kNoSignalReturn, Part::kProcess,
         "a program without a libc that can return from a signal handler, whose code fills all of "
         "its pages",
         "process {} has no code that returns from a signal handler", "",
         "src/tracee/sigreturn_finder.cc"},
    Rule{Reason::kSegments, Part::kProcess,
         "segments of its own (modify_ldt), but for `telefork save`, `move` and `fork`, once it is "
         "stopped",
         "it has made segments by modify_ldt(2), which cannot be restored yet", ""},

    Rule{Reason::kForeignCode, Part::kThreads, "32-bit code in a 64-bit program",
         "thread {} runs 32-bit code", "", kStub},
    Rule{Reason::kSyscallDispatch, Part::kThreads,
         "Syscall User Dispatch, from Linux 6.4 on, for a call (`run_on`)",
         "it has its system calls dispatched (PR_SET_SYSCALL_USER_DISPATCH)", ""},
    Rule{Reason::kNoRoomOnStack, Part::kThreads, "a stack that is full, or none",
         "thread {} has no room for a signal frame on its stack at {:#x}", "", kStub},
    Rule{Reason::kManySignals, Part::kThreads, "very many pending signals",
         "thread {} has more than {} pending signals", "", "src/tracee/thread.cc"},
    Rule{Reason::kStaysInVdso, Part::kThreads, "a thread that is nowhere but in the vDSO",
         "thread {} does not leave the vDSO", "", "src/tracee/freezer.cc"},
};

constexpr bool is_in_order() {
  for (std::size_t i = 0; i < kRules.size(); ++i) {
    if (kRules[i].reason != static_cast<Reason>(i)) return false;
  }
  return kRules.back().reason == Reason::kStaysInVdso;
}
static_assert(is_in_order());

}  // namespace

std::span<const Rule> all_rules() { return kRules; }

const Rule& rule(Reason reason) { return kRules.at(static_cast<std::size_t>(reason)); }

Refusal refuse(std::string what, Reason reason, const std::string& detail) {
  const Rule& row = rule(reason);
  std::string why = row.why;
  if (std::size_t at = why.find("{}"); at != std::string::npos) why.replace(at, 2, detail);
  return {std::move(what), std::move(why), row.remedy};
}

std::string Refusal::text() const {
  std::string text = remedy.empty() ? fmt::format("{}: {}", what, why)
                                    : fmt::format("{}: {}; {}", what, why, remedy);
  // A name with a line's end in it, a program's or a file's, makes no second line.
  std::replace(text.begin(), text.end(), '\n', '?');
  return text;
}

void throw_refusals(const Refusals& refusals) {
  if (refusals.empty()) return;
  std::string text;
  for (const Refusal& refusal : refusals) {
    if (!text.empty()) text += '\n';
    text += "refused: " + refusal.text();
  }
  throw Error(Code::kRefused, text);
}

}  // namespace telefork::capture
