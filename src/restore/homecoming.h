// An image of the way home, into the process that it once left.
//
//     Homecoming homecoming(parked, settings);
//     while (homecoming.take(source)) {}       // every record up to the End; nothing is changed
//     homecoming.apply();                      // all of it, and the process runs; or an Error, and
//                                              // it is parked as before
//
// The process is the same one: pid, tids, descriptors, vDSO and what the kernel holds pointers to
// are home's; its memory is changed in place. What the image does not name is as it was.
//
//   take()    records are kept, pages go to a memory file or, of large mappings, to others of their
//             size beside them
//   prepare   reversible, step by step: memory is mapped where home has nothing, or elsewhere, and
//             filled; what is to be written to in place is made present; files are opened; threads
//             begun there are made and wait. Whatever can fail does so here. If the tracer dies it
//             is taken back, and the process goes on as it was when its lease is over
//   commit    one program (ParkedProcess::commit): pages in place, the map, signal actions,
//             descriptors, timers, then the flip of all threads
//
// Owned by the thread that parked the process.
#pragma once

#include <csignal>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "image/record_source.h"
#include "kernel/pagemap.h"
#include "kernel/procfs_maps.h"
#include "kernel/procfs_state.h"
#include "restore/address_space.h"
#include "restore/files.h"
#include "restore/free_numbers.h"
#include "restore/map_plan.h"
#include "restore/page_reception.h"
#include "restore/robust_list.h"
#include "tracee/parked_process.h"

namespace telefork::restore {

struct HomecomingSettings {
  int our_socket = -1;    // connected to the process's `their_socket`, where nothing is under way
  int their_socket = -1;  // in which the caller's read(2) waits
  // The socket on which the bytes of pages come raw, if there is one, for the process to receive
  // from.
  int bulk_fd = -1;
  // telefork's own in the process, `their_socket` among them: they stay as they are.
  std::set<int> own_fds;
  // All others: which description each was on the way there.
  std::map<int, std::uint32_t> sent_fds;
  // The guest has been given this user's ids: they must be the same still.
  bool same_user = true;
  std::size_t max_map_count = 65530;  // vm.max_map_count
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  // A userfaultfd of the process's that watches what it writes to (kernel/write_watch.h), mappings
  // that are worth it: what has come counts as not written from when its memory is in place. -1:
  // none.
  int watch_fd = -1;
  // UFFDIO_MOVE, where the kernel has it. See huge_pages.h.
  bool moves_pages = true;
  // Of a mapping from this size on the pages wait in the process itself. It costs two programs of
  // the stub and a look at the page tables, and saves a copy of what takes the old memory's place.
  std::uint64_t least_area = 8 * 1024 * 1024;
  // And of runs of pages that are so long on average: scattered ones lie closer in the memory file.
  std::uint64_t least_run = 64 * 1024;
  // The memory map with its flags (read_smaps), sorted, as it was when the process left: to read it
  // again costs a walk of all its page tables. Empty: it is read.
  std::vector<kernel::Vma> home;
};

class Homecoming {
 public:
  Homecoming(tracee::ParkedProcess& parked, HomecomingSettings settings);
  Homecoming(const Homecoming&) = delete;
  Homecoming& operator=(const Homecoming&) = delete;

  // One record. False: it was the End. After an Error the process is parked as before.
  bool take(image::RecordSource& source);
  // `signals` were taken from the process, and not delivered to the guest: they wait for it behind
  // those that waited there, and ahead of those that wait here. Throws what stands in the way, by
  // name. Code::kGone, and "was killed", mean that the process is gone too.
  void apply(std::vector<siginfo_t> signals = {});

