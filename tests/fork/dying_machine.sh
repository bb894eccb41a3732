#!/bin/bash
# A child's machine dies, as in a power cut: its pid at home ends with 125 and the reason, and nothing
# is left. Then the parent's machine dies: the child ends there.
# Usage: dying_machine.sh WAITING_CHILD TELEPAD
set -euo pipefail
source "$(dirname "$0")/../../tools/machines.sh"
program=$1 telepad=$2

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

# Starts the program on alpha, and returns when its child has begun on beta.
begin() {
  local line=""
  out=$machines_folder/out
  rm -f "$out"
  mkfifo "$out"
  machine_run alpha "$program" "$(machine_node beta)" >"$out" 2>"$machines_folder/err" &
  caller=$!
  exec {from}<"$out"
  IFS= read -r -t 60 -u "$from" line || true
  [[ $line == begun ]] || fail "the child did not begin: '$line'" "$(cat "$machines_folder/err")"
}

processes_on() { machine_run "$1" ps -e -o comm= | sort; }

# A keeper takes a moment to hear of it, and there is no event for it.
await_processes() {
  local machine=$1 wanted=$2 tries
  for ((tries = 0; tries < 3000; ++tries)); do
    [[ $(processes_on "$machine") != "$wanted" ]] || return 0
    sleep 0.02
  done
  fail "on $machine there is still:" "$(processes_on "$machine")"
}

machines_for_test
# Its telepad cannot be asked any more: only the leases tell that the child is no more.
leases=(TELEFORK_LEASE_STOP_MS=500 TELEFORK_LEASE_KILL_MS=2000 TELEFORK_LEASE_HOME_MS=4000)
machine_start alpha env "${leases[@]}" "$telepad" --quiet
machine_start beta "$telepad" --quiet
at_rest=$(processes_on alpha)
begin
machine_stop beta
IFS= read -r -t 60 -u "$from" line || line="nothing"
[[ $line == "exited 125" ]] || fail "its pid at home: $line" "$(cat "$machines_folder/err")"
grep -q "^telefork: .*beta" "$machines_folder/err" ||
  fail "it does not say why:" "$(cat "$machines_folder/err")"
wait "$caller"
exec {from}<&-
await_processes alpha "$at_rest"

rm -rf "${machines_folder:?}/beta"
machine_start beta "$telepad" --quiet
at_rest=$(processes_on beta)
begin
machine_stop alpha
await_processes beta "$at_rest"
wait "$caller" && fail "the caller has outlived its machine"
exec {from}<&-
