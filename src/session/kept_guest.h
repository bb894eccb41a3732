// The keeper's part in what is kept of a guest between two run_on of a program.
//
//   keeper    ask()            before the guest comes ---->  telepad (kept_images.h)
//             offer(link)      what is there     <---------  its file, or that there is none
//             read()           what did not come from home, now, or
//             serve()          when the guest touches it
//             announce()       it is on its way home ----->  whoever asks for it waits
//             keep(guest)      it is home, and stands still here: its file ---->
//             tell(link)       home too, if it has asked for that
//
// By the socket of guard_channel.h. While a guest has the file nobody else has it: what becomes of
// the guest becomes of the file. Without it all pages come from home, as of the first one.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <sys/types.h>

#include "base/mapped_region.h"
#include "base/unique_fd.h"
#include "kernel/pagemap.h"
#include "migrate/page_server.h"
#include "net/stream.h"
#include "protocol/link.h"
#include "restore/kept_image.h"
#include "restore/restorer.h"

namespace telefork::session {

class KeptGuest {
 public:
  // `name`: Prepare.keep. `most`: bytes that it may keep.
  KeptGuest(UniqueFd channel, std::vector<std::byte> name, std::uint64_t most);

  void ask() const;
  // Waits for the file, while that of an earlier guest is being made; for a short while, and no
  // longer than `most`: home hears nothing meanwhile, and its program stands still.
  // `known`: the token of what home was told by tell(); of that it is told no more.
  void offer(protocol::Link& link, std::chrono::milliseconds most,
             std::span<const std::byte> known);
  void read(RemotePtr at, std::span<std::byte> to);
  // What has not arrived of `lazy`, on `stream`, by a thread, until keep().
  void serve(std::unique_ptr<net::Stream> stream, const restore::LazyMemory& lazy);
  // Throws why it is not served any more.
  void check() const {
    if (server_) server_->check();
  }
  void announce() const;
  // What `guest` has in private memory. It stands still, and never runs again. `changed`: what it
  // may have written to or lost here, rising; the rest of what was read is not read again.
  // `missing`: what of all that it has not touched, rising.
  void keep(pid_t guest, kernel::PageMapAbi abi, const std::vector<kernel::PageRun>& changed,
            const std::vector<kernel::PageRun>& missing);
  // After keep(): which pages, where it has come to that.
  void tell(protocol::Link& link) const;

 private:
  void send_word(std::byte word, int fd = -1) const;
  void try_send_word(std::byte word) const;
  void take_image(std::chrono::milliseconds patience);
  void tell_pages(protocol::Link& link, bool with_hashes) const;
  void put_read(const UniqueFd& memory, const std::vector<kernel::PageRun>& runs,
                const MappedRegion& buffer);
  void put_all(pid_t guest, kernel::PageMapAbi abi, const std::vector<kernel::PageRun>& changed,
               const std::vector<kernel::PageRun>& missing);

  UniqueFd channel_;
  std::vector<std::byte> name_;
  std::uint64_t most_;
  std::optional<restore::KeptImage> image_;
  bool is_kept_ = false;
  std::vector<kernel::PageRun> came_;            // from it, or is to come; rising
  std::unique_ptr<migrate::PageServer> server_;  // reads the image
};

// Whether what a node has kept can come to a guest when it touches that: where it can be waited
// for, and be told what was written to since.
bool may_follow(kernel::PageMapAbi abi);
// Of a guest that is to come so. Empty: it is not to be kept, or cannot be here.
std::optional<KeptGuest> begin_to_keep(protocol::schema::Prepare::Reader task,
                                       const UniqueFd& channel, std::uint64_t most_kb);

}  // namespace telefork::session
