@0xd3b5a0b6f2c4e917;
# What two telepads say to each other; docs/wire-protocol.md tells when. Fields and union members
# are only ever added; a change that an older end would misunderstand raises kProtocolVersion
# (protocol/handshake.h).

using Cxx = import "/capnp/c++.capnp";
using Image = import "/image/image.capnp";
$Cxx.namespace("telefork::protocol::schema");

struct Hello {
  # The first message of every connection, from the one that connected.
  magic @0 :Text;             # "telefork"
  version @1 :UInt32;         # of the protocol
  role @2 :Role;
  token @3 :Data;             # of the session that a join or fence belongs to; else empty
  machine @4 :Image.Machine;
  creator @5 :Text;           # "telefork 0.1.0"
  user @6 :Text;              # the account that is wished for; empty: whatever fits the peer
  nodeName @7 :Text;          # what the user called the node, for messages
  telepad @8 :Data;           # of a fence or a resumption: HelloReply.telepad of the session
  resumes @9 :Bool;           # of a session: its connections may outlive a loss (net/resumable_stream.h)
  pages @10 :Bool;            # of a resumption: it is the page connection's; else the control connection's
  enum Role {
    session @0;               # a new session: a fork, a move, a command
    join @1;                  # the bulk connection of a session
    query @2;                 # only the reply is wanted: what machine is that?
    fence @3;                 # end that session; the reply comes when nothing of it is left
    resume @4;                # another connection in the place of a lost one of that session
  }
}

struct HelloReply {
  # The answer, and the last message of a query.
  version @0 :UInt32;
  machine @1 :Image.Machine;
  creator @2 :Text;
  token @3 :Data;             # of the new session
  features @4 :List(Text);    # what the other end can do beside the basics
  refusal @5 :Failure;        # absent: welcome
  telepad @6 :Data;           # of a new session: random bytes, others whenever telepad is started
  joinId @7 :Data;            # where the bulk connection is a TLS of its own: what it begins with,
  joinSecret @8 :Data;        # and what its two ends prove to each other
  user @9 :User;              # of a new session: who the guest will be
  hosting @10 :Hosting;       # of a new session: what stands in the way of a process there
  received @11 :UInt64;       # of a resumption: bytes of the stream that have come there
}

struct Hosting {
  # Why not, and what helps, for people; empty: it can.
  processes @0 :Text;         # come there at all
  ids @1 :Text;               # keep its process and thread ids
  memory @2 :Text;            # run before its memory has come; of an older end it is empty too, see
                              # the feature `lazy`
}

struct User {
  uid @0 :UInt32;
  gid @1 :UInt32;
  choosesIds @2 :Bool;        # or anybody else, as the image says: the keeper may set user ids
  changesRoot @3 :Bool;       # it may have another root directory (chroot(2))
}

struct Failure {
  # A telefork::Error of one machine, for the other one.
  code @0 :UInt32;            # telefork::Code
  errno @1 :UInt32;           # 0: none
  text @2 :Text;
}

struct Message {
  # One control message.
  union {
    nothing @0 :Void;         # never sent: a message that nobody filled in
    # Source to destination; checkFiles as often as need be, until the streams are told.
    checkFiles @1 :CheckFiles;
    prepare @3 :Prepare;
    streams @20 :Streams;
    # The hand-over. The destination restores, says ready and waits for go.
    ready @4 :Ready;
    go @5 :Void;
    started @6 :Void;         # the guest runs
    failed @7 :Failure;       # from either end: it is over, and why
    abort @8 :Text;           # from the source: forget it, nothing may run
    # While the guest runs.
    status @9 :Status;
    signal @10 :Signal;
    finished @11 :Void;       # the last descendant of the guest ended
    stdioData @12 :StdioData;
    stdioEnd @13 :UInt32;     # a stream: nothing follows
    stdioCredit @14 :StdioCredit;
    stdioBroken @15 :StdioBroken;
    heartbeat @16 :UInt64;    # a sequence number; the Link itself takes it
    report @17 :Text;         # JSON, for --json and the log
    # The way home of a run_on.
    returning @18 :Void;      # from the keeper: it stands still, its image follows
    dismiss @19 :Void;        # from home: nothing more is wanted of the guest; of a detached one: it has
                              # no home from now on, which the destination answers by `finished`
    # The way home of a process that was moved: the hand-over in the other direction.
    callHome @21 :Void;       # from home: it is to come
    offer @22 :Offer;         # from the keeper: it could come; home looks whether it can have it
    come @23 :Void;           # from home: it can
    stay @24 :Failure;        # from either end: it does not come now, and why; it runs on there
    unread @25 :Data;         # from the keeper: what it has not read of its stdin
    sentHome @26 :Void;       # from the keeper: that was all of the image
    # Pages that come while the process runs at home.
    staged @27 :UInt32;       # from the keeper: those of all rounds before this one are here
    kept @28 :KeptPages;      # from the keeper: what it has of the memory that was kept
    # Source to destination, which offers it: whether there is enough of it.
    checkMemory @29 :WantedMemory;
    checkMemoryReply @30 :CheckMemoryReply;
    # Destination to source.
    checkFilesReply @2 :CheckFilesReply;
  }
}

