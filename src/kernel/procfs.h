// Everything that telefork reads out of /proc, under one include:
//
//   procfs_maps.h     the memory map
//   procfs_task.h     stat, status, threads, children; who a process is and whether it lives
//   procfs_file.h     descriptors, links, and the paths of files below /proc for open(2)
//   procfs_state.h    what else a process carries: auxv, timers, comm, oom_score_adj ...
//   procfs_system.h   mounts and settings of the machine
//
// The text of /proc is parsed nowhere else. A parser (parse_*) is a pure function from text,
// throws Code::kCorrupt for text that is not of the format, and takes no more memory than a small
// multiple of the text; a reader (read_*) does the I/O and throws Code::kGone, naming the pid,
// when the process has ended.
//
// A pid may be that of any thread where nothing else is said: /proc has a folder for each.
#pragma once

#include "kernel/procfs_file.h"
#include "kernel/procfs_maps.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_system.h"
#include "kernel/procfs_task.h"