 private:
  struct Run {
    Range range;
    std::uint64_t offset = 0;  // in the memory file; or
    RemotePtr staged;          // in an area
  };
  // In the process: where pages of a large mapping wait, each as far from the start as there.
  struct Area {
    Range range;                // of the mapping
    int flags = 0;              // MAP_*
    bool huge = false;          // MADV_HUGEPAGE
    bool huge_allowed = false;  // without it
    RemotePtr at;
    std::uint64_t bytes = 0;  // that have come
    bool refused = false;     // the memory file has its pages
    bool has_huge_pages = false;
  };
  struct Staged {
    const MapPiece* piece;
    RemotePtr at;  // where it is until it is moved
    int protection;
  };
  struct HomeThread {
    tracee::TracedThread* thread;
    pid_t tid;      // as the tracer sees it
    pid_t own_tid;  // as the process sees it
  };
  // What a descriptor is to name.
  struct Placing {
    int fd = -1;
    int home = -1;       // what this descriptor of home names; else
    int file = -1;       // in files_to_give_
    bool keeps = false;  // it does already
    bool close_on_exec = false;
  };
  // A description of home's that the guest had too.
  struct Settling {
    int fd;  // of home
    unsigned flags;
    std::optional<std::uint64_t> position;
  };

  image::schema::Process::Reader process() const;

  // homecoming.cc
  bool take_record(image::RecordSource& source);
  void check() const;
  void check_user() const;
  void prepare();
  void take_back();
  void reverse_by(long number, std::initializer_list<tracee::Argument> arguments);
  void tell_reversal();
  int try_give(int fd);
  // Runs `program` and empties it, when it has grown large, or `always`.
  void run(tracee::SyscallProgram& program, bool always = true);
  void build_last_program(tracee::SyscallProgram& program);

  // homecoming_staging.cc
  void take_pages(const image::Record& record, image::RecordSource& source);
  void take_into_file(std::span<const Run> runs, image::RecordSource& source);
  void take_into_areas(std::span<const Run> runs, image::RecordSource& source);
  void get_ready_for_huge_pages(Area& area, tracee::SyscallProgram& program);
  bool give_bulk();
  void end_reception();
  void choose_areas();
  bool map_area(Area& area);
  Area* area_behind(RemotePtr address);
  bool is_area(const kernel::Vma& vma) const;
  const Area* area_of(const MapPiece& piece) const;
  void place_run(Range range, bool in_areas);
  bool most_has_come(const Area& area) const;
  void choose_replacements();
  std::vector<Run> rest_of(const Area& area) const;
  void add_unmapping_of_areas(tracee::SyscallProgram& program) const;

  // homecoming_memory.cc
  void learn_maps();
  void sort_what_came();
  std::vector<kernel::Vma> read_map() const;
  void grow_heap();
  void grow_stacks();
  void plan_memory();
  void check_executable();
  int protection_of_new(image::schema::Vma::Reader vma) const;
  void map_pieces();
  void plan_wholes();
  RemotePtr find_shared(const MapPiece& piece, tracee::SyscallProgram& program);
  void map_piece(Staged& staged, tracee::SyscallProgram& program);
  void fill_staged();
  bool make_present_at_once(const std::vector<Run>& runs) const;
  void make_present();
  void add_pages(const std::vector<Run>& runs, tracee::SyscallProgram& program) const;
  std::vector<Run> runs_in(Range range) const;
  std::vector<Run> runs_in_place(const MapPiece& piece) const;
  std::vector<Range> dropped_in(Range range) const;
  std::optional<std::uint64_t> read_what_came(RemotePtr at) const;
  void add_memory(tracee::SyscallProgram& program);
  void give_watch();
  void add_watch(tracee::SyscallProgram& program) const;
  void add_kept_piece(const MapPiece& piece, tracee::SyscallProgram& program);
  void add_moved_piece(const Staged& staged, tracee::SyscallProgram& program) const;
  void add_settings(const MapPiece& piece, int protection, std::uint64_t flags,
                    tracee::SyscallProgram& program) const;

  // homecoming_files.cc
  int home_of(image::schema::FileDescription::Reader description) const;
  bool is_at_home(int fd, int home) const;
  void check_directory(int fd, image::schema::FileDescription::Reader description) const;
  void plan_settling(int home, image::schema::FileDescription::Reader description);
  int add_file(UniqueFd file);
  UniqueFd open_anew(int fd, image::schema::FileDescription::Reader description);
  void plan_descriptors();
  void check_numbers();
  void give_files();
  void move_out_of_the_way();
  int next_number(FreeNumbers& free) const;
  void set_flags();
  void add_positions(tracee::SyscallProgram& program);
  void add_descriptors(tracee::SyscallProgram& program);

