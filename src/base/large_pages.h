// Memory for large tables, in huge pages where the machine gives them: what is written from one end
// to the other would have a fault for each small page.
//
//     std::vector<Entry, LargePages<Entry>> table(count);   // not zeros: it is to be written over
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

#include <sys/mman.h>

#include "base/remote_ptr.h"

namespace telefork {

template <class T>
struct LargePages {
  static_assert(std::is_trivially_copyable_v<T>);
  using value_type = T;

  LargePages() = default;
  template <class U>
  explicit LargePages(const LargePages<U>&) {}

  T* allocate(std::size_t count) {
    const std::size_t size = round_up(count * sizeof(T), kHugePageSize);
    if (size < count * sizeof(T)) throw std::bad_alloc();
    if (count * sizeof(T) < kHugePageSize)
      return static_cast<T*>(::operator new(count * sizeof(T)));
    void* at = std::aligned_alloc(kHugePageSize, size);
    if (at == nullptr) throw std::bad_alloc();
    // No more than advice.
    static_cast<void>(::madvise(at, size, MADV_HUGEPAGE));
    return static_cast<T*>(at);
  }
  void deallocate(T* at, std::size_t count) {
    if (count * sizeof(T) < kHugePageSize) {
      ::operator delete(at);
    } else {
      std::free(at);
    }
  }
  template <class U, class... Arguments>
  void construct(U* at, Arguments&&... arguments) {
    ::new (static_cast<void*>(at)) U(std::forward<Arguments>(arguments)...);
  }
  template <class U>
  void construct(U* at) {
    ::new (static_cast<void*>(at)) U;
  }

  template <class U>
  bool operator==(const LargePages<U>&) const {
    return true;
  }
};

}  // namespace telefork
