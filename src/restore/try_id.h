// Whether a process or thread could have an id here.
#pragma once

#include <sys/types.h>

namespace telefork::restore {

// Makes a process of that id, which ends at once: 0, or the errno of why there can be none, EEXIST
// where the id is taken. Only the kernel can tell: it is so too as long as a process group or a
// session has that number, of which /proc has no entry.
int try_id(pid_t id);

}  // namespace telefork::restore
