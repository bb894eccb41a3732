#include "restore/segments.h"

#include <cerrno>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/system_v.h"
#include "restore/vma_rules.h"

namespace telefork::restore {
namespace {

using image::schema::Segment;

[[noreturn]] void refuse(Segment::Reader record, const std::string& why) {
  throw Error(Code::kRefused,
              fmt::format("its System V memory (id {}, key {:#x}) cannot be had here: {}",
                          record.getId(), record.getKey(), why));
}

void choose_next_id(Segment::Reader record) {
  UniqueFd next(::open(kernel::kNextSegmentPath, O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(record.getId());
  if (next && ::write(next.get(), text.data(), text.size()) >= 0) return;
  refuse(record, fmt::format("to choose an id takes root (shm_next_id: {})", std::strerror(errno)));
}

void give_owner(Segment::Reader record, int id) {
  shmid_ds about{};
  if (::shmctl(id, IPC_STAT, &about) != 0) throw_errno("asking for System V memory");
  about.shm_perm.uid = record.getUid();
  about.shm_perm.gid = record.getGid();
  about.shm_perm.mode = record.getMode() & 0777;
  if (::shmctl(id, IPC_SET, &about) == 0) return;
  refuse(record, fmt::format("giving it its owner: {}", std::strerror(errno)));
}

}  // namespace

Segments::~Segments() {
  for (const auto& [id, marked] : made_) ::shmctl(id, IPC_RMID, nullptr);
}

int Segments::get(Segment::Reader record, unsigned huge_shift) {
  if (made_.contains(record.getId())) return record.getId();
  choose_next_id(record);
  const auto key = static_cast<key_t>(record.getKey());
  const int huge = huge_shift != 0 ? SHM_HUGETLB | huge_page_flags(huge_shift) : 0;
  const int id = ::shmget(key, record.getSize(), IPC_CREAT | IPC_EXCL | 0600 | huge);
  if (id < 0 && errno == EEXIST) refuse(record, "its key is taken");
  if (id < 0 && huge_shift != 0) {
    const int error = errno;
    refuse(record, fmt::format("{}: {}", huge_pages_name(huge_shift), std::strerror(error)));
  }
  if (id < 0) refuse(record, std::strerror(errno));
  made_.emplace(id, (record.getMode() & SHM_DEST) != 0);
  if (id != record.getId()) {
    ::shmctl(id, IPC_RMID, nullptr);
    made_.erase(id);
    refuse(record, "its id is taken");
  }
  give_owner(record, id);
  return id;
}

void Segments::keep() {
  for (const auto& [id, marked] : made_) {
    if (marked && ::shmctl(id, IPC_RMID, nullptr) != 0) {
      throw_errno("marking System V memory for destruction");
    }
  }
  made_.clear();
}

}  // namespace telefork::restore
