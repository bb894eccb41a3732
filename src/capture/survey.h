// What a process consists of, found out from outside while it may still run, and what of it cannot
// move.
//
//     Survey survey = survey_process(pid, options);
//     throw_refusals(survey.refusals);
//     ... the destination is asked about survey.files ...
//     freeze it, survey it again if it ran meanwhile, capture it by the survey
//
// The same function answers `telefork check`, so that a check and a move cannot disagree.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

#include "capture/file_table.h"
#include "capture/holders.h"
#include "capture/origins.h"
#include "capture/refusal.h"
#include "capture/sharing.h"
#include "capture/system_v.h"
#include "image/image.capnp.h"
#include "kernel/procfs.h"
#include "kernel/procfs_fdinfo.h"
#include "kernel/yama.h"

namespace telefork::capture {

// kRunOn: the whole process for a call; kReturn: the guest of one, on its way home. kMove: all of
// it for good, with a deputy at home; kHome: the guest of one, whose deputy it is to take the place
// of. kCopy: all of it, and the original runs on.
enum class Purpose { kFork, kSave, kRunOn, kReturn, kMove, kHome, kCopy };

// All of it is taken as it is at one instant, with those that have come of it: what lives with the
// process is then rebuilt there. Of a fork or a call the original has had it since. (Who is copied
// has it still, and what only one can have is refused.)
constexpr bool moves_whole(Purpose purpose) {
  return purpose == Purpose::kSave || purpose == Purpose::kMove || purpose == Purpose::kHome ||
         purpose == Purpose::kCopy;
}

// What a call may be held up by the flags of its memory. In a process whose memory is small pages
// they cost 6 us a VMA and 30 ns a page (measured: 0.8 ms for 128 VMAs, 26 ms for 1 GB), which is
// three quarters of what fork() itself costs there; see also docs/limits.md.
constexpr std::uint64_t kFlagsBudgetNs = 600'000;

struct SurveyOptions {
  Purpose purpose = Purpose::kFork;
  bool leave_home = false;   // descriptors that cannot travel become placeholders
  bool copy_shared = false;  // shared memory becomes the copy's own
  bool takes_stdin = false;  // fd 0 is carried from home
  bool detached = false;     // move: nothing of it stays at home
  kernel::TraceBar trace_bar = kernel::TraceBar::kNone;  // of who is about to capture it
  std::set<int> own_fds;  // telefork's own sockets in the process: no part of it
  // Of a guest on its way home: the inodes of the pipes that carry its standard streams, by number.
  std::map<unsigned, std::uint64_t> streams;
  const Origins* origins = nullptr;
  FileTable::FindOriginal originals;
  // Of that guest too: its namespaces when it began there, by their names in /proc/PID/ns.
  const std::map<std::string, std::string>* namespaces = nullptr;
  // For a check that holds somebody up: the flags of the memory, which cost a walk of the page
  // tables, are looked at only within kFlagsBudgetNs, and not again where the memory map is as it
  // was. What only they tell is found later else.
  bool quick = false;
  // The memory map with its flags, where it was read before.
  const std::vector<kernel::Vma>* map = nullptr;
  // Who asks, which does not go along; 0: this process.
  pid_t asker = 0;
  // Who traces it, and lets go of it when that is asked for; 0: nobody does.
  pid_t keeper = 0;
  // Those that were made for it when it came here, as the links in /proc/PID/ns name them; they
  // show it nothing else than its ids.
  std::vector<std::string> own_namespaces;
  // What has come of it, as list_tree() has it, where that was listed while all stood still.
  const std::vector<pid_t>* known_tree = nullptr;
  // Those of them that have a snapshot (tracee/snapshot.h) among their children, likewise.
  const std::set<pid_t>* known_copied = nullptr;
  // What threads have of their own, and who shares what with it, may be found out when the survey
  // is there already: settle() and settle_rest() are to be called then. Of a process that stands
  // still, and is alone.
  bool settled_later = false;
  // The processes that move together; empty: it alone.
  std::set<pid_t> tree;
  // Of them, where that was looked at once for all.
  std::shared_ptr<const Sharing> sharing;
  pid_t sharer = 0;  // fork: the process that it was, or is about to be, forked from
  // fork: the thread that is about to make it, as the process sees it; 0: the first one.
  pid_t caller = 0;

