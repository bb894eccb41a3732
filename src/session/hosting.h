// What a node cannot do for a process that wants to come, said in its greeting, so that the process
// is refused at home before anything of it is frozen.
//
//     telepad: say_hosting(find_hosting(as_other_user), reply.initHosting())
//     home:    check_hosting(*opened.reply, node, keeps_ids)
//
// Commands come whatever it says.
#pragma once

#include <string>

#include <sys/types.h>

#include "kernel/yama.h"
#include "protocol/handshake.h"

namespace telefork::session {

// Each a reason with what helps; empty: it can.
struct Hosting {
  std::string processes;  // why none can come
  std::string ids;        // why none can keep its ids
  std::string memory;     // why none can run before its memory has come
};

// What the keeper may do. `no_namespace` says why it cannot give a process a pid namespace of its
// own, and is not looked at where it chooses ids: whether one is taken is seen when it comes.
Hosting decide_hosting(kernel::TraceBar keeper_bar, bool chooses_ids,
                       const std::string& no_namespace);
// Of a keeper that this process is about to start, as itself or as a user who keeps only
// CAP_CHECKPOINT_RESTORE of what it has (become_user.h).
Hosting find_hosting(bool as_other_user);

void say_hosting(const Hosting& hosting, protocol::schema::Hosting::Builder reply);
// Why its memory cannot follow a process there; empty: it can.
std::string why_not_lazy(const protocol::schema::HelloReply::Reader& reply);
// Why that of each of several cannot, where that of one can.
std::string why_not_lazy_trees(const protocol::schema::HelloReply::Reader& reply);
// Why it cannot come while the process runs here.
std::string why_not_live(const protocol::schema::HelloReply::Reader& reply);
bool lets_keep_ids(const protocol::schema::HelloReply::Reader& reply);
// Throws kRefused. A telepad that is too old to say it says nothing against it.
void check_hosting(const protocol::schema::HelloReply::Reader& reply, const std::string& node,
                   bool keeps_ids);

// Which ids the threads that process `pid` begins there are to have: free here when it comes home.
void say_new_ids(pid_t pid, protocol::schema::Prepare::Builder prepare);

// Throws kRefused where no guest can stay there without a home.
void check_detaching(const protocol::ReceivedHelloReply& reply, const std::string& node);
// Throws kRefused where several processes cannot come together.
void check_trees(const protocol::ReceivedHelloReply& reply, const std::string& node);

}  // namespace telefork::session
