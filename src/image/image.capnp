@0xb8f1c0de7e1ef04c;
# The records of an image: a process as a stream. docs/image-format.md tells the order and the
# framing. A record is one Cap'n Proto message; pages and file contents follow their record as raw
# bytes. Addresses are those of the captured process; sizes are bytes unless the name says pages;
# times are nanoseconds. Fields are only ever added.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("telefork::image::schema");

struct CpuLeaf {
  leaf @0 :UInt32;
  subleaf @1 :UInt32;
  eax @2 :UInt32;
  ebx @3 :UInt32;
  ecx @4 :UInt32;
  edx @5 :UInt32;
}

struct Machine {
  # What of a machine decides whether an image can run there.
  hostname @0 :Text;
  bootId @1 :Text;            # two machines with the same boot id share one kernel
  kernelRelease @2 :Text;
  architecture @3 :Text;      # as uname(2) has it
  cpuModel @4 :Text;
  cpuLeaves @5 :List(CpuLeaf);
  xcr0 @6 :UInt64;            # the xstate components that the kernel saves; 0 where there are none
  pageSize @7 :UInt32;
  clockRealtime @8 :Int64;    # at the same instant as the next two
  clockMonotonic @9 :Int64;
  clockBoottime @10 :Int64;
  libc @11 :Text;             # "glibc 2.36": telefork's there; empty where nobody said
}

struct Header {
  version @0 :UInt32;
  purpose @1 :Purpose;
  machine @2 :Machine;        # where it was captured
  creator @3 :Text;           # "telefork 0.1.0"
  enum Purpose {
    fork @0;
    save @1;
    move @2;
    runOn @3;
    return @4;
    exec @5;                  # telefork run: no process yet, a command to be started
  }
}

struct FileIdentity {
  # Enough to say that two open files are the same one; see kernel/file_identity.h.
  bootId @0 :Text;
  device @1 :UInt64;
  inode @2 :UInt64;
  mtime @3 :Int64;
  ctime @4 :Int64;
  fsType @5 :UInt64;
  fsId @6 :UInt64;
  handle @7 :Data;
}

struct FileRef {
  # A file that something of the process refers to.
  path @0 :Text;              # as the process would open it
  size @1 :UInt64;
  mode @2 :UInt32;            # st_mode
  identity @3 :FileIdentity;
  hash @4 :Data;              # XXH3-128 of the content, 16 bytes; empty: never computed
  deleted @5 :Bool;           # unlinked, but still open or mapped
  contentId @6 :UInt32;       # not 0: the FileContent record that carries it
  device @7 :UInt64;          # st_rdev of a device node
  byPath @8 :Bool;            # a working directory: whichever has that path
}

struct FileContent {
  # Followed by `size` raw bytes.
  id @0 :UInt32;
  size @1 :UInt64;
  kind @2 :Kind;
  fileSize @3 :UInt64;        # of a file itself: with the holes between its extents
  extents @4 :List(Extent);   # where the bytes lie in it, in rising order
  name @5 :Text;              # of a memory file, as memfd_create(2) took it
  seals @6 :UInt32;           # F_SEAL_*
  mode @7 :UInt32;            # permissions
  folder @8 :Text;            # of an unlinked file: where its name was
  uid @9 :UInt32;             # from here on of named memory, whose name is its path
  gid @10 :UInt32;
  identity @11 :FileIdentity;
  hugeShift @12 :UInt8;       # of a memory file of hugetlb pages: as of a Vma; 0: it has none
  enum Kind {
    copy @0;                  # the content alone: who opens it only reads
    memoryFile @1;            # from here on: the file itself, which nobody else has
    unlinkedFile @2;
    bytes @3;                 # of no file: what lies in a pipe, a socket or a terminal
    namedMemory @4;           # a file itself too: one of /dev/shm, with its name
  }
}

struct Extent {
  offset @0 :UInt64;
  size @1 :UInt64;
}

struct Limit {
  resource @0 :UInt32;
  soft @1 :UInt64;
  hard @2 :UInt64;
}

struct Credentials {
  uids @0 :List(UInt32);      # real, effective, saved, filesystem
  gids @1 :List(UInt32);
  groups @2 :List(UInt32);
  inheritable @3 :UInt64;
  permitted @4 :UInt64;
  effective @5 :UInt64;
  bounding @6 :UInt64;
  ambient @7 :UInt64;
  securebits @8 :UInt32;
}

