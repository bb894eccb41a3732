#!/bin/bash
# Yama, which this kernel need not have: what its setting decides, and what is said. The setting is a
# file, and here one that says what the test wants; that Yama does as it says is not tested.
# Usage: yama.sh BUILD VICTIM
set -euo pipefail
if [[ -e /proc/sys/kernel/yama ]]; then
  echo "needs: a kernel without Yama"
  exit 77
fi
source "$(dirname "$0")/plain.sh"
build=$1 victim=@${2#"$1"}
plain_machines "$build" alpha beta

# The other settings stay as they are.
set_scope() {
  machine_run "$1" bash -c '
    set -e
    if [[ ! -e /run/kernel ]]; then
      mkdir /run/kernel
      cp -r --no-preserve=all /proc/sys/kernel/. /run/kernel 2>/dev/null || true
      mkdir -p /run/kernel/yama
      chmod -R a+rX /run/kernel
      mount --bind /run/kernel /proc/sys/kernel
    fi
    echo "$1" >/run/kernel/yama/ptrace_scope' - "$2"
}
root_expect() {
  local wanted=$1 text=$2
  shift 2
  expect "$wanted" "$text" machine_run alpha env "${plain_settings[@]}" "${@/#@/$plain_build}"
}
caller=@/tests/plain/plain_caller
plain_telepad beta
own=$plain_node roots=$(machine_node beta)

# A process that waits, for each command that takes a pid.
mkfifo "$machines_folder/told" "$machines_folder/go"
exec {told}<>"$machines_folder/told"
plain_run alpha "$victim" 1 1 <>"$machines_folder/go" >"$machines_folder/told" &
waiting=$!
read -r -u "$told" _ pid
expect_of_process() {
  plain_expect "$1" "$2" alpha @/bin/telefork check "$pid"
  plain_expect "$1" "$3" alpha @/bin/telefork check "$pid" "$own" --for fork
  plain_expect "$1" "$3" alpha @/bin/telefork check "$pid" "$own" --for run_on
}

set_scope alpha 1
plain_expect 0 "Yama (kernel.yama.ptrace_scope is 1) lets \`telefork save\`" alpha @/bin/telefork check
plain_expect 0 "forked to beta" alpha "$caller" fork "$own"
plain_expect 0 "called on beta" alpha "$caller" run_on "$own"
plain_expect 0 beta alpha @/bin/telefork run "$own" -- hostname
expect_of_process 0 "can move" "to $own"

set_scope alpha 2
only_root="Yama lets only root trace (kernel.yama.ptrace_scope is 2); ask as root, or have root set \
that to 1"
plain_expect 0 "Yama (kernel.yama.ptrace_scope is 2) lets only root trace" alpha @/bin/telefork check
plain_expect 3 "$only_root" alpha "$caller" fork "$own"
plain_expect 3 "$only_root" alpha "$caller" run_on "$own"
plain_expect 3 "$only_root" alpha @/bin/telefork save "$pid" "$plain_home/image"
expect_of_process 3 "$only_root" "$only_root"
root_expect 0 "forked to beta" "$caller" fork "$roots"
root_expect 0 "called on beta" "$caller" run_on "$roots"

set_scope alpha 3
nobody="Yama lets nobody trace until the machine starts anew (kernel.yama.ptrace_scope is 3)"
root_expect 0 "Yama (kernel.yama.ptrace_scope is 3) lets nobody trace" @/bin/telefork check
root_expect 3 "$nobody" "$caller" fork "$roots"
root_expect 3 "$nobody" "$caller" run_on "$roots"
root_expect 3 "$nobody" @/bin/telefork save "$pid" "$plain_home/image"

# The same of a node: it says so before anything is frozen. Commands go there all the same.
set_scope alpha 0
for scope in 0 1; do
  set_scope beta $scope
  plain_expect 0 "forked to beta" alpha "$caller" fork "$own"
done
set_scope beta 2
for node in "$own" "$roots"; do
  plain_expect 3 "no process can come to $node: $only_root" alpha "$caller" fork "$node"
  plain_expect 3 "no process can come to $node: $only_root" alpha "$caller" run_on "$node"
  plain_expect 0 "it cannot take in processes: $only_root" alpha @/bin/telefork check "$node"
  plain_expect 3 "no process can come to $node: $only_root" alpha @/bin/telefork check "$pid" "$node"
  plain_expect 0 beta alpha @/bin/telefork run "$node" -- hostname
done
root_expect 0 "forked to beta" "$caller" fork "$roots"
set_scope beta 3
root_expect 3 "no process can come to $roots: $nobody" "$caller" fork "$roots"

# Nothing of that has touched it.
echo go >"$machines_folder/go"
code=0
wait "$waiting" || code=$?
((code == 42)) || fail "the process ended with $code"
