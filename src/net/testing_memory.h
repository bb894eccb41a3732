// For tests: what of a secret is left in this process's memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "net/guarded_file.h"
#include "net/identity.h"

namespace telefork::net {

// How often the bytes lie in memory that can be written: stacks, heaps and what was freed there.
// Reads into a mapping of its own, which it leaves out, so that what it has read is not found
// again; a shared one, which the kernel makes one with no other.
inline std::size_t count_in_memory(std::span<const std::byte> wanted) {
  constexpr std::size_t kLargest = 64UL << 20;  // a sanitizer's shadow is larger than any memory
  auto* copy = static_cast<std::byte*>(
      ::mmap(nullptr, kLargest, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::unique_ptr<FILE, int (*)(FILE*)> maps(std::fopen("/proc/self/maps", "re"), std::fclose);
  UniqueFd memory = open_file("/proc/self/mem", O_RDONLY);
  std::size_t found = 0;
  char line[512];
  while (std::fgets(line, sizeof(line), maps.get()) != nullptr) {
    unsigned long begin = 0, end = 0;
    char mode[5] = {};
    if (std::sscanf(line, "%lx-%lx %4s", &begin, &end, mode) != 3 || mode[1] != 'w') continue;
    if (end - begin >= kLargest) continue;
    ssize_t count = ::pread(memory.get(), copy, end - begin, static_cast<off_t>(begin));
    if (count <= 0) continue;
    const std::byte* last = copy + count;
    for (const std::byte* at = copy;
         (at = std::search(at, last, wanted.begin(), wanted.end())) != last; ++at) {
      ++found;
    }
  }
  ::munmap(copy, kLargest);
  return found;
}

// The private key in a folder, without a copy: EVP_PKEY_get_raw_private_key() would leave one in
// memory that it frees (OpenSSL 3.0: OSSL_PARAM_free), where a sanitizer keeps it.
class PrivateBytes {
 public:
  explicit PrivateBytes(const std::string& folder)
      : text_(read_guarded_secret(Identity::key_path(folder))) {
    EXPECT_EQ(::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(decoded_.data()),
                                reinterpret_cast<const unsigned char*>(encoded().data()), 64),
              static_cast<int>(decoded_.size()));
  }

  // As they lie in the file, and decoded.
  std::span<const std::byte> encoded() const { return std::span(text_).subspan(28, 64); }
  std::span<const std::byte> seed() const { return std::span(decoded_).last(32); }

 private:
  SecretBytes text_;
  std::array<std::byte, 48> decoded_{};
};

}  // namespace telefork::net
