// Descriptors that the kernel makes up from nothing: eventfd, timerfd, signalfd, epoll, inotify, a
// pidfd of the process itself. Made here; what only the guest itself can do with them, by its own
// numbers, comes as steps of a program: see restore_event_files() and restore_timers().
#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "tracee/syscall_program.h"

namespace telefork::restore {

bool is_event_file(image::schema::FileDescription::Kind kind);
// `pid`: the guest's, as this process sees it.
UniqueFd open_event_file(image::schema::FileDescription::Reader description, pid_t pid);
// Armed, with what it had left, and with the expirations that were not read. `now` is what its
// clock says to the guest.
void add_timer_file(int fd, image::schema::TimerFile::Reader timer, std::int64_t now,
                    tracee::SyscallProgram& program);
// `root`: of who has another root directory, the number of the one that the paths begin in; else
// -1.
void add_watches(int fd, image::schema::FileDescription::Reader description, int root,
                 tracee::SyscallProgram& program);

}  // namespace telefork::restore