  // Whether processes are made where it comes to: at home each has been one all the time.
  bool may_share_again() const { return moves_whole(purpose) && purpose != Purpose::kHome; }
};

// What an epoll watches.
struct EpollItem {
  kernel::EpollTarget target;
  std::size_t description = 0;
};

struct InotifyWatch {
  int number = 0;
  unsigned mask = 0;
  std::string path;
  unsigned mode = 0;  // st_mode
};

// One open file description.
struct Description {
  image::schema::FileDescription::Kind kind;
  std::string name;    // the link in /proc/PID/fd
  unsigned flags = 0;  // without O_CLOEXEC
  std::uint64_t position = 0;
  std::optional<std::size_t> file;  // in FileTable
  unsigned stream = 0;              // of kind stdio
  pid_t pid = 0;                    // of a tree: whose the descriptor is
  int fd = -1;                      // the first that names it
  std::size_t object =
      0;  // of kind pipe: in Survey::pipes; of a socket: in sockets; of a pty: ptys
  std::vector<EpollItem> epoll = {};
  std::vector<InotifyWatch> watches = {};
  std::vector<kernel::LockInfo> locks = {};
  std::optional<std::uint32_t> origin = {};  // Origin::description
  pid_t pidfd_of = 0;                        // of kind pidfd
  std::string procfs = {};                   // of that kind: its path by /proc/self
  bool own_terminal = false;                 // of a pty: it was opened as /dev/tty
};

// A pipe or FIFO, whose ends are descriptions.
struct PipeObject {
  std::string link;                 // in /proc/PID/fd
  std::optional<std::size_t> fifo;  // in FileTable, where it has a name
};

// A pseudo-terminal, the ends of which are descriptions.
struct PtyObject {
  bool hung_up = false;  // its master is closed: then nothing more is known
  unsigned number = 0;   // of /dev/pts/N
  pid_t pid = 0;         // who has the master, and by which number
  int fd = -1;
  pid_t slave_pid = 0;  // 0: nobody has the slave
  int slave_fd = -1;
  dev_t device = 0;  // of the slave's name
  ino_t inode = 0;
  // Of whose session it is the controlling terminal, if it is, and its foreground group there: as
  // those processes see themselves.
  pid_t session = 0;
  pid_t foreground = 0;
};

struct Descriptor {
  int fd = 0;
  std::size_t description = 0;
  bool close_on_exec = false;
  // POSIX ones, which are each process's: of those that another one has the description of first.
  std::vector<kernel::LockInfo> locks = {};
};

struct Mapping {
  kernel::Vma vma;
  image::schema::Vma::Kind kind;
  std::optional<std::size_t> file;
  std::uint64_t shared_id = 0;
  std::optional<Segment> segment = {};  // of shared memory: it is System V's
};

// Descriptors that came along with one message of what a socket has not read.
struct SentAlong {
  std::uint32_t message = 0;
  std::vector<std::size_t> descriptions = {};
};

struct SocketObject {
  std::string link;  // in /proc/PID/fd
  int family = 0;
  int type = 0;
  int protocol = 0;
  std::uint32_t peer = 0;  // of a pair: the other's inode
  std::optional<std::size_t> peer_index;
  bool paired = false;  // it has or had a peer
  unsigned shutdown = 0;
  bool listening = false;
  std::uint32_t backlog = 0;
  std::vector<std::byte> address;
  std::uint32_t file = 0;  // the inode of its name, where that is a file's
  unsigned mode = 0;       // and the permissions
  std::string root;        // the root directory in which that is its path; empty: the machine's
  std::vector<std::uint32_t> waiting_inodes = {};  // of who has connected, and was not accepted
  std::vector<std::size_t> waiting = {};           // the same sockets
  bool peer_has_unread = false;
  bool carries = false;  // descriptors
  std::vector<SentAlong> sent_along = {};
};

class SurveyBeside;

struct Survey {
  pid_t pid = 0;
  // Whose credentials, directories and descriptors count: of a fork its caller's, else the first.
  pid_t thread = 0;
  kernel::Stat stat;
  kernel::Status status;
  FileTable files;
  std::optional<std::size_t> executable;
  std::vector<Mapping> mappings;
  std::vector<Description> descriptions;
  std::vector<Descriptor> descriptors;
  std::vector<PipeObject> pipes;
  std::vector<PtyObject> ptys;
  std::vector<SocketObject> sockets;
  // What is on its way in these: descriptions of which `pid` is this process have their number
  // here, as long as they are open nowhere else.
  std::vector<UniqueFd> in_flight;
  OutsideHolders outside;
  std::map<SharedObject, std::uint64_t> shared_ids;
  std::vector<int> refused_fds;
  // That of a thread, where it is not this process's: whoever restores it may have to change it.
  std::string changed_root;
  // Threads that have directories and a umask of their own.
  std::set<pid_t> own_directories;
  // And those that have other ids or capabilities than the first one.
  std::set<pid_t> own_credentials;
  // It has them in common with its parent, which goes along.
  bool shares_descriptors = false;
  bool shares_directories = false;
  // What is found out meanwhile.
  std::shared_ptr<SurveyBeside> beside;
  bool whole = false;           // moves_whole()
  bool original_stays = false;  // Purpose::kCopy
  bool copies_shared = false;   // SurveyOptions::copy_shared
  Refusals refusals;
  // telefork's own sockets, which it knew by their names.
  std::set<int> own_sockets;
  // Descriptors that stay at home: for `check` and --json.
  std::vector<std::string> left_home;
  // Whether a run_on() brought it to where it is; looked up by is_in_a_call().
  std::optional<bool> in_a_call;
  std::optional<bool> has_agent;  // likewise, by may_be_watched_by_its_agent()

