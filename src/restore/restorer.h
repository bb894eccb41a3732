// Records of an image to a process: the twin of capture/.
//
//     Restorer restorer(settings);
//     while (restorer.take(source)) {}        // every record up to the End
//     restorer.finish();                      // the guest is whole, and stopped
//     ... ready, go ...
//     pid_t pid = restorer.release();         // it runs
//
//   what arrives     where it is kept              when it is put in place
//   ---------------  ----------------------------  ---------------------------------------------
//   rounds of pages  the guest's memory            as they come; finish() keeps what still holds
//   metadata         the records themselves        finish(), in the order of the kernel's needs
//   file contents    memory files of the keeper    finish(), mapped or opened like any file
//   pages            the guest's memory            as they come
//
// The blank process is made as soon as it is known which pid it is to have (`blank.want_pid`), or
// with the process record. When the last thread's has come, or of many threads before the first
// one's, it is cleared, and the guest's memory is mapped, writable, at its addresses. It is filled
// by the blank itself from the bulk connection where the bytes come raw (`bulk_fd`), else by this
// process; finish() gives it its protection, advice, guards and locks. Until release() the guest
// dies with this process; the destructor kills it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/mapped_region.h"
#include "base/unique_fd.h"
#include "image/record_source.h"
#include "kernel/pagemap.h"
#include "kernel/procfs_maps.h"
#include "restore/address_space.h"
#include "restore/become.h"
#include "restore/blank.h"
#include "restore/clocks.h"
#include "restore/descriptor_plan.h"
#include "restore/files.h"
#include "restore/page_reception.h"
#include "restore/pipes.h"
#include "restore/sockets.h"
#include "restore/steps.h"
#include "restore/tree_parts.h"
#include "restore/vma_rules.h"
#include "tracee/memory.h"
#include "tracee/stop_watch.h"

namespace telefork::restore {

// Memory of the guest that is mapped, and whose pages follow when it runs (Vma.lazy, or kept here).
struct LazyMemory {
  pid_t guest = 0;
  std::uint32_t process = 0;  // the how manieth of the image; the first is 0
  UniqueFd
      userfaultfd;  // made by the guest, as Userfault::flags() has it, and not asked anything yet
  std::vector<kernel::PageRun> ranges;   // rising
  std::vector<kernel::PageRun> arrived;  // of these, what came with the image, or will never come
  std::vector<kernel::PageRun> wiped;    // and what its children find zeros in (MADV_WIPEONFORK)
};

struct RestoreSettings {
  BlankSettings blank;
  // telefork-init. With it a guest that must keep its ids and cannot have them in this process's
  // pid namespace has one of its own; empty: it is refused.
  std::string init_program;
  // Of such a namespace, as PidNamespace::make() has it.
  pid_t first_new_id = 0;
  // The descriptor to receive pages from, raw, in their order; -1: they come through the source.
  int bulk_fd = -1;
  // What the guest's standard streams become; an empty one is /dev/null. See set_streams().
  std::array<UniqueFd, 3> streams;
  // A descriptor that is no part of the image, and the number that the guest knows it by.
  UniqueFd session_socket;
  int session_number = -1;
  // The thread, as the guest sees it, that is let run when no other is traced any more; 0: any.
  pid_t last_released = 0;
  // Instead of starting a blank process: takes one that is there, with that pid. Called when all
  // but the pages has come and the ids of its other threads are free here; of a tree before its
  // first process is made, and of each for which `is_found` says so, children first.
  std::function<Blank(pid_t)> find_blank;
  bool finds_in_namespace = false;  // those are in a pid namespace that was made for them
  std::function<bool(pid_t)> is_found;
  // Of the sessions that these lead, for as long as one may be given up again: one that gets a
  // terminal here is added. Outlives the restorer; null: they have none.
  SessionTerminals* terminals = nullptr;
  // The process comes back to the clocks that it left: they have gone on.
  bool own_clocks = false;
  // The process waits elsewhere for its life here: no image of the past. See OpenFiles.
  bool live = false;
  // PR_TIMER_CREATE_RESTORE_IDS, where the kernel has it.
  bool timers_by_id = true;
  // UFFDIO_MOVE, likewise. See huge_pages.h.
  bool moves_pages = true;
  // Where the guest's clocks would jump it gets a time namespace, if this process may make one.
  bool time_namespace = true;
  // Told what is not as it was, though the guest runs: "its hard limit RLIMIT_NOFILE is 1024, ...".
  std::function<void(const std::string&)> warn;
  // Whether to tell of the link to the program file too, which only a privileged restorer can set.
  bool tells_of_exe = true;
  // Called when all memory of a process is in place, before anything else of it is restored: from
  // then on whoever touches what has not come waits for an answer. Empty: an image with such memory
  // is refused.
  std::function<void(LazyMemory)> follow;
  // Called when what came in rounds of pages ahead of that one is here; `last`: they are over.
  // Empty: an image that begins with such is refused.
  std::function<void(std::uint32_t round, bool last)> on_round;
  // Gives whole pages that were kept of the guest's last life here (KeptImage). Empty: there are
  // none, and an image that needs some is refused.
  std::function<void(RemotePtr, std::span<std::byte>)> read_kept;
  // What there is much of does not come from there but by `follow`, when the guest touches it. No
  // other memory follows then.
  bool kept_follows = false;
  // Of the first process of a tree: all ids that its processes and threads are to have.
  std::vector<pid_t> tree_ids;
};

class Restorer {
 public:
  explicit Restorer(RestoreSettings settings, std::shared_ptr<TreeParts> parts = nullptr);
  ~Restorer();
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;

