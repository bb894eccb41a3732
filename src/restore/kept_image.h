// The memory of a guest as it was when it went home, kept here for when it comes again.
//
//     KeptImage image = file ? KeptImage::open(file, most) : KeptImage::make(most);
//     image.pages(), image.secret()           // to tell its home what need not come
//     image.read(address, bytes)              // and to have it from here
//     ... the guest has gone home; rising:
//     image.put(address, pages); ...
//     UniqueFd file = image.close();
//
// A memory file, without a name:
//
//     header, a page | pages, in places of their own | one Entry for each, rising
//
// read() hashes what it gives: it is what was kept, or kCorrupt. A page that is put takes the place
// that was its own, so that of an image that is used again and again only what has changed is
// written. What is not put is not in it any more, and takes no memory. Owned by one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/large_pages.h"
#include "base/remote_ptr.h"
#include "base/unique_fd.h"
#include "image/hash.h"

namespace telefork::restore {

class KeptImage {
 public:
  using Hash = std::array<std::byte, 16>;
  struct Entry {
    std::uint64_t address;
    std::uint64_t place;  // of a page of the file, the first behind the header being 0
    Hash hash;
  };

  using Entries = std::vector<Entry, LargePages<Entry>>;

  // `most`: bytes that the file may have.
  static KeptImage make(std::uint64_t most);
  // Of what close() gave. kCorrupt where it is anything else.
  static KeptImage open(UniqueFd file, std::uint64_t most);

  using Token = std::array<std::byte, 16>;

  const image::SecretHash::Secret& secret() const { return secret_; }
  // Random: of what close() has left. Of one that was made, and not closed, zeros.
  const Token& token() const { return token_; }
  const Entries& pages() const { return pages_; }
  // Whole pages, all of which are in it.
  void read(RemotePtr at, std::span<std::byte> to) const;

  // Whole pages, behind those that were put before. What there is no room for is left out.
  void put(RemotePtr at, std::span<const std::byte> bytes);
  // The same of so many pages from `at` on that it has, and that are as they were: nothing of them
  // is read. What it has not is passed over.
  void put_again(RemotePtr at, std::uint64_t pages);
  // pages() and token() are what it has from then on; nothing can be read or put.
  UniqueFd close();

 private:
  KeptImage(UniqueFd file, const image::SecretHash::Secret& secret, std::uint64_t most)
      : file_(std::move(file)), secret_(secret), hash_(secret), most_(pages_within(most)) {}
  static std::uint64_t pages_within(std::uint64_t bytes);

  void find_free_places();
  void leave_out_until(RemotePtr at);
  void put_page(RemotePtr at, std::span<const std::byte> page);
  void write_gathered();
  void punch_free_places();

  UniqueFd file_;
  image::SecretHash::Secret secret_;
  image::SecretHash hash_;
  Token token_{};
  std::uint64_t most_;               // pages
  Entries pages_;                    // rising
  std::uint64_t places_ = 0;         // that the file has
  std::vector<std::uint64_t> free_;  // of these
  // Of what is put:
  std::size_t passed_ = 0;  // of pages_
  Entries next_;            // what they will be
  std::uint64_t gathered_place_ = 0;
  std::vector<std::byte> gathered_;  // pages to be written from there on
};

}  // namespace telefork::restore
