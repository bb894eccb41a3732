#!/bin/bash
# The tests of fork or run_on once more, with all memory following that can: every program begins there
# before its own has come.
#
#   lazily.sh TEST
#
# One writes through /proc/self/mem, which the kernel does not let wait (docs/limits.md).
set -euo pipefail
export TELEFORK_LAZY_PROCESS_KB=0 TELEFORK_LAZY_MAPPING_KB=0
exec "$1" --gtest_brief=1 --gtest_filter='*/unix:-*.KeepsMemoryFromBecomingExecutable/*'
