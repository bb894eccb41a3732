// How a process has fared, as waitpid(2) has it, for a message.
#pragma once

#include "protocol/message.h"

namespace telefork::session {

void fill_status(int status, protocol::schema::Status::Builder report);

}  // namespace telefork::session
