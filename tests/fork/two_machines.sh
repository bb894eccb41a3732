#!/bin/bash
# Tests once more, with the node another machine: pids, network, host name and /proc of its own.
# Usage: two_machines.sh TEST TELEPAD
set -euo pipefail
source "$(dirname "$0")/../../tools/machines.sh"
source "$(dirname "$0")/near.sh"
machines_for_test
machine_start alpha "$2" --quiet
machine_start beta "$2" --quiet

# Without those that look for the child among the processes of the parent's machine.
# shellcheck disable=SC2046  # these are words
TELEFORK_TEST_NODE=$(machine_node beta) TELEFORK_TEST_HOST=beta machine_run alpha \
  env $(fork_tests_third 2) "$1" \
  --gtest_filter="-$fork_tests_near" --gtest_brief=1
