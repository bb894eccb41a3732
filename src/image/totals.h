// What an image is made of, counted alike by Writer and Reader.
#pragma once

#include <cstdint>

namespace telefork::image {

struct Totals {
  std::uint64_t records = 0;
  std::uint64_t pages = 0;          // sent, not distinct: a page of two rounds counts twice
  std::uint64_t payload_bytes = 0;  // of pages and file contents
  std::uint64_t bytes = 0;          // all of it, frames and checksums included
};

}  // namespace telefork::image
