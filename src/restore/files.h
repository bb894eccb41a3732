// The files that an image refers to, as they are here.
//
//     OpenFiles files;
//     files.examine(ref)                        // the answer to "do you have this one?"
//     files.open_for_mapping(ref, contents, writable)
//     files.open_description(description, contents)
//
// A file is taken from here when it is the same file (kernel/file_identity.h) or, for one that is
// only read, when its content hash agrees; else its content must have come with the image. Nothing
// else is ever opened in a file's place. Files of /proc and /sys are told by their paths. A
// directory is told by its path where this is another machine, or another boot of it; a device by
// its path and number.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <capnp/message.h>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "kernel/file_identity.h"
#include "restore/content_store.h"

namespace telefork::restore {

struct FileVerdict {
  enum class Kind {
    kSame,    // it is the same file
    kHashed,  // one of that path and size: compare the hashes
    kMissing,
    kDifferent,  // another size, another kind of file, or not to be opened
  };
  Kind kind = Kind::kMissing;
  std::vector<std::byte> hash;  // of kHashed
  std::string why;              // of kMissing and kDifferent, for people
  bool denied = false;          // of kDifferent: it is the same file, and may not be opened so
};

// Without its size.
kernel::FileIdentity decode_identity(image::schema::FileIdentity::Reader from);
kernel::FileIdentity decode_identity(image::schema::FileRef::Reader ref);
// What open(2) keeps in a description; O_CREAT and the like did their work long ago.
unsigned kept_flags(image::schema::FileDescription::Reader description);

// What the files that a guest was given are called at home, by device and inode here.
class ArrivedFiles {
 public:
  void note(const UniqueFd& file, image::schema::FileRef::Reader ref);
  // As it came, but for its content.
  std::optional<image::schema::FileRef::Reader> find(std::uint64_t device,
                                                     std::uint64_t inode) const;

 private:
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::shared_ptr<::capnp::MallocMessageBuilder>>
      refs_;
};

class OpenFiles {
 public:
  // `live`: the process is frozen elsewhere right now, and of the very file whatever it holds by
  // now is right, as in a child of fork(2). Of an image that was saved the content has to be as it
  // was then; of a file open for writing, which nobody compares, size and time are asked, and one
  // that is only appended to may have grown.
  explicit OpenFiles(bool live);
  // `access`: R_OK and W_OK, what it is to be opened for.
  FileVerdict examine(image::schema::FileRef::Reader ref, int access);
  // What to map. `writable`: for a shared mapping that is written to.
  UniqueFd open_for_mapping(image::schema::FileRef::Reader ref, const ContentStore& contents,
                            bool writable);
  // A FIFO, for reading and writing, without waiting.
  UniqueFd open_fifo(image::schema::FileRef::Reader ref);
  // A new open file description with the flags and position of the old one. Not for stdio.
  // `warn` is told of a position that it could not have.
  UniqueFd open_description(image::schema::FileDescription::Reader description,
                            const ContentStore& contents,
                            const std::function<void(const std::string&)>& warn);

  // All that was opened so far.
  const ArrivedFiles& arrived() const { return arrived_; }

 private:
  void compare(const UniqueFd& file, image::schema::FileRef::Reader ref, FileVerdict& verdict);
  UniqueFd open_here(image::schema::FileRef::Reader ref, int flags);
  enum class Use { kRead, kWrite, kAppend };
  static Use use_of(unsigned flags);
  // A lock on another file locks nobody out.
  void verify_lockable(image::schema::FileDescription::Reader description, const UniqueFd& file);
  void verify(image::schema::FileRef::Reader ref, const UniqueFd& file, Use use);
  // Of a file that the kernel makes up, as of an empty one.
  const std::vector<std::byte>& hash_of(const UniqueFd& file, const kernel::FileIdentity& identity,
                                        const std::string& path);

  bool is_same(const kernel::FileIdentity& a, const kernel::FileIdentity& b) const;
  // Why a directory or a device here, of the kind of `ref`, is not what it stands for; empty: it
  // is.
  std::string why_another(image::schema::FileRef::Reader ref, const struct stat& stat,
                          const kernel::FileIdentity& identity) const;

  std::string boot_id_;
  bool live_;
  ArrivedFiles arrived_;
  // By device and inode, for files that did not change since.
  struct KnownHash {
    std::int64_t ctime_ns;
    std::vector<std::byte> hash;
  };
  std::map<std::pair<std::uint64_t, std::uint64_t>, KnownHash> hashes_;
};

}  // namespace telefork::restore
