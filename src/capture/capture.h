// Kernel objects of a frozen process to records of an image; restore/ has the twins, file by file.
//
//     Survey survey = survey_process(pid, options);        // before the freeze
//     FrozenProcess frozen = FrozenProcess::freeze(pid, 0);
//     Stub stub(frozen.leader(), pid, {});
//     Capture capture(survey, frozen, stub, settings);
//     capture.write_metadata(sink);                        // or its parts, in their order
//     capture.write_pages(sink);
//
// Needs the process frozen from the first call to the last. Every failure is an Error that names
// what was being captured; the process is not changed by any of it.
#pragma once

#include <csignal>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>

#include "capture/kept_there.h"
#include "capture/lazy_plan.h"
#include "capture/live_plan.h"
#include "capture/page_gatherer.h"
#include "capture/page_hashes.h"
#include "capture/survey.h"
#include "image/record_sink.h"
#include "kernel/pagemap.h"
#include "tracee/freezer.h"
#include "tracee/guest_stubs.h"
#include "tracee/stub.h"

namespace telefork::capture {

// Of the thread that `status` is of.
void fill_credentials(const kernel::Status& status, unsigned securebits,
                      image::schema::Credentials::Builder credentials);

class GuardScan;

struct CaptureSettings {
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  // The calling thread, as this process sees it; 0: the leader. Of a fork its mask when it called,
  // and what its read() returns in the guest, or at home (see abi/agent.h).
  pid_t caller = 0;
  std::optional<std::uint64_t> signal_mask;
  std::optional<std::int64_t> system_call_result;
  // Pending signals stay with the pid at home: a forked child has none, and those of a program that
  // went away for a call are sent after it, or wait for it.
  bool pending_signals = true;
  // fork() hands on neither timers nor a parent death signal.
  bool timers = true;
  // It shares its pages with the process that it is a copy of: docs/benchmarks.md says what
  // process_vm_readv(2) costs then.
  bool shares_pages = false;
  // Of a guest on its way home: which of its pages it wrote, and which lost what they held. Without
  // it all travel.
  std::function<ChangedPages(const Mapping&)> changes;
  // What of its memory follows later; null: nothing.
  const LazyPlan* lazy = nullptr;
  // What of it lies there already; null: nothing.
  LivePlan* live = nullptr;
  // Pages that whoever restores it has; null: none.
  const KeptThere* kept = nullptr;
  // Of guard pages, which has begun; null: they are looked for when they are to be told.
  GuardScan* guard_scan = nullptr;
  // There are so few that a thread to read them is not worth it, and buffers that are used again
  // and again are better than large ones.
  bool few_pages = false;
  // Stubs that are in all threads but one already, and stay; else there are some as long as the
  // threads are asked.
  std::function<tracee::GuestStubs&()> guests;
  // Called before any of them is written: see SurveyOptions::settled_later.
  std::function<void()> before_threads;
  // Of a tree the first process brings what all have in common: contents of files, descriptions,
  // pipes, sockets.
  bool common_part = true;
  // Of a tree: whose pages need not come, since another process has brought them.
  std::function<bool(const Mapping&)> is_written;
  // By a signal; of several processes the Tree record says it.
  bool stopped = false;
  // Told after every piece of pages: bytes read so far, for progress.
  std::function<void(std::uint64_t)> on_progress;
};

struct MemoryTotals {
  std::uint64_t pages_read = 0;
  std::uint64_t pages_sent = 0;  // the others were zero, or
  std::uint64_t pages_kept = 0;  // are there already
};

class Capture {
 public:
  Capture(const Survey& survey, tracee::FrozenProcess& frozen, tracee::Stub& stub,
          const CaptureSettings& settings)
      : survey_(survey), frozen_(frozen), stub_(stub), settings_(settings) {}

  void write_process(image::RecordSink& sink);
  void write_mappings(image::RecordSink& sink);
  // One of them, again: its flags are others than the survey had.
  void write_mapping(std::size_t index, image::RecordSink& sink);
  void write_files(image::RecordSink& sink);
  // Reads what signals are pending too: the next two write them.
  void write_timers(image::RecordSink& sink);
  void write_signals(image::RecordSink& sink);
  void write_threads(image::RecordSink& sink);
  // All pages that must travel. Does not use the stub: the threads may be parked meanwhile.
  MemoryTotals write_pages(image::RecordSink& sink);
  // The same in two parts, behind write_metadata(): first what a snapshot of the process
  // (tracee/snapshot.h) has not, since the two share it, or since it is not handed on to a child.
  void write_pages_beside_snapshot(image::RecordSink& sink);
  // Then the others, from the snapshot; the process may run.
  void write_pages_of_snapshot(pid_t snapshot, image::RecordSink& sink);

