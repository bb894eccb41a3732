// Open files and the descriptors that name them.
#include <algorithm>

#include <fcntl.h>
#include <sys/syscall.h>

#include "capture/capture.h"
#include "kernel/pidfd.h"

namespace telefork::capture {

std::uint32_t Capture::write_bytes(std::span<const std::byte> bytes, image::RecordSink& sink) {
  const auto id = static_cast<std::uint32_t>(survey_.files.entries().size() + ++contents_);
  ::capnp::MallocMessageBuilder message;
  auto content = message.initRoot<image::schema::FileContent>();
  content.setId(id);
  content.setSize(bytes.size());
  content.setKind(image::schema::FileContent::Kind::BYTES);
  sink.begin_payload_record(image::RecordType::kFileContent, message, bytes.size());
  sink.payload(bytes);
  return id;
}

namespace {

// The same process has the same number here, where it is no other pid namespace's.
void fill_owner_from_outside(const Description& description,
                             image::schema::FileDescription::Builder record) {
  UniqueFd taken = kernel::take_fd(description.pid, description.fd);
  f_owner_ex owner{};
  if (!taken || ::fcntl(taken.get(), F_GETOWN_EX, &owner) != 0) return;
  record.setOwner(owner.pid);
  record.setOwnerType(static_cast<std::uint32_t>(owner.type));
  record.setOwnerSignal(static_cast<std::uint32_t>(std::max(0, ::fcntl(taken.get(), F_GETSIG, 0))));
}

}  // namespace

// Who gets the signals of a description, which only the process itself is told by its own numbers.
void Capture::fill_owners(::capnp::List<image::schema::FileDescription>::Builder records) {
  tracee::SyscallProgram program;
  std::vector<tracee::Data> owners;
  std::vector<tracee::Result> answers;
  std::vector<tracee::Result> signals;
  for (const Description& description : survey_.descriptions) {
    // Of another process's descriptor this one has nothing at that number.
    const bool own = description.pid == survey_.thread;
    owners.push_back(program.buffer(sizeof(f_owner_ex)));
    answers.push_back(program.call_any("asking for an owner", SYS_fcntl,
                                       {own ? description.fd : -1, F_GETOWN_EX, owners.back()}));
    signals.push_back(program.call_any("asking for its signal", SYS_fcntl,
                                       {own ? description.fd : -1, F_GETSIG, 0}));
  }
  if (program.empty()) return;
  tracee::ProgramRun run = stub_.run(program);
  for (unsigned i = 0; i < records.size(); ++i) {
    if (survey_.descriptions[i].pid != survey_.thread) {
      fill_owner_from_outside(survey_.descriptions[i], records[i]);
      continue;
    }
    // EBADF of O_PATH, which has none.
    if (run.result(answers[i]) < 0) continue;
    auto owner = run.object<f_owner_ex>(owners[i]);
    records[i].setOwner(owner.pid);
    records[i].setOwnerType(static_cast<std::uint32_t>(owner.type));
    records[i].setOwnerSignal(
        static_cast<std::uint32_t>(std::max<std::int64_t>(0, run.result(signals[i]))));
  }
}

void Capture::fill_descriptions(image::schema::Files::Builder files) {
  auto descriptions = files.initDescriptions(static_cast<unsigned>(survey_.descriptions.size()));
  for (unsigned i = 0; i < descriptions.size(); ++i) {
    const Description& description = survey_.descriptions[i];
    descriptions[i].setId(i);
    descriptions[i].setKind(description.kind);
    descriptions[i].setFlags(description.flags);
    descriptions[i].setPosition(description.position);
    descriptions[i].setStream(description.stream);
    descriptions[i].setName(description.name);
    if (description.origin) descriptions[i].setOrigin(*description.origin + 1);
    if (description.file) survey_.files.fill(*description.file, descriptions[i].initFile());
    fill_object(description, descriptions[i]);
  }
  if (survey_.whole) fill_owners(descriptions);
}

void Capture::write_files(image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto files = message.initRoot<image::schema::Files>();
  if (settings_.common_part) {
    write_pipes(files, sink);
    write_ptys(files, sink);
    fill_descriptions(files);
  }
  auto descriptors = files.initDescriptors(static_cast<unsigned>(survey_.descriptors.size()));
  for (unsigned i = 0; i < descriptors.size(); ++i) {
    const Descriptor& descriptor = survey_.descriptors[i];
    descriptors[i].setFd(static_cast<std::uint32_t>(descriptor.fd));
    descriptors[i].setDescription(static_cast<std::uint32_t>(descriptor.description));
    descriptors[i].setCloseOnExec(descriptor.close_on_exec);
    fill_locks(descriptor.locks,
               descriptors[i].initLocks(static_cast<unsigned>(descriptor.locks.size())));
  }
  sink.write(image::RecordType::kFiles, message);
  if (settings_.common_part) write_sockets(sink);
}

}  // namespace telefork::capture
