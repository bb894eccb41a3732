// Bytes of which nothing stays behind: whatever memory held them is overwritten before it goes back
// to the heap, when they grow as when they end.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <openssl/crypto.h>

namespace telefork::net {

template <class T>
struct CleansingAllocator {
  using value_type = T;

  CleansingAllocator() = default;
  template <class U>
  CleansingAllocator(const CleansingAllocator<U>&) {}  // NOLINT(google-explicit-constructor)

  T* allocate(std::size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* memory, std::size_t count) {
    ::OPENSSL_cleanse(memory, count * sizeof(T));
    std::allocator<T>().deallocate(memory, count);
  }
  bool operator==(const CleansingAllocator&) const = default;
};

// A vector and no string: a short string would lie in the object itself.
using SecretBytes = std::vector<std::byte, CleansingAllocator<std::byte>>;

}  // namespace telefork::net
