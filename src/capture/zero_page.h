// Whether a page is all zeros: such pages are never sent.
#pragma once

#include <cstddef>
#include <span>

namespace telefork::capture {

// `page` is 4096 bytes, 8-byte aligned.
bool is_zero_page(std::span<const std::byte> page);

}  // namespace telefork::capture