struct CheckFiles {
  files @0 :List(Image.FileRef);
  access @1 :List(UInt8);     # R_OK and W_OK (access(2)) of what is to be done with each, in their
                              # order; an older end does not say
}

struct CheckFilesReply {
  verdicts @0 :List(FileVerdict);  # one a file, in their order
}

struct FileVerdict {
  verdict @0 :Verdict;
  hash @1 :Data;              # of `hashed`: XXH3-128 of the file there
  path @2 :Text;              # where it was found
  why @3 :Text;               # of `missing` and `different`: for people
  denied @4 :Bool;            # of `different`: it is the same file, and may not be opened like that
  enum Verdict {
    same @0;                  # it is the same file (FileIdentity)
    hashed @1;                # there is one of that path and size; compare the hashes
    missing @2;
    different @3;             # another size, or another kind of file
  }
}

struct WantedMemory {
  # That of which a machine has only so much, or only one by that name.
  hugePages @0 :List(HugePages);
  segments @1 :List(Image.Segment);  # of System V memory: id and key
  bootId @2 :Text;            # of the machine that asks
  ipcNamespace @3 :Text;      # and the namespace there: "ipc:[4026531839]"
}

struct HugePages {
  shift @0 :UInt8;            # log2 of the bytes of a page
  count @1 :UInt64;
}

struct CheckMemoryReply {
  refusals @0 :List(Refusal);
}

struct Refusal {
  # For people.
  what @0 :Text;
  why @1 :Text;
  remedy @2 :Text;
}

struct Prepare {
  # What the destination has to know to make a process for the guest, while the source still looks
  # at the one that comes.
  purpose @0 :Image.Header.Purpose;
  wantPid @1 :UInt32;         # 0: any
  pidRequired @2 :Bool;       # another pid is a refusal
  dieWithParent @3 :Bool;
  detached @4 :Bool;          # no home, and no lease once home has sent `dismiss`
  cpuForce @5 :Bool;
  libcForce @6 :Bool;
  leaseStopMs @7 :UInt32;     # silence from home after which the guest is stopped
  leaseKillMs @8 :UInt32;     # and after which it is killed
  description @9 :Text;       # for `telefork ps`: the program and its arguments
  sessionFd @10 :UInt32;      # of a run_on: the number of the session socket in the program
  caller @11 :UInt32;         # of a run_on: the thread that called it, as the program sees it
  newIds @12 :List(UInt32);   # of a run_on: where stretches of ids begin that most likely stay free at
                              # home, the best first; threads that are begun in a pid namespace of
                              # the guest's own get those of the first that is possible there
  onlyFirst @13 :Bool;        # of several: home has somebody for the first one alone
  lazy @14 :Bool;             # memory follows on a page connection: one more join by TLS; else its
                              # descriptor is the first thing on the bulk connection
  live @15 :Bool;             # rounds of pages come first, ahead of the streams
  compression @16 :Compression; # of the bulk connection and the page connection, both ways
  keep @17 :Data;             # of a run_on: the memory that it has when it goes home is to be kept
                              # under this name, 16 random bytes, and what was kept is to be told; none: not
  repeat @18 :Bool;           # and once it is home what of it was kept is to be told too, ahead of `finished`
  keptToken @19 :Data;        # of what home was told so last time; none: nothing that it still knows
}

