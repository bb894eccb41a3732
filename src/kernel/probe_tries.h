// The single attempts that probe.cc makes; for probe.cc only. Each tries one facility, undoes what
// it did (or did it in a child), and answers whether it worked.
#pragma once

#include <cstdint>

namespace telefork::kernel {

bool may_open_memory_of_child();
bool has_process_vm();
bool has_pidfd_getfd();
bool has_rseq();
bool has_mm_map();
bool may_set_exe();
bool has_timer_restore_ids();

// Whether PAGEMAP_SCAN knows the categories.
bool has_pagemap_scan(std::uint64_t categories);
bool may_open_map_files();
// On a fresh page of anonymous memory.
bool has_madvise(int advice);
bool has_madvise_collapse();

struct UffdSupport {
  bool present = false;
  bool kernel_faults = false;  // by userfaultfd(2) or by opening /dev/userfaultfd
  std::uint64_t features = 0;  // UFFD_FEATURE_*
};
UffdSupport try_userfaultfd();

bool has_user_namespace();
bool has_time_namespace();
// Directly, or inside a user namespace.
bool has_network_namespace();
bool has_tcp_repair();

bool has_capability(int capability);

}  // namespace telefork::kernel
