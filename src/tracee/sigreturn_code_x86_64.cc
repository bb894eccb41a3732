#include <array>

#include "tracee/sigreturn_code.h"

namespace telefork::tracee {

std::span<const std::byte> sigreturn_code() {
  // mov $15, %eax; syscall
  static constexpr std::array<unsigned char, 7> kCode = {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05};
  return std::as_bytes(std::span(kCode));
}

}  // namespace telefork::tracee
