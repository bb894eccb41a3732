// Contents that travelled, one FileContent record each: of files that are only read, of files that
// moved themselves, and bytes that lay in none.
//
//     contents.take(record, source)             as they come
//     contents.get(id)                          a copy: a memory file without a name
//     contents.settle()                         when all that opens or maps them has done so
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "image/record_source.h"
#include "restore/named_memory.h"

namespace telefork::restore {

class ContentStore {
 public:
  // Takes the payload of a FileContent record. Without `named` there is to be no named memory.
  void take(const image::Record& record, image::RecordSource& source, NamedMemory* named = nullptr);
  // Throws kCorrupt where no such content came.
  const UniqueFd& get(std::uint32_t id) const;
  // Whether it is the file itself, and who opens it may write to it.
  bool is_file_itself(std::uint32_t id) const;
  // All of what lies in no file.
  std::vector<std::byte> read(std::uint32_t id) const;
  // Permissions and seals of the files themselves: before, they are in the way.
  void settle();

 private:
  struct Content {
    UniqueFd file;
    image::schema::FileContent::Kind kind;
    std::uint64_t size;
    std::uint32_t mode;
    std::uint32_t seals;
    bool is_new;  // else it was there, whole
  };
  Content make(image::schema::FileContent::Reader record, NamedMemory* named) const;
  const Content& find(std::uint32_t id) const;

  std::map<std::uint32_t, Content> contents_;
};

}  // namespace telefork::restore