  Survey() : Survey(0) {}
  explicit Survey(pid_t of, const std::set<pid_t>& tree = {})
      : pid(of),
        files(kernel::read_boot_id()),
        outside(tree.empty() ? std::set<pid_t>{of} : tree) {}
  // What the processes of a tree have in common is found out by one after the other: files,
  // descriptions, pipes, ptys, sockets, holders and the ids of shared memory change places with
  // those of `other`.
  void swap_common(Survey& other);
  // Bit n: descriptor n is a standard stream of home's there.
  unsigned carried_streams() const;
};

// What an `earlier` survey of it, or of what it was forked from, found out need not be found out
// again: files that did not change, and in a quick survey the flags of the same memory.
// `first`: of its tree, whose common part it adds to, and which settle_descriptors() is for then.
Survey survey_process(pid_t pid, const SurveyOptions& options, Survey earlier = {},
                      Survey* first = nullptr);

// Whether it has a keeper, which watches what it writes, and for memory that has not come yet; any
// other who watches it is somebody that the program knows of.
bool is_guest(pid_t pid);

// The parts of it; each adds to the survey.
void survey_mappings(const SurveyOptions& options, const Survey& earlier, Survey& survey);
void survey_descriptors(const SurveyOptions& options, Survey& survey);
// When the descriptors of all are known: who is connected with whom, and what epolls watch. The
// first has the common part.
void settle_descriptors(std::span<Survey* const> members);
// What threads have of their own.
struct ThreadSurvey {
  std::set<pid_t> own_directories;
  std::set<pid_t> own_credentials;
  Refusals refusals;
};
enum class ThreadParts {
  kAll,
  kOwn,    // what their records are to have
  kAlike,  // what they have to have in common, which takes the most of the time
};
// `first`: of the first thread, which the others are compared with.
ThreadSurvey survey_threads(Purpose purpose, const kernel::Status& first,
                            std::span<const pid_t> threads, ThreadParts parts = ThreadParts::kAll);
// Of a survey with SurveyOptions::settled_later: waits for what is to be known before its threads
// are written, and adds it.
void settle(const SurveyOptions& options, Survey& survey);
// The same with what else could be in its way, which is found out now; behind settle().
void settle_rest(Survey& survey);
// Other processes that were cloned to have its memory, descriptors or directories (sharing.h); not
// in a quick survey.
Refusals find_sharers(const SurveyOptions& options, pid_t pid, const std::string& name);
// Reads the descriptors of the process once.
bool is_in_a_call(Survey& survey);
// Between two calls with Options::repeat. Likewise.
bool may_be_watched_by_its_agent(Survey& survey);
void survey_policy(const SurveyOptions& options, Survey& survey);

}  // namespace telefork::capture
