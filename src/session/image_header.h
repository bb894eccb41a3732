// The first record of every image that a session sends.
#pragma once

#include <capnp/message.h>

#include "image/format.h"
#include "image/image.capnp.h"
#include "image/record_sink.h"

namespace telefork::session {

// `here` is the machine that it is captured on.
inline void write_header(image::schema::Header::Purpose purpose,
                         image::schema::Machine::Reader here, image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto header = message.initRoot<image::schema::Header>();
  header.setVersion(image::kFormatVersion);
  header.setPurpose(purpose);
  header.setCreator("telefork " TELEFORK_VERSION);
  header.setMachine(here);
  sink.write(image::RecordType::kHeader, message);
}

}  // namespace telefork::session
