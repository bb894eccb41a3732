// Asks the destination, while the process runs, whether it has the memory of which there is only so
// much there, or only one by that name (capture/wanted_memory.h): what is refused then would end
// the process's restoring later, when it stands still.
//
//     refusals = ask_about_memory(tree, *opened.reply, *opened.link);     // home
//     answer_about_memory(message->getCheckMemory(), link);               // the keeper
//
// On the way home it is part of the offer:
//
//     say_wanted_memory(tree, offer.initMemory());                        // the keeper
//     throw_refusals(find_lacking_memory(offer.getMemory(), "here"));     // home
#pragma once

#include <string>

#include "capture/refusal.h"
#include "capture/tree.h"
#include "protocol/handshake.h"
#include "protocol/link.h"

namespace telefork::session {

// Nothing where an older one cannot be asked, or nothing of that kind is wanted.
capture::Refusals ask_about_memory(const capture::TreeSurvey& tree,
                                   const protocol::schema::HelloReply::Reader& reply,
                                   protocol::Link& link);
void answer_about_memory(const protocol::schema::WantedMemory::Reader& wanted,
                         protocol::Link& link);

void say_wanted_memory(const capture::TreeSurvey& tree,
                       protocol::schema::WantedMemory::Builder wanted);
// What cannot be had of it on this machine, which is `place` to who reads it: "here", "there".
capture::Refusals find_lacking_memory(const protocol::schema::WantedMemory::Reader& wanted,
                                      const std::string& place);

}  // namespace telefork::session