struct MemoryLayout {
  # prctl_mm_map of PR_SET_MM_MAP.
  startCode @0 :UInt64;
  endCode @1 :UInt64;
  startData @2 :UInt64;
  endData @3 :UInt64;
  startBrk @4 :UInt64;
  brk @5 :UInt64;
  startStack @6 :UInt64;
  argStart @7 :UInt64;
  argEnd @8 :UInt64;
  envStart @9 :UInt64;
  envEnd @10 :UInt64;
  auxv @11 :Data;
}

struct Vdso {
  # Where [vdso] and the [vvar*] in front of it lay, and the code that was there.
  vvarStart @0 :UInt64;
  start @1 :UInt64;
  end @2 :UInt64;
  code @3 :Data;
}

struct Clocks {
  # What the process's clocks said while it was frozen, and its time namespace's part in that.
  bootId @0 :Text;            # where; empty: the offsets could not be told
  monotonic @1 :Int64;
  boottime @2 :Int64;
  monotonicOffset @3 :Int64;
  boottimeOffset @4 :Int64;
}

struct Tree {
  # Several processes that move as one. Behind it come their records, a process after the other, in
  # the order of those members that live; what a description, a pipe, a socket or a file content is
  # comes with the first of them, for all.
  members @0 :List(Member);   # parents before their children
  shared @1 :List(SharedMemory);
  terminals @2 :List(SessionTerminal);
}

struct SessionTerminal {
  # The controlling terminal of a session that a member leads, one of Files.ptys: whoever is born
  # into the session has it from the start.
  number @0 :UInt32;          # Pty.number
  session @1 :UInt32;
  foreground @2 :UInt32;      # the process group; 0: that of the leader
  window @3 :WindowSize;      # nobody is to be told of it
}

struct WindowSize {
  rows @0 :UInt16;
  columns @1 :UInt16;
  xPixels @2 :UInt16;
  yPixels @3 :UInt16;
}

struct Member {
  pid @0 :UInt32;
  ppid @1 :UInt32;            # of all but the first: a member
  pgid @2 :UInt32;            # that of the first, and its session, are wherever it comes to
  sid @3 :UInt32;
  threads @4 :List(UInt32);   # their ids, the pid among them
  exitSignal @5 :UInt32;
  state @6 :State;
  status @7 :UInt32;          # of one that has ended, as wait(2) gives it
  stopUntold @8 :Bool;        # of a stopped one: its parent has not asked about it yet
  comm @9 :Text;
  uid @10 :UInt32;            # of one that has ended
  gid @11 :UInt32;
  noTerminal @12 :Bool;       # its session has one, and it does not (TIOCNOTTY)
  sharesDescriptors @13 :Bool;  # its parent's are its own too, and theirs its (CLONE_FILES)
  sharesDirectories @14 :Bool;  # likewise: working directory, root and umask (CLONE_FS)
  enum State {
    lives @0;
    stopped @1;               # by a signal
    ended @2;                 # and nobody has waited for it
  }
}

struct SharedMemory {
  # Shared anonymous memory that members have mapped.
  id @0 :UInt64;              # Vma.sharedId
  size @1 :UInt64;            # as far as it is mapped
  noReserve @2 :Bool;         # MAP_NORESERVE
  hugeShift @3 :UInt8;        # of hugetlb pages: as of a Vma; 0: it has none
}

struct Process {
  pid @0 :UInt32;
  ppid @1 :UInt32;
  pgid @2 :UInt32;
  sid @3 :UInt32;
  comm @4 :Text;
  exe @5 :FileRef;
  cwd @6 :Text;
  root @7 :Text;              # what chroot(2) has made its root directory; else "/"
  umask @8 :UInt32;
  limits @9 :List(Limit);
  oomScoreAdj @10 :Int32;
  dumpable @11 :UInt32;
  personality @12 :UInt32;
  noNewPrivs @13 :Bool;
  childSubreaper @14 :Bool;
  keepCaps @15 :Bool;
  thpDisable @16 :UInt32;     # the result of PR_GET_THP_DISABLE
  coredumpFilter @17 :UInt32;
  credentials @18 :Credentials;
  layout @19 :MemoryLayout;
  vdso @20 :Vdso;
  libcBuildId @21 :Data;      # of the mapped libc.so.6; empty: none is mapped
  glibc @22 :Bool;            # the thread control blocks were proven to be glibc's
  arguments @23 :List(Data);
  exitSignal @24 :UInt32;
  clocks @25 :Clocks;
  threads @26 :UInt32;        # how many there are; their records end the metadata
  xstatePermissions @27 :UInt64;  # components that had to be asked for (ARCH_REQ_XCOMP_PERM)
  membarrier @28 :UInt32;     # the commands that have registered it
  memoryMerge @29 :Bool;      # PR_SET_MEMORY_MERGE
  lockFuture @30 :UInt32;     # of mlockall(2): MCL_FUTURE, and MCL_ONFAULT with it
  seccompFilters @31 :List(SeccompFilter);  # of each of its threads, the oldest first
  mdwe @32 :UInt32;           # the result of PR_GET_MDWE
  stopped @33 :Bool;          # by a signal. Of several processes their members say it
  cwdMode @34 :UInt32;        # of a working directory that was removed: its st_mode
  segments @35 :Data;         # as modify_ldt(2) reads them
  rootMode @36 :UInt32;       # of a root directory that was removed: its st_mode
}

