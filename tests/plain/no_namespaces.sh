#!/bin/bash
# A user who is not root, where user namespaces are switched off: what needs none goes on, and what
# does is refused by name. Usage: no_namespaces.sh BUILD VICTIM
set -euo pipefail
source "$(dirname "$0")/plain.sh"
build=$1 victim=@${2#"$1"}
plain_machines "$build" alpha beta
id=$plain_uid gid=$plain_gid

# The setting is of a user namespace: one in which there are root, who has set it, and the user.
machine_run alpha mkdir -m 700 /run/maps
bare_run() {
  machine_run alpha bash -c '
    set -e
    ids=$1 gids=$2 go=$(mktemp -u /run/maps/XXXXXX)
    shift 2
    mkfifo "$go" "$go.up"
    # In the background bash would give it another stdin. It is root there from its next exec on.
    unshare --user bash -c "echo >\"$go.up\" && read -r _ <\"$go\" && exec \"\$@\"" - \
      bash -c "echo 0 >/proc/sys/user/max_user_namespaces && exec \"\$@\"" - "$@" <&0 &
    read -r _ <"$go.up"
    # The kernel wants each in one write.
    env printf "%b" "$ids" >/proc/$!/uid_map
    env printf "%b" "$gids" >/proc/$!/gid_map
    echo >"$go"
    wait $!' - "0 0 1\n$id $id 1\n" "0 0 1\n$gid $gid 1\n" \
    setpriv --reuid "$id" --regid "$gid" --clear-groups env "${plain_settings[@]}" \
    "${@/#@/$plain_build}"
}
bare_expect() {
  local wanted=$1 text=$2
  shift 2
  expect "$wanted" "$text" bare_run "$@"
}
off="user namespaces are switched off here (user.max_user_namespaces is 0); have root set that to \
10000, or use a node whose telepad is root's"
refused="the process must keep its ids, and cannot on local: $off"

# First where they are on, which proves the test.
plain_expect 0 "called on alpha" alpha @/tests/plain/plain_caller run_on local

bare_expect 0 "Have root set user.max_user_namespaces, which is 0, to 10000." @/bin/telefork check
bare_expect 0 "it cannot let a process keep its ids, as run_on must: $off" @/bin/telefork check local
bare_expect 0 alpha @/bin/telefork run local -- hostname
bare_expect 0 "forked to alpha" @/tests/plain/plain_caller fork local
bare_expect 3 "$refused" @/tests/plain/plain_caller run_on local
# What helps.
bare_expect 0 "called on beta" @/tests/plain/plain_caller run_on "$(machine_node beta)"

# A check says it beforehand, and a load when it comes to that.
bare_expect 0 done bash -c "
  set -e
  telefork=$plain_build/bin/telefork
  coproc ${victim/#@/$plain_build} 1 1
  read -r _ pid <&\${COPROC[0]}
  \$telefork check \$pid local --for fork
  ! \$telefork check \$pid local --for run_on || exit 9
  \$telefork save \$pid $plain_home/image >/dev/null
  \$telefork load $plain_home/image </dev/null && exit 9 || echo load ended with \$?
  echo done"
[[ $said == *"can fork to local"* && $said == *"$refused"* && $said == *"load ended with 125"* &&
  $said == *"may not be chosen here by this user, and the process must keep its ids: making a pid namespace: $off"* ]] ||
  fail "check or load do not say it:" "$said"
