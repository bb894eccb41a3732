// Whether this test, and the programs that it runs, are built with AddressSanitizer: each of them
// is many times as large and as slow.
#pragma once

namespace fork_test {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

}  // namespace fork_test