enum Compression {
  none @0;                    # the bytes as they are
  automatic @1;               # blocks (net/compressed_stream.h), each as it goes soonest
  lz4 @2;
  zstd @3;
}

struct KeptPages {
  # After the streams, as many as it takes. With `repeat` once more when it is home, without secret
  # and hashes; none, where nothing was kept.
  secret @0 :Data;            # that the hashes are made with, of all of them the same
  runs @1 :List(Image.PageRun);  # rising, as those of the ones before
  hashes @2 :Data;            # 16 bytes for each page: XXH3-128
  last @3 :Bool;              # there are no more
  token @4 :Data;             # 16 bytes, others whenever what is kept changes
  known @5 :Bool;             # it is what `keptToken` is of: neither runs nor hashes
}

struct Streams {
  # What becomes of the guest's standard streams. The records follow.
  takesStdin @0 :Bool;        # else stdin is /dev/null, or closed for a command
  open @1 :UInt32;            # bit n: stream n of home is open
  joinedOutput @2 :Bool;      # stdout and stderr are one open file description
  useless @3 :UInt32;         # bit n: stream n of home is open, and cannot be read, or written to:
                              # the guest's is as useless (EBADF)
  directory @4 :Bool;         # stdin is a directory (EISDIR)
}

struct Ready {
  pid @0 :UInt32;             # as the telepad there sees it
  guestPid @1 :UInt32;        # as the program sees it
  warnings @2 :List(Text);    # what is not as it was, for people
  sameUser @3 :Bool;          # of a process: it has the user and group ids that it had
  changeFinder @4 :ChangeFinder;
}

enum ChangeFinder {
  # How it is known which pages the guest of a run_on changes.
  none @0;                    # it does not come back
  writeProtection @1;         # a userfaultfd, asynchronous (Linux 6.7)
  hashes @2;                  # of all its pages, before and after
}

struct Offer {
  # What a process has there that home must be able to give it.
  tids @0 :List(UInt32);      # of the threads of all, the first of each aside, as they see them
  permitted @1 :UInt64;       # capabilities
  uids @2 :List(UInt32);      # real, effective, saved, of the filesystem
  gids @3 :List(UInt32);
  members @4 :List(OfferedMember);  # those that have come of it, and live
  sharesMemory @5 :Bool;            # they have anonymous memory in common
  ended @6 :List(UInt32);           # of them, and not waited for
  threads @7 :Bool;                 # it has several, as OfferedMember
  root @8 :Text;                    # its root directory
  memory @9 :WantedMemory;
}

struct OfferedMember {
  pid @0 :UInt32;             # as it sees itself
  permitted @1 :UInt64;
  uids @2 :List(UInt32);
  gids @3 :List(UInt32);
  threads @4 :Bool;           # it has several
  root @5 :Text;
}

struct Status {
  # Of the guest, as waitpid(2) would tell it at home.
  union {
    exited @0 :Int32;
    killed :group {
      signal @1 :UInt32;
      core @2 :Bool;
    }
    stopped @3 :UInt32;       # the signal
    continued @4 :Void;
  }
  pid @5 :UInt32;             # of a tree: which process, as it sees itself; 0: the first
}

struct Signal {
  number @0 :UInt32;
  fromTerminal @1 :Bool;      # for the whole foreground group
  siginfo @2 :Data;           # siginfo_t, 128 bytes; empty: as kill(2) sends it
  pid @3 :UInt32;             # as Status.pid
  others @4 :List(UInt32);    # to whom it was sent at once with that one, as Status.pid
}

struct StdioData {
  stream @0 :UInt32;          # 0, 1 or 2
  data @1 :Data;
}

struct StdioCredit {
  stream @0 :UInt32;
  bytes @1 :UInt32;           # so many more may be sent
}

struct StdioBroken {
  # From the end that writes a stream: nobody reads it any more.
  stream @0 :UInt32;
  errno @1 :UInt32;
}
