// What of a machine decides whether a process of another one can run on it.
//
//     OwnMachine here;                                         // gathered once
//     say_hello(stream, node, here.reader(), ...);             // travels in both greetings
//     check_compatible(here.reader(), reply->getMachine(), cpu_force);
#pragma once

#include <string>
#include <vector>

#include <capnp/message.h>

#include "image/image.capnp.h"
#include "kernel/cpu.h"

namespace telefork::protocol {

// From uname, the boot id, CPUID and the clocks; the three clocks are read as closely together as
// can be.
void gather_machine(image::schema::Machine::Builder machine);

class OwnMachine {
 public:
  OwnMachine();
  image::schema::Machine::Reader reader() const { return root_.asReader(); }

 private:
  ::capnp::MallocMessageBuilder message_;
  image::schema::Machine::Builder root_;
};

kernel::CpuFacts decode_cpu(image::schema::Machine::Reader machine);
void encode_cpu(const kernel::CpuFacts& facts, image::schema::Machine::Builder machine);

// Throws kRefused, naming both machines and every CPU feature that `destination` lacks. The same
// boot id is the same kernel on the same CPU: nothing to compare. With `cpu_force` features are not
// compared, the architecture and the page size always are.
void check_compatible(image::schema::Machine::Reader source,
                      image::schema::Machine::Reader destination, bool cpu_force);

// For a process that comes back: throws kRefused, naming every CPU feature that `there` has and
// `here` lacks. A library that first looks there chooses code that cannot run here.
void check_can_return(image::schema::Machine::Reader here, image::schema::Machine::Reader there);

}  // namespace telefork::protocol
