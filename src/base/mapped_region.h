// Private anonymous memory of this process, unmapped when its owner ends. For buffers that must
// not grow the heap. Move-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace telefork {

class MappedRegion {
 public:
  MappedRegion() = default;
  // `size` bytes of zeros, rounded up to whole pages.
  explicit MappedRegion(std::size_t size);
  MappedRegion(MappedRegion&& other) noexcept;
  MappedRegion& operator=(MappedRegion&& other) noexcept;
  MappedRegion(const MappedRegion&) = delete;
  MappedRegion& operator=(const MappedRegion&) = delete;
  ~MappedRegion();

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace telefork
