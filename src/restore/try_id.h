// Whether a process or thread could have an id here.
#pragma once

#include <span>
#include <vector>

#include <sys/types.h>

namespace telefork::restore {

// Makes a process of that id, which ends at once: 0, or the errno of why there can be none, EEXIST
// where the id is taken. Only the kernel can tell: it is so too as long as a process group or a
// session has that number, of which /proc has no entry.
int try_id(pid_t id);
// The same of many that differ, in their order. To wait for each before the next is begun takes
// three times as long.
std::vector<int> try_ids(std::span<const pid_t> ids);

}  // namespace telefork::restore
