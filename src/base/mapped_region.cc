#include "base/mapped_region.h"

#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/remote_ptr.h"

namespace telefork {

MappedRegion::MappedRegion(std::size_t size) : size_(round_up(size, kPageSize)) {
  void* data = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw_errno(fmt::format("mapping {} bytes", size_));
  data_ = static_cast<std::byte*>(data);
}

MappedRegion::MappedRegion(MappedRegion&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedRegion& MappedRegion::operator=(MappedRegion&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedRegion::~MappedRegion() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace telefork
