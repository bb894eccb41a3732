// Shared memory that has a name (shm_open(3), sem_open(3)): a file of this folder.
#pragma once

#include <string_view>

namespace telefork::image {

inline constexpr std::string_view kNamedMemoryFolder = "/dev/shm/";

// Whether `path` is a name directly in it.
inline bool is_named_memory(std::string_view path) {
  if (!path.starts_with(kNamedMemoryFolder)) return false;
  path.remove_prefix(kNamedMemoryFolder.size());
  return !path.empty() && path != "." && path != ".." && path.find('/') == std::string_view::npos;
}

}  // namespace telefork::image
