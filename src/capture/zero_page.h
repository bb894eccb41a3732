// Whether a page is all zeros: such pages are never sent.
#pragma once

#include <cstddef>
#include <span>

#include "base/remote_ptr.h"

namespace telefork::capture {

// `page` is 4096 bytes, 8-byte aligned.
bool is_zero_page(std::span<const std::byte> page);

// Calls part(first, pages, zero) for each run of whole pages that are all zeros, or are not.
template <class Part>
void split_by_zeros(std::span<const std::byte> bytes, Part&& part) {
  const std::size_t pages = bytes.size() / kPageSize;
  auto is_zero = [&bytes](std::size_t page) {
    return is_zero_page(bytes.subspan(page * kPageSize, kPageSize));
  };
  for (std::size_t page = 0; page < pages;) {
    const std::size_t first = page;
    const bool zero = is_zero(page++);
    while (page < pages && is_zero(page) == zero) ++page;
    part(first, page - first, zero);
  }
}

}  // namespace telefork::capture