  // For who learns only later what they are: before the first record.
  void set_streams(UniqueFd (&&streams)[3]);
  // One record. False: it was the End. Throws what cannot be restored here, by name.
  bool take(image::RecordSource& source);
  // Of several, first of all: its memory is whole, and nothing of telefork's has a number in it any
  // more, but what more comes in by.
  void finish_memory();
  void finish();
  // Lets the guest run. The caller reaps it from now on.
  pid_t release();
  // Gives up what it was to be; see become.h. Only of a blank that was found
  // (RestoreSettings::find_blank).
  tracee::TracedThread become(const MakeProgram& make);

  // For TreeRestorer, which knows when all of several are whole.
  bool take(image::Record record, image::RecordSource& source);
  // The first process of a tree, as soon as all ids are known.
  Blank& start_first();
  // One that was made by another one's.
  void adopt(std::unique_ptr<Blank> blank) { blank_ = std::move(blank); }
  void set_clocks(tracee::Stub& stub);
  // Who takes which description, of all together: before anything of them is opened.
  static void share_descriptors(std::span<Restorer* const> all);
  static void count_sent_along(TreeParts& parts, Restorer* first);
  // Of one alone: by a signal.
  bool was_stopped() const { return process().getStopped(); }
  // Stops it for good, in the eyes of its parent too.
  void stop();
  // The last thing that can fail: it has the state that it runs from.
  void become_guest();
  // Lets it run.
  pid_t let_go();
  // The same, and this thread is told how it fares.
  tracee::StopWatch let_go_watched();
  // Of one that was made early, and turns out to be the first of several: it is made anew.
  RestoreSettings give_up();
  image::schema::Signals::Reader signals() const;
  const RestoreSettings& settings() const { return settings_; }
  // When the last one has its descriptors.
  void settle_common_part();

  // Of the guest, once there is one.
  pid_t pid() const { return blank_ ? blank_->pid() : 0; }
  // Between finish() and release(): for what only the guest itself can ask the kernel for.
  tracee::Stub& stub() { return blank_->stub(); }
  // As the guest sees itself.
  pid_t guest_pid() const { return blank_ ? blank_->guest_pid() : 0; }
  // Whether it has the user and group ids of the image, which only a privileged restorer can give.
  bool has_same_user() const;
  const ArrivedFiles& arrived_files() const { return parts_->open_files.arrived(); }
  // What its descriptors were made of.
  image::schema::Files::Reader files() const { return files_->get<image::schema::Files>(); }
  // The namespace that was made for it, if one was: to be kept until the guest has ended.
  std::optional<PidNamespace> take_namespace() { return std::exchange(space_of_pids_, {}); }

