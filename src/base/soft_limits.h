// The soft limits of this process (getrlimit(2)). What was set for the programs that a user starts
// is not to be in the way of telefork's own, which hold their descriptors and read their files; and
// what telefork starts is to have what was set.
#pragma once

namespace telefork {

// To the hard ones, and remembers what they were.
void raise_soft_limits();
// What they were at the first raise_soft_limits(), if there was one. System calls only, for use
// between fork and exec.
void restore_soft_limits() noexcept;

}  // namespace telefork
