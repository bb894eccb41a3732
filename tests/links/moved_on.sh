#!/bin/bash
# A process goes from alpha to beta, and on from there to gamma: who calls it home too far is told where it is,
# and it comes back by the way that it went.
# Usage: moved_on.sh BUILD
set -euo pipefail
here=$(dirname "$0")
source "$here/../../tools/machines.sh"
source "$here/meet.sh"
telefork=$1/bin/telefork

refuses() {
  local text=$1 said
  shift
  if said=$("$@" 2>&1); then fail "not refused: $*" "$said"; fi
  grep -qF -- "$text" <<<"$said" || fail "'$text' is not said by $*:" "$said"
}

machines_for_test
for name in alpha beta gamma; do machine_start "$name" "$1/bin/telepad" --quiet; done
# With ids that are free on the others: the processes have the same everywhere.
machine_run alpha sh -c 'echo 20000 >/proc/sys/kernel/ns_last_pid'
for mode in eager lazy; do
  rm -f "$machines_folder/id"
  # shellcheck disable=SC2016  # for the inner shell
  machine_run alpha sh -c 'echo $$ >"$1"; exec sleep 1000' - "$machines_folder/id" \
    </dev/null >"$machines_folder/out" 2>&1 &
  shell=$!
  until [[ -s $machines_folder/id ]]; do sleep 0.02; done
  pid=$(<"$machines_folder/id")
  machine_run alpha "$telefork" move "$pid" "$(machine_node beta)" --mode "$mode"
  machine_run beta "$telefork" move "$pid" "$(machine_node gamma)" --mode "$mode"
  refuses "it has gone on from there to $(machine_node gamma): \`telefork home $pid\` there" \
    machine_run alpha "$telefork" home "$pid"
  machine_run beta "$telefork" home "$pid"
  machine_run alpha "$telefork" home "$pid"
  machine_run alpha kill -TERM "$pid"
  status=0
  wait "$shell" || status=$?
  ((status == 143)) || fail "it has ended with $status"
done
