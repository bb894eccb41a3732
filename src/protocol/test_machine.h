// A machine for tests, with nothing of the real one in it.
#pragma once

#include <string>

#include <capnp/message.h>

#include "image/image.capnp.h"

namespace telefork::protocol {

class TestMachine {
 public:
  explicit TestMachine(const std::string& hostname, const std::string& architecture = "x86_64")
      : root_(message_.initRoot<image::schema::Machine>()) {
    root_.setHostname(hostname);
    root_.setArchitecture(architecture);
    root_.setPageSize(4096);
    root_.setBootId("boot of " + hostname);
  }
  image::schema::Machine::Builder builder() { return root_; }
  image::schema::Machine::Reader reader() const { return root_.asReader(); }

 private:
  ::capnp::MallocMessageBuilder message_;
  image::schema::Machine::Builder root_;
};

}  // namespace telefork::protocol
