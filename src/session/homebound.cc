#include "session/homebound.h"

#include <algorithm>

#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/format.h"
#include "image/writer.h"
#include "kernel/procfs.h"
#include "tracee/stub.h"

namespace telefork::session {
namespace {

using image::schema::Header;
using image::schema::Vma;

bool is_watched(const kernel::Vma& vma) {
  return !vma.shared && !vma.is_vdso_or_vvar() && !vma.is_vsyscall();
}

capture::ChangedPages all_pages(const capture::Mapping& mapping, const kernel::PageMap& map,
                                pid_t pid) {
  if (mapping.kind == Vma::Kind::SHARED_ANONYMOUS) {
    return {kernel::shared_pages(pid, mapping.vma), {}};
  }
  return {map.private_pages(mapping.vma.start, mapping.vma.end), {}};
}

}  // namespace

void Homebound::watch_writes(tracee::Stub& stub) {
  tracee::SyscallProgram make;
  tracee::Result made =
      make.call_any("making a userfaultfd", SYS_userfaultfd, {kernel::WriteWatch::flags()});
  auto fd = static_cast<int>(stub.run(make).result(made));
  if (fd < 0) return;
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, guest_, 0)));
  UniqueFd taken(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  if (!taken) throw_errno("taking the guest's userfaultfd");
  tracee::SyscallProgram close;
  close.call("closing the userfaultfd", SYS_close, {fd});
  stub.run(close);
  try {
    watch_ = std::make_unique<kernel::WriteWatch>(guest_, abi_, std::move(taken));
  } catch (const Error& error) {
    if (error.code() != Code::kUnsupported) throw;
    return;
  }
  for (const kernel::Vma& vma : kernel::read_maps(guest_)) {
    bool of_stub = vma.start < stub.area() + stub.area_size() && stub.area() < vma.end;
    if (is_watched(vma) && !of_stub) watch_->begin(vma);
  }
}

tracee::TracedThread& Homebound::caller() {
  auto& threads = frozen_->threads();
  auto found = std::find_if(threads.begin(), threads.end(), [this](const auto& thread) {
    return kernel::read_status(thread.tid()).ns_pids.back() == call_.tid;
  });
  if (found == threads.end()) {
    throw Error(Code::kGone, fmt::format("thread {}, which is to come home, has ended", call_.tid));
  }
  return *found;
}

void Homebound::freeze(const telefork_snapshot& call) {
  call_ = call;
  frozen_.emplace(tracee::FrozenProcess::freeze(guest_, PTRACE_O_EXITKILL));
  caller().run_into_system_call(SYS_read);
}

void Homebound::send(protocol::Link& link, image::schema::Machine::Reader here) {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kReturn;
  options.own_fds.insert(session_number_);
  options.streams = streams_;
  options.originals = [this](std::uint64_t device, std::uint64_t inode) {
    return files_.find(device, inode);
  };
  capture::Survey survey = capture::survey_process(guest_, options);
  capture::throw_refusals(survey.refusals);
  // Home opens what it does not have open yet, and has to know it by.
  for (std::size_t i = 0; i < survey.files.entries().size(); ++i) {
    const capture::FileEntry& file = survey.files.entries()[i];
    if (file.readable && !survey.files.is_from_elsewhere(file.stat)) survey.files.compute_hash(i);
  }
  tracee::Stub stub(caller(), guest_, {});
  kernel::PageMap map(guest_, abi_);
  capture::CaptureSettings settings;
  settings.pagemap = abi_;
  settings.caller = stub.thread().tid();
  settings.system_call_result = TELEFORK_RETURNED;
  settings.changes = [&](const capture::Mapping& mapping) {
    const kernel::Vma& vma = mapping.vma;
    if (!watch_ || vma.shared) return all_pages(mapping, map, guest_);
    return capture::ChangedPages{watch_->written(vma), watch_->dropped(vma)};
  };
  capture::Capture capture(survey, *frozen_, stub, settings);
  image::Writer writer(link.record_sink(), link.bulk_sink());
  ::capnp::MallocMessageBuilder message;
  auto header = message.initRoot<Header>();
  header.setVersion(image::kFormatVersion);
  header.setPurpose(Header::Purpose::RETURN);
  header.setCreator("telefork " TELEFORK_VERSION);
  header.setMachine(here);
  writer.write(image::RecordType::kHeader, message);
  capture.write_metadata(writer);
  capture.write_pages(writer);
  writer.end();
}

}  // namespace telefork::session