struct SeccompFilter {
  program @0 :Data;           # struct sock_filter, one behind the other
  flags @1 :UInt64;           # SECCOMP_FILTER_FLAG_LOG
}

struct Vma {
  start @0 :UInt64;
  end @1 :UInt64;
  protection @2 :UInt32;      # PROT_*
  kind @3 :Kind;
  offset @4 :UInt64;          # into the file
  file @5 :FileRef;
  flags @6 :UInt64;           # kernel::VmFlag bits
  sharedId @7 :UInt64;        # the same for mappings of the same shared memory
  guardRuns @8 :List(PageRun);  # MADV_GUARD_INSTALL
  segment @9 :Segment;        # of kind sharedAnonymous: where it is memory of System V
  lazy @10 :Bool;             # over a link: its pages follow when the process runs (wire-protocol.md)
  staged @11 :List(PageRun);  # over a link: of its pages, what came in rounds and still holds
  hugeShift @12 :UInt8;       # of hugetlb: its pages are of 2^hugeShift bytes; 0: of 2 MB
  enum Kind {
    anonymous @0;
    privateFile @1;
    sharedFile @2;
    sharedAnonymous @3;
    stack @4;                 # anonymous, grows down
    vvar @5;
    vdso @6;
    vsyscall @7;
  }
}

struct Segment {
  # Of System V memory, which is mapped as a whole wherever it is.
  id @0 :Int32;
  key @1 :UInt32;             # 0: IPC_PRIVATE
  size @2 :UInt64;
  mode @3 :UInt32;            # permissions, and SHM_DEST
  uid @4 :UInt32;
  gid @5 :UInt32;
}

struct PageRun {
  start @0 :UInt64;
  pages @1 :UInt64;
}

struct Pages {
  # In rising order, each run in one VMA; followed by their raw bytes. Pages of a VMA that no run
  # names are zero, or the file's; in an image of the way home (purpose return) they are as they
  # were here, but for those that lost what they held and are zero, or the file's, again.
  runs @0 :List(PageRun);
  dropped @1 :List(PageRun);
  kept @2 :List(PageRun);     # over a link, of a run_on: they are as in the image that the other end
                              # has kept of it (wire-protocol.md), and have no bytes here
}

struct Round {
  # Over a link: pages that come while the process runs still, ahead of its Process. The first one is
  # followed by the mappings that they are of, and by pages, each other one by pages. It says that
  # those before it have all come. Behind the last one nothing comes but the Process, or a Tree.
  number @0 :UInt32;
  ids @1 :List(UInt32);       # of the first: of the process and its other threads, as they see them
  taken @2 :List(PageRun);    # and where anything is mapped
  last @3 :Bool;              # no pages follow
}

struct FreezeMark {
  # From here on nothing of the process changes any more.
  clockMonotonic @0 :Int64;
}

