// Open files and the descriptors that name them.
#include "capture/capture.h"

namespace telefork::capture {

void Capture::write_files(image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto files = message.initRoot<image::schema::Files>();
  auto descriptions = files.initDescriptions(static_cast<unsigned>(survey_.descriptions.size()));
  for (unsigned i = 0; i < descriptions.size(); ++i) {
    const Description& description = survey_.descriptions[i];
    descriptions[i].setId(i);
    descriptions[i].setKind(description.kind);
    descriptions[i].setFlags(description.flags);
    descriptions[i].setPosition(description.position);
    descriptions[i].setStream(description.stream);
    descriptions[i].setName(description.name);
    if (description.file) survey_.files.fill(*description.file, descriptions[i].initFile());
  }
  auto descriptors = files.initDescriptors(static_cast<unsigned>(survey_.descriptors.size()));
  for (unsigned i = 0; i < descriptors.size(); ++i) {
    const Descriptor& descriptor = survey_.descriptors[i];
    descriptors[i].setFd(static_cast<std::uint32_t>(descriptor.fd));
    descriptors[i].setDescription(static_cast<std::uint32_t>(descriptor.description));
    descriptors[i].setCloseOnExec(descriptor.close_on_exec);
  }
  sink.write(image::RecordType::kFiles, message);
}

}  // namespace telefork::capture
