// Open files at the numbers that the program knows them by.
#include <set>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "restore/free_numbers.h"
#include "restore/restorer.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;
using tracee::SyscallProgram;

}  // namespace

void Restorer::restore_descriptors() {
  if (!files_) throw Error(Code::kCorrupt, "the image lacks its descriptors");
  auto files = files_->get<image::schema::Files>();
  auto descriptions = files.getDescriptions();

  std::vector<UniqueFd> opened;
  std::vector<int> numbers;
  for (FileDescription::Reader description : descriptions) {
    if (description.getKind() == FileDescription::Kind::STDIO) {
      if (description.getStream() > 2) throw Error(Code::kCorrupt, "no such standard stream");
      const UniqueFd& stream = settings_.streams[description.getStream()];
      opened.push_back(
          stream ? stream.duplicate()
                 : open_file("/dev/null", description.getStream() == 0 ? O_RDONLY : O_WRONLY));
    } else {
      opened.push_back(open_files_.open_description(
          description, contents_, [this](const std::string& text) { warn(text); }));
    }
    numbers.push_back(opened.back().get());
  }

  const bool has_session = settings_.session_number >= 0;
  if (has_session) numbers.push_back(settings_.session_socket.get());

  // What came for the mappings is mapped by now.
  SyscallProgram program;
  std::set<int> mapped;
  for (const Mapping& mapping : mappings_) {
    if (mapping.file >= 0) mapped.insert(mapping.file);
  }
  if (bulk_in_blank_ >= 0) mapped.insert(bulk_in_blank_);
  for (int fd : mapped) program.call("closing a mapped file", SYS_close, {fd});
  if (!program.empty()) blank_->stub().run(program);

  std::vector<int> given = blank_->give_fds(numbers);
  program = SyscallProgram();
  program.call("closing the way in", SYS_close, {Blank::kSocket});

  std::set<int> targets;
  for (image::schema::Descriptor::Reader descriptor : files.getDescriptors()) {
    if (descriptor.getDescription() >= descriptions.size()) {
      throw Error(Code::kCorrupt, "a descriptor names a file that is not in the image");
    }
    targets.insert(static_cast<int>(descriptor.getFd()));
  }
  if (has_session && !targets.insert(settings_.session_number).second) {
    throw Error(Code::kCorrupt, "the session socket has the number of another descriptor");
  }
  std::set<int> taken = targets;
  taken.insert(given.begin(), given.end());
  FreeNumbers free(taken);
  std::vector<int> parked = given;
  for (int& number : parked) {
    if (targets.count(number) == 0) continue;
    int to = free.next();
    program.call("parking a descriptor", SYS_dup3, {number, to, O_CLOEXEC});
    program.call("parking a descriptor", SYS_close, {number});
    number = to;
    run_if_large(program);
  }
  for (image::schema::Descriptor::Reader descriptor : files.getDescriptors()) {
    auto fd = static_cast<int>(descriptor.getFd());
    program.call_expecting(
        fmt::format("restoring fd {}", fd), fd, SYS_dup3,
        {parked[descriptor.getDescription()], fd, descriptor.getCloseOnExec() ? O_CLOEXEC : 0});
    run_if_large(program);
  }
  if (has_session) {
    program.call_expecting("restoring the session socket", settings_.session_number, SYS_dup3,
                           {parked.back(), settings_.session_number, O_CLOEXEC});
  }
  for (int number : parked) {
    program.call("closing a parked descriptor", SYS_close, {number});
    run_if_large(program);
  }
  run_if_large(program, true);
}

}  // namespace telefork::restore