struct FileDescription {
  # An open file description; several descriptors may name it.
  id @0 :UInt32;
  kind @1 :Kind;
  flags @2 :UInt32;           # O_* as fcntl(F_GETFL) has them, O_CLOEXEC aside
  position @3 :UInt64;
  file @4 :FileRef;
  stream @5 :UInt32;          # of kind stdio: 0, 1 or 2, which stream of home it is
  owner @6 :Int32;            # F_GETOWN_EX, as the process itself knows it; 0: none
  name @7 :Text;              # for people: what `ls -l /proc/PID/fd` shows
  ownerType @8 :UInt32;       # F_OWNER_*
  ownerSignal @9 :UInt32;     # F_GETSIG
  pipe @10 :UInt32;           # of kind pipe: which one of Files.pipes
  eventCount @11 :UInt64;     # of kind eventfd
  eventSemaphore @12 :Bool;
  timer @13 :TimerFile;       # of kind timerfd
  signalMask @14 :UInt64;     # of kind signalfd; bit n-1: signal n
  epoll @15 :List(EpollItem);
  watches @16 :List(InotifyWatch);
  socket @17 :UInt32;         # of kind socket: which one of Sockets.sockets
  locks @18 :List(FileLock);
  pidfdOf @20 :UInt32;        # of kind pidfd: whose, where it is not the first holder's own
  origin @19 :UInt32;         # on the way home: 1 more than its place among the descriptions of the
                              # way there; 0: it is stdio, or was opened there
  pty @21 :UInt32;            # of these kinds: which one of Files.ptys
  ownTerminal @22 :Bool;      # of a slave: it was opened as /dev/tty
  enum Kind {
    regular @0;
    directory @1;
    device @2;                # a character device that every machine has alike
    stdio @3;                 # goes home over the control channel
    null @4;                  # stdin of a forked child that does not take it
    leftHome @5;              # an O_PATH placeholder, of /dev/null: read and write are EBADF
    pipe @6;                  # an end, or with O_RDWR both
    eventfd @7;
    timerfd @8;
    signalfd @9;
    epoll @10;
    inotify @11;
    pidfd @12;                # of the process itself, or of one of its tree
    socket @13;
    procfs @14;               # what /proc/self has by the path of `file`, which begins there
    ptyMaster @15;
    ptySlave @16;
  }
}

struct Pipe {
  capacity @0 :UInt32;        # F_GETPIPE_SZ
  contentId @1 :UInt32;       # not 0: the FileContent record with what lies in it
  pieces @2 :List(PipePiece); # of that content, in their order
  fifo @3 :FileRef;           # where it has a name
}

struct PipePiece {
  size @0 :UInt32;
  packet @1 :Bool;            # a read(2) ends where it ends (pipe(2), O_DIRECT)
}

struct Pty {
  # A pseudo-terminal, with both its ends.
  number @0 :UInt32;          # of /dev/pts/N
  hungUp @1 :Bool;            # its master is closed; then it has nothing of the following
  settings @2 :Data;          # struct termios2
  window @3 :WindowSize;
  packets @4 :Bool;           # TIOCPKT
  locked @5 :Bool;            # TIOCSPTLCK
  masterExclusive @6 :Bool;   # TIOCEXCL
  slaveExclusive @7 :Bool;
  masterStopped @8 :Bool;     # tcflow(3), TCOOFF
  slaveStop @9 :Stop;
  mode @10 :UInt32;           # permissions and owner of the slave
  uid @11 :UInt32;
  gid @12 :UInt32;
  contentId @13 :UInt32;      # not 0: what the slave has not read, and behind it the master
  input @14 :List(PtyPiece);  # of that what the slave has not read
  enum Stop {
    no @0;
    byCharacter @1;           # VSTOP
    byCall @2;                # TCOOFF
  }
}

struct PtyPiece {
  # What one read(2) gives.
  size @0 :UInt32;
  end @1 :End;
  enum End {
    open @0;                  # none: half a line, or bytes of one that has no lines
    delimiter @1;             # its last byte
    endOfFile @2;             # VEOF, which is none of its bytes
  }
}

struct TimerFile {
  clock @0 :Int32;
  flags @1 :UInt32;           # of timerfd_settime(2)
  remaining @2 :Int64;        # 0: disarmed
  interval @3 :Int64;
  expirations @4 :UInt64;     # that were not read
  deadline @5 :Int64;         # of an absolute one on CLOCK_REALTIME
}

struct EpollItem {
  fd @0 :UInt32;              # the number that it was added by, whatever is there now
  description @1 :UInt32;     # what it watches
  events @2 :UInt32;          # without events: one that is disabled (EPOLLONESHOT)
  data @3 :UInt64;
}

struct InotifyWatch {
  number @0 :Int32;
  mask @1 :UInt32;
  file @2 :FileRef;
}

struct FileLock {
  kind @0 :Kind;
  exclusive @1 :Bool;
  start @2 :UInt64;
  length @3 :UInt64;          # 0: to the end of the file
  enum Kind {
    flock @0;
    posix @1;                 # of the process
    description @2;           # F_OFD_SETLK
    lease @3;                 # F_SETLEASE
  }
}

struct Descriptor {
  fd @0 :UInt32;
  description @1 :UInt32;
  closeOnExec @2 :Bool;
  locks @3 :List(FileLock);   # POSIX ones, of a process that is not the description's first holder
}

struct Files {
  descriptions @0 :List(FileDescription);
  descriptors @1 :List(Descriptor);
  pipes @2 :List(Pipe);
  ptys @3 :List(Pty);
}

struct SocketOption {
  level @0 :Int32;
  name @1 :Int32;
  value @2 :Data;
}