 private:
  struct Mapping {
    explicit Mapping(image::Record from) : record(std::move(from)), at(start()) {}

    image::Record record;
    image::schema::Vma::Reader vma() const { return record.get<image::schema::Vma>(); }
    RemotePtr start() const { return RemotePtr(vma().getStart()); }
    std::uint64_t size() const { return vma().getEnd() - vma().getStart(); }
    RemotePtr at;        // where it is now; not at start() while it is kept apart, see mappings.cc
    int protection = 0;  // that it has now
    bool has_first_page = false;
    bool has_huge_pages = false;
    int file = -1;  // its number in the blank, once it is there
  };
  // Shared anonymous memory: one object, mapped once or more.
  struct SharedMemory {
    std::uint64_t size = 0;  // of the object, as far as it is mapped
    unsigned users = 0;
    RemotePtr whole;  // where all of it is mapped, if it is
    bool inherited = false;
    unsigned huge_shift = 0;  // of hugetlb
    int file = -1;  // its number in a blank that was there, of hugetlb: to map parts of it
  };

  // start.cc: the blank process and room in its address space.
  void prepare_early();
  void prepare_ahead_of_threads();
  void prepare();
  void prepare_memory();
  bool fits_the_threads() const;
  void start_over();
  void start_blank_early();
  void start_blank(bool pid_required);
  void find_blank();
  bool blank_has_ids() const;
  void finish_as_this_user();
  pid_t wanted_pid() const;
  bool must_keep_ids() const;
  std::string describe_taken_id(bool of_process) const;
  void make_namespace(const std::string& why);
  // Throws that they cannot be kept, where it throws.
  void refuse_ids(const std::function<void()>& what_may_fail) const;
  void lay_out();
  void check_staging() const;
  void place_stub();
  std::uint64_t pending_signals() const;
  void give_bulk();
  void give_files();
  void clear_blank(tracee::SyscallProgram& program);
  void move_shared_memory_aside(tracee::SyscallProgram& program);
  RemotePtr room_for(const SharedMemory& shared);
  void make_shared_memory(TreeParts::SharedArea& area, SharedMemory& shared,
                          tracee::SyscallProgram& program);
  int get_shared_file(const TreeParts::SharedArea& area);
  void get_shared_memory(TreeParts::SharedArea& area, SharedMemory& shared,
                         tracee::SyscallProgram& program);
  // staged.cc: memory that comes while the process runs elsewhere still.
  void take_round(image::Record record);
  void prepare_staging(image::schema::Round::Reader round);
  void map_areas();
  void end_rounds();
  void check_staged() const;
  void keep_staged(tracee::SyscallProgram& program);
  void map_staged(Mapping& mapping, tracee::SyscallProgram& program);
  static void map_area(Range range, image::schema::Vma::Reader vma,
                       tracee::SyscallProgram& program);
  void drop_pages(::capnp::List<image::schema::PageRun>::Reader runs,
                  tracee::SyscallProgram& program);
  // vdso_placing.cc
  void move_vdso_aside(tracee::SyscallProgram& program);
  bool has_same_vdso() const;
  void place_vdso(tracee::SyscallProgram& program);
  // mappings.cc
  void map_memory();
  void unmap_wholes(tracee::SyscallProgram& program);
  void map_private(Mapping& mapping, bool apart, tracee::SyscallProgram& program);
  void map_shared(Mapping& mapping, tracee::SyscallProgram& program);
  void map_part(const Mapping& mapping, const SharedMemory& shared,
                tracee::SyscallProgram& program);
  void attach_segment(Mapping& mapping, int flags, tracee::SyscallProgram& program);
  void settle_memory(tracee::SyscallProgram& program);
  void lock_memory();
  void lock_these(std::span<const Mapping* const> mappings);
  void seal_memory();
  void lock_the_future();
  void check_guard_pages();
  // memory.cc
  void take_pages(const image::Record& record, image::RecordSource& source);
  Mapping& mapping_of(RemotePtr address);
  using RunList = ::capnp::List<image::schema::PageRun>::Reader;
  std::vector<PagePiece> place(const std::vector<kernel::PageRun>& runs,
                               tracee::SyscallProgram& program);
  void take_kept_pages(RunList runs);
  bool may_follow(const kernel::PageRun& kept);
  void add_kept_that_follows(LazyMemory& lazy);
  void get_ready_for_huge_pages(Mapping& mapping, tracee::SyscallProgram& program);
  void open_for_pages(Mapping& mapping, tracee::SyscallProgram& program);
  static void make_hugetlb_pages(image::schema::Vma::Reader vma, Range range,
                                 tracee::SyscallProgram& program);
  void begin_to_follow();
  // process.cc
  void restore_layout();
  std::int64_t try_set_layout(int exe_fd);
  void restore_settings();
  void restore_credentials();
  void drop_spare_capabilities(tracee::SyscallProgram& program) const;
  void add_thread_credentials(image::schema::Credentials::Reader wanted,
                              tracee::SyscallProgram& program) const;
  void add_dumpable(tracee::SyscallProgram& program) const;
  void restore_limits();
  // directories.cc
  struct Directory {
    UniqueFd file;    // given to it with its descriptors; empty: it opens it itself
    int number = -1;  // there, for a while
  };
  std::string wanted_root() const;
  bool has_wanted_root() const;
  bool has_own_root(image::schema::Thread::Reader thread) const;
  bool some_thread_has_own_root() const;
  void check_root() const;
  void add_directory(const std::string& path, mode_t removed, bool opened_here);
  void find_directories();
  void enter_directories();
  void add_root(const std::string& path, tracee::SyscallProgram& program) const;
  void add_working_directory(const std::string& path, tracee::SyscallProgram& program) const;
  void add_own_directories(image::schema::Thread::Reader thread,
                           tracee::SyscallProgram& program) const;
  void add_end_of_directories(tracee::SyscallProgram& program) const;
  // seccomp.cc
  void restore_seccomp();
  // descriptors.cc
  void restore_descriptors();
  std::vector<WantedNumber> wanted_numbers();
  UniqueFd take_wanted(std::size_t file);
  void close_mapped_files();
  int make_room_for_descriptors(const std::vector<WantedNumber>& wanted);
  UniqueFd open_description(image::schema::FileDescription::Reader description);
  UniqueFd take_description(std::uint32_t index);
  using DescriptionList = ::capnp::List<image::schema::FileDescription>::Reader;
  DescriptionList descriptions() const;
  bool holds_first(std::uint32_t description) const;
  void open_common_part();
  // What its epolls watch and it has no descriptor of.
  std::set<std::uint32_t> find_hidden_targets() const;
  void close_hidden_targets();
  std::pair<UniqueFd, UniqueFd> make_socket_pair_inside(int type, int protocol);
  std::pair<UniqueFd, UniqueFd> connect_inside(const UniqueFd& listener,
                                               image::schema::Socket::Reader record);
  // Those that are to wait there to be accepted.
  std::vector<UniqueFd> connect_waiting(const UniqueFd& listener,
                                        image::schema::Socket::Reader record, unsigned count);
  class Listener;
  UniqueFd open_inside(const std::string& path, unsigned flags, int& error);
  UniqueFd open_own_proc(image::schema::FileDescription::Reader description);
  UniqueFd try_open_own_terminal(image::schema::FileDescription::Reader description);
  // epolls.cc
  std::map<int, image::schema::Descriptor::Reader> descriptors_by_number() const;
  void restore_event_files();
  void restore_disabled_targets(int epoll, image::schema::FileDescription::Reader description);
  void restore_targets(int epoll, image::schema::FileDescription::Reader description);
  void restore_listeners();
  // locks.cc
  void restore_locks();
  std::int64_t read_guest_clock(int clock);
  void restore_timer_files();
  pid_t owner_of(image::schema::FileDescription::Reader description) const;
  void restore_owners();
  // signals.cc, timers.cc
  void restore_signals();
  using TimerList = ::capnp::List<image::schema::PosixTimer>::Reader;
  bool try_create_timers_by_id(TimerList timers);
  void create_timers_by_count(TimerList timers);
  void restore_timers();
  // threads.cc
  void restore_threads();
  pid_t let_go_by(const std::function<void(tracee::TracedThread&)>& let_leader_go);
  // Where they count themselves when they have set themselves up, and wait.
  struct ThreadMeeting {
    RemotePtr counter;
    RemotePtr gate() const { return counter + sizeof(std::uint32_t); }
  };
  struct LoadedThread {
    tracee::SyscallProgram own;
    ThreadStart start;
  };
  void start_other_threads();
  LoadedThread load_thread(image::schema::Thread::Reader thread, const ThreadMeeting& meeting,
                           tracee::ScatteredMemory& memory);
  void start_by_chosen_ids(const std::vector<LoadedThread>& loaded, const ThreadMeeting& meeting);
  void start_by_next_ids(const std::vector<LoadedThread>& loaded, const ThreadMeeting& meeting);
  void stop_other_threads();
  std::size_t index_of(const tracee::TracedThread& thread) const;
  tracee::SyscallProgram thread_program(image::schema::Thread::Reader thread, bool main);

