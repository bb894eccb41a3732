#include "capture/zero_page.h"

#include <cstdint>

namespace telefork::capture {

bool is_zero_page(std::span<const std::byte> page) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(page.data());
  // Most pages that are not zero show it in their first words.
  if ((words[0] | words[1] | words[2] | words[3]) != 0) return false;
  // The compiler makes vector code of each block; the test between them lets go early.
  constexpr std::size_t kBlock = 64;
  for (std::size_t block = 0; block < page.size() / sizeof(std::uint64_t); block += kBlock) {
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < kBlock; ++i) any |= words[block + i];
    if (any != 0) return false;
  }
  return true;
}

}  // namespace telefork::capture