struct Socket {
  family @0 :Int32;
  type @1 :Int32;             # SOCK_*
  protocol @2 :Int32;
  peer @3 :UInt32;            # of a pair: one more than the other's index; 0: none
  shutdown @4 :UInt32;        # 1: nothing more is received, 2: nothing sent
  paired @5 :Bool;            # it is one of socketpair(2), whose other end may be closed
  listening @6 :Bool;
  backlog @7 :UInt32;
  address @8 :Data;           # a sockaddr that it is bound to; empty: to none
  options @9 :List(SocketOption);
  contentId @10 :UInt32;      # not 0: the FileContent record with what it has not read
  messages @11 :List(UInt32); # the sizes of those
  mode @12 :UInt32;           # the permissions of its name, where that is a file's
  sentAlong @13 :List(SentAlong);  # descriptors that came with what it has not read
  waiting @14 :List(UInt32);  # sockets that it has not accepted, in their order
  root @15 :Text;             # the directory in which its name is a path; empty: the machine's root
}

struct SentAlong {
  message @0 :UInt32;         # which one of the messages
  descriptions @1 :List(UInt32);
}

struct Sockets {
  sockets @0 :List(Socket);
}

struct SignalAction {
  signal @0 :UInt32;
  handler @1 :UInt64;
  flags @2 :UInt64;
  restorer @3 :UInt64;
  mask @4 :UInt64;
}

struct Signals {
  actions @0 :List(SignalAction);   # only those that are not the default
  pending @1 :List(Data);           # siginfo_t, 128 bytes each, of the whole process
}

struct IntervalTimer {
  which @0 :UInt32;           # ITIMER_*
  value @1 :Int64;            # microseconds until it fires
  interval @2 :Int64;         # microseconds
}

struct PosixTimer {
  id @0 :UInt32;
  clock @1 :Int32;
  notify @2 :UInt32;          # SIGEV_*
  signal @3 :UInt32;
  value @4 :UInt64;           # sigev_value
  tid @5 :UInt32;             # of SIGEV_THREAD_ID
  remaining @6 :Int64;        # nanoseconds; 0: disarmed
  interval @7 :Int64;
}

struct Timers {
  intervals @0 :List(IntervalTimer);
  posix @1 :List(PosixTimer);
}

struct SyscallDispatch {
  # PR_SET_SYSCALL_USER_DISPATCH, where it is on.
  offset @0 :UInt64;          # system calls from here are not handed back
  length @1 :UInt64;
  selector @2 :UInt64;        # 0: all others are
}

struct Thread {
  tid @0 :UInt32;
  comm @1 :Text;
  registers @2 :Data;         # NT_PRSTATUS, as the architecture has it
  xstate @3 :Data;            # NT_X86_XSTATE
  signalMask @4 :UInt64;
  pending @5 :List(Data);     # siginfo_t, 128 bytes each, of this thread
  altStack @6 :UInt64;
  altStackSize @7 :UInt64;
  altStackFlags @8 :UInt32;
  robustList @9 :UInt64;
  robustListSize @10 :UInt64;
  clearChildTid @11 :UInt64;
  rseq @12 :UInt64;           # 0: not registered
  rseqSize @13 :UInt32;
  rseqSignature @14 :UInt32;
  rseqFlags @15 :UInt32;
  nice @16 :Int32;
  policy @17 :UInt32;
  priority @18 :UInt32;
  affinity @19 :Data;         # a cpu_set_t mask; empty: every CPU
  timerSlack @20 :UInt64;
  parentDeathSignal @21 :UInt32;
  seccompMode @22 :UInt32;
  ownDirectory @23 :Bool;     # the next two are its own (unshare(2), CLONE_FS)
  cwd @24 :Text;
  umask @25 :UInt32;
  credentials @26 :Credentials;  # where they are others than the first thread's
  ownPersonality @27 :Bool;   # the next is another one than the first thread's
  personality @28 :UInt32;
  root @29 :Text;             # of one with its own directories; empty: that of the process
  dispatch @30 :SyscallDispatch;
}

struct Command {
  # telefork run: what to start there, instead of a process.
  arguments @0 :List(Data);
  environment @1 :List(Data);
  cwd @2 :Text;
  umask @3 :UInt32;
  limits @4 :List(Limit);
  nice @5 :Int32;
  terminal @6 :Bool;
  ignoredSignals @7 :UInt64;  # bit n-1: signal n
}

struct End {
  records @0 :UInt64;         # before this one
  pages @1 :UInt64;
  payloadBytes @2 :UInt64;    # of all pages and file contents
  checksum @3 :UInt64;        # XXH3-64 over the frame headers of all records before this one
}