  // Everything but the pages, in the order of docs/image-format.md. `on_part` is called when the
  // process record is written, from which on a blank process can be made; and of one with several
  // threads when all but these is, from which on its memory can be mapped.
  void write_metadata(image::RecordSink& sink, const std::function<void()>& on_part = {});
  // What was pending then: of thread `tid` alone, and behind it of the process.
  std::vector<siginfo_t> pending_signals_of(pid_t tid) const;

 private:
  struct TimerValues;

  // files.cc, pipes.cc, ptys.cc, event_files.cc: what one description has beside its flags.
  using DescriptionBuilder = image::schema::FileDescription::Builder;
  struct PipeContent;
  PipeContent read_pipe(std::size_t index);
  void write_pipes(image::schema::Files::Builder files, image::RecordSink& sink);
  void write_ptys(image::schema::Files::Builder files, image::RecordSink& sink);
  void fill_pty(const PtyObject& pty, image::schema::Pty::Builder record, image::RecordSink& sink);
  void fill_object(const Description& description, DescriptionBuilder record);
  void write_sockets(image::RecordSink& sink);
  void fill_socket(const Description& description, image::schema::Socket::Builder record,
                   image::RecordSink& sink);
  void fill_timerfd(const Description& description, image::schema::TimerFile::Builder record);
  void fill_descriptions(image::schema::Files::Builder files);
  void fill_owners(::capnp::List<image::schema::FileDescription>::Builder records);
  // A FileContent record of bytes that lie in no file. Its id.
  std::uint32_t write_bytes(std::span<const std::byte> bytes, image::RecordSink& sink);

  // seccomp.cc
  void fill_seccomp(image::schema::Process::Builder process);

  TimerValues ask_for_timers(const std::vector<kernel::PosixTimer>& timers);
  TimerValues read_timers_and_signals(const std::vector<kernel::PosixTimer>& timers);
  void read_pending_signals();
  struct PageSource {
    pid_t pid;
    bool shares_pages;
    std::function<bool(const Mapping&)> has;
  };
  void add_ahead(const Mapping& mapping, const kernel::PageMap& map, PageGatherer& gatherer);
  void gather_pages(const PageSource& source, const PageGatherer::Exchange& exchange);
  MemoryTotals write_pages_of(const PageSource& source, image::RecordSink& sink);
  const std::vector<kernel::PageRun>& guards_of(std::size_t index);
  // threads.cc
  struct ThreadAnswers;
  class ThreadQuestions;
  void write_guests(std::span<tracee::TracedThread* const> threads,
                    const ThreadQuestions& questions, image::RecordSink& sink);
  void write_with_guests(tracee::GuestStubs& guests, const ThreadQuestions& questions,
                         image::RecordSink& sink);
  void write_thread(tracee::TracedThread& thread, const tracee::Stub& stub,
                    const ThreadAnswers& own, image::RecordSink& sink);

  const Survey& survey_;
  tracee::FrozenProcess& frozen_;
  tracee::Stub& stub_;
  const CaptureSettings& settings_;
  std::map<std::size_t, std::vector<kernel::PageRun>> travelling_;  // of each that lies there
  std::vector<std::vector<kernel::PageRun>> guards_;  // of each mapping, once they were asked for
  std::uint32_t contents_ = 0;                        // ids given, those of files aside
  std::int64_t monotonic_ = 0;                        // when the clocks were read
  std::vector<siginfo_t> pending_;
  std::map<pid_t, std::vector<siginfo_t>> pending_of_threads_;
};

void fill_locks(const std::vector<kernel::LockInfo>& locks,
                ::capnp::List<image::schema::FileLock>::Builder records);

// The bytes of any trivially copyable object as Cap'n Proto Data.
template <class T>
::capnp::Data::Reader as_data(const T& object) {
  return ::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(&object), sizeof(object));
}

}  // namespace telefork::capture