  // Runs `program` and empties it, when it has grown large, or `always`.
  void run_if_large(tracee::SyscallProgram& program, bool always = false);
  image::schema::Process::Reader process() const;
  void warn(const std::string& text) const;
  bool has_parents(const std::set<pid_t>& sharers) const {
    return sharers.contains(static_cast<pid_t>(process().getPid()));
  }

  RestoreSettings settings_;
  std::optional<image::Record> process_;
  std::shared_ptr<const image::Record> files_;
  std::optional<image::Record> signals_;
  std::optional<image::Record> timers_;
  std::vector<image::Record> threads_;
  std::vector<Mapping> mappings_;
  std::map<std::uint64_t, SharedMemory> shared_;
  std::shared_ptr<TreeParts> parts_;
  std::map<std::uint32_t, int> hidden_;  // find_hidden_targets(): their numbers for a while
  std::map<std::string, Directory> directories_;  // by path, those that it needs by descriptor

  AddressSpace space_;
  std::optional<PidNamespace> space_of_pids_;  // lives longer than the blank
  std::string why_namespace_;
  std::unique_ptr<Blank> blank_;
  std::vector<kernel::Vma> blank_maps_;  // as it was born
  std::vector<kernel::Vma> vdso_parts_;  // of the blank, at their parking addresses
  std::vector<std::byte> vdso_code_;
  int bulk_in_blank_ = -1;
  std::optional<HugePages> huge_;
  std::unique_ptr<MappedRegion> buffer_;
  std::vector<kernel::PageRun> arrived_of_lazy_;
  std::vector<kernel::PageRun> kept_to_follow_;
  std::optional<std::uint64_t> permitted_before_;  // capabilities of the blank that change
  std::vector<tracee::TracedThread> other_threads_;
  std::vector<RemotePtr> thread_programs_;  // theirs, in the same order
  bool laid_out_ = false;
  // Of rounds of pages.
  std::optional<image::Record> first_round_;
  std::vector<Mapping> areas_;                   // mapped, and where they come; rising
  std::vector<kernel::PageRun> area_runs_;       // theirs
  std::vector<kernel::PageRun> came_in_rounds_;  // rising
  bool in_rounds_ = false;
  bool areas_mapped_ = false;
  bool is_first_round_ = false;
  bool prepared_ = false;
  bool has_memory_ = false;
};

}  // namespace telefork::restore