  // homecoming_threads.cc
  void read_threads();
  const HomeThread* home_thread(std::uint32_t own_tid) const;
  bool lives_on(const HomeThread& home) const;
  static bool is_another(const HomeThread& home, image::schema::Thread::Reader thread);
  bool stays_the_same(const HomeThread& home) const;
  pid_t own_tid_of(std::uint32_t tid) const;
  void check_threads() const;
  void find_locks();
  void begin_threads();
  void begin_thread(image::schema::Thread::Reader thread, Range stack, RemotePtr address,
                    RemotePtr counter);
  void release_rseq();
  void retake_rseq();
  void add_thread_ids(tracee::SyscallProgram& program) const;
  void set_futures();
  bool is_same_timer(const kernel::PosixTimer& here, image::schema::PosixTimer::Reader there) const;
  void plan_timers();
  void make_timers();
  void add_making(image::schema::PosixTimer::Reader timer, tracee::SyscallProgram& program) const;
  int clock_at_home(int clock) const;
  void check_room_for_signals() const;
  void add_timers(tracee::SyscallProgram& program) const;

  tracee::ParkedProcess& parked_;
  HomecomingSettings settings_;

  // What came.
  std::optional<image::Record> process_;
  std::optional<image::Record> files_;
  std::optional<image::Record> signals_;
  std::optional<image::Record> timers_;
  std::vector<image::Record> vma_records_;
  std::vector<image::Record> threads_;
  std::vector<image::schema::Vma::Reader> vmas_;  // sorted
  std::vector<Run> runs_;
  std::vector<Range> dropped_;
  ContentStore contents_;
  UniqueFd pages_;
  std::vector<std::byte> buffer_;  // of payloads
  int bulk_there_ = -1;            // its number in the process
  HugePages huge_;
  std::vector<Area> areas_;  // sorted
  std::uint64_t pages_size_ = 0;
  bool complete_ = false;
  bool maps_are_known_ = false;
  bool returns_ = false;
  bool same_boot_ = false;  // where it comes from is this machine
  std::vector<siginfo_t> undelivered_;

  // What is here.
  std::vector<kernel::Vma> home_;
  std::vector<HomeThread> home_threads_;
  std::vector<MapPiece> pieces_;
  bool nothing_becomes_executable_ = false;  // PR_SET_MDWE
  AddressSpace space_;
  OpenFiles open_files_{true};

  // What prepare() has made.
  tracee::SyscallProgram reversal_;
  tracee::Stub::Place place_before_;
  std::uint64_t brk_ = 0;
  std::vector<Staged> staged_;
  std::map<const MapPiece*, const Area*> replaced_;
  std::map<const MapPiece*, Range> opened_;  // what the last program has to make writable
  std::set<const MapPiece*> unlocked_;
  std::map<std::uint64_t, std::uint64_t> shared_inodes_;  // by the image's id
  std::map<std::uint64_t, Range> wholes_;
  std::set<std::uint64_t> whole_is_mapped_;
  std::vector<UniqueFd> files_to_give_;
  std::vector<int> given_;  // their numbers there
  int pages_fd_ = -1;       // there
  int watch_there_ = -1;    // likewise
  std::map<const MapPiece*, int> mapped_files_;
  int cwd_file_ = -1;
  std::map<std::uint32_t, int>
      homes_;  // of each description of the way there: the first that has it
  std::vector<Placing> placings_;
  std::vector<Settling> settlings_;
  std::map<int, int> parked_fds_;  // descriptors of home: where their descriptions lie aside
  std::vector<int> closings_;
  std::uint64_t max_fds_ = 0;
  std::map<std::uint32_t, pid_t> begun_;       // the image's tid -> as the process sees it
  std::map<std::uint32_t, pid_t> begun_here_;  // ... -> as the tracer sees it
  std::vector<std::pair<RemotePtr, std::uint32_t>> id_changes_;
  std::vector<std::pair<RemotePtr, std::uint32_t>> lock_changes_;
  std::map<std::uint32_t, std::vector<HeldLock>> locks_;  // of threads that were begun there
  std::vector<std::pair<HomeThread, tracee::TracedThread::RseqArea>> released_rseq_;
  std::set<std::uint32_t> new_timers_;
  std::vector<int> old_timers_;
};

}  // namespace telefork::restore
