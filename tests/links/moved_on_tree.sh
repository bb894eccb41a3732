#!/bin/bash
# The machines alpha, beta and gamma for moved_on_tree.py.
# Usage: moved_on_tree.sh BUILD [TEST]
set -euo pipefail
here=$(dirname "$0")
source "$here/../../tools/machines.sh"
build=$1
shift

machines_for_test
TELEFORK_MACHINES=""
for name in alpha beta gamma; do
  machine_start "$name" "$build/bin/telepad" --quiet
  TELEFORK_MACHINES+="$name ${machine_pid[$name]} $(machine_node "$name") "
done
# With ids that are free on the others: the processes have the same everywhere.
machine_run alpha sh -c 'echo 20000 >/proc/sys/kernel/ns_last_pid'
TELEFORK_BIN=$build/bin TELEFORK_VICTIM=none TELEFORK_MACHINES=$TELEFORK_MACHINES \
  PYTHONPATH=$here/../cli python3 "$here/moved_on_tree.py" "$@"
