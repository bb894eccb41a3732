#!/bin/bash
# Where a plain user's telepad, and the list of his sessions, are without an XDG_RUNTIME_DIR.
# Usage: runtime_folder.sh BUILD
set -euo pipefail
source "$(dirname "$0")/plain.sh"
plain_machines "$1" alpha
folder=/tmp/telefork-$plain_uid
# Its own /tmp, and no telepad of root's.
machine_run alpha bash -c 'mkdir -m 755 /run/plain && mkdir -m 1777 /run/tmp && mount --bind /run/tmp /tmp'
machine_run alpha bash -c 'mkdir -m 700 /run/plain/home /run/plain/own && chown "$1" /run/plain/*' - \
  "$plain_uid"
telepad=$(machine_run alpha pgrep -x telepad)
machine_run alpha kill "$telepad"
plain_settings=(HOME=/run/plain/home LD_LIBRARY_PATH="$plain_build/lib")

# Whatever a call has left, which makes the folder where it finds none. There is no event for its end.
await_rest() {
  local tries
  for ((tries = 0; tries < 3000; ++tries)); do
    machine_run alpha pgrep -u "$plain_uid" >/dev/null || return 0
    sleep 0.02
  done
  fail "there is still:" "$(machine_run alpha ps -ef)"
}
end_telepad() {
  machine_run alpha kill "$(machine_run alpha pgrep -x -u "$plain_uid" telepad)"
  exec {plain_said}<&-
  wait "$plain_telepad" || true
  rm "$machines_folder/alpha.plain"
  await_rest
}
# The telepad that listens is found by the library, and is its agent; what it starts is listed.
expect_telepad() {
  plain_telepad alpha
  [[ $plain_telepad_says == *"$1"* && $plain_node == "unix:$2/telepad.sock" ]] ||
    fail "not '$1', or not in $2:" "$plain_telepad_says" "$plain_node"
  [[ $(machine_run alpha stat -c '%a %u' "$2") == "700 $plain_uid" ]] || fail "$2 is not private"
  plain_expect 0 "forked to alpha" alpha @/tests/plain/plain_caller fork "$plain_node"
  local line
  while IFS= read -r -t 60 -u "$plain_said" line; do
    [[ $line != *"agent "* ]] || break
  done
  [[ $line == *"agent "*" for a program of "* ]] || fail "the telepad was not the agent"
  plain_expect 0 "$plain_build/bin/telefork ps" alpha @/bin/telefork run "$plain_node" -- @/bin/telefork ps
  [[ $said == *" guest "* ]] || fail "it is not listed:" "$said"
  end_telepad
}

expect_telepad "XDG_RUNTIME_DIR is not set: its socket is $folder/telepad.sock" "$folder"
# As su(1) leaves it.
machine_run alpha mkdir -m 700 /run/plain/root
plain_settings+=(XDG_RUNTIME_DIR=/run/plain/root)
expect_telepad "XDG_RUNTIME_DIR is /run/plain/root, which is no folder of user" "$folder"
plain_settings+=(XDG_RUNTIME_DIR=/run/plain/missing)
expect_telepad "XDG_RUNTIME_DIR is /run/plain/missing, which is no folder of user" "$folder"
plain_settings+=(XDG_RUNTIME_DIR=/run/plain/own)
expect_telepad "" /run/plain/own/telefork
[[ $plain_telepad_says != *XDG* ]] || fail "it complains:" "$plain_telepad_says"

# Anybody can make one of that name: it is not used, and that is said; without a telepad all goes on.
refused="$folder: is not a folder of user $plain_uid, who alone may enter it; \
remove it, or set XDG_RUNTIME_DIR to a folder of this user's"
plain_settings+=(XDG_RUNTIME_DIR=)
expect_refusal() {
  plain_expect 3 "$refused" alpha @/bin/telepad
  plain_expect 0 "$refused" alpha @/bin/telefork ps
  plain_expect 0 "forked to alpha" alpha @/tests/plain/plain_caller fork local
  await_rest
}
machine_run alpha rm -r "$folder"
machine_run alpha mkdir -m 755 "$folder"
expect_refusal
machine_run alpha rmdir "$folder"
machine_run alpha ln -s /run/plain/own "$folder"
expect_refusal
machine_run alpha rm "$folder"
plain_run alpha mkdir -m 755 "$folder"
expect_refusal
