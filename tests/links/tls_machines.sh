#!/bin/bash
# Two machines that meet by TCP: the fork contract, whose user a key is, and a cable that is cut.
# Usage: tls_machines.sh BUILD
set -euo pipefail
build=$1
if [[ $(id -u) != 0 ]]; then
  echo "needs: root, to make machines out of namespaces"
  exit 77
fi
here=$(dirname "$0")
source "$here/../../tools/machines.sh"
source "$here/meet.sh"
source "$here/../fork/near.sh"
trap machines_end EXIT
machines_begin
telefork=$build/bin/telefork
export XDG_CONFIG_HOME=$machines_folder/asking

# The checkout may lie where only root may look; a bind mount is seen through its own path alone.
cd /
chmod 711 "$machines_folder"
mkdir -m 755 "$machines_folder/build"
meet_prepare beta
leases=(TELEFORK_LEASE_STOP_MS=500 TELEFORK_LEASE_KILL_MS=2000 TELEFORK_LEASE_HOME_MS=4000)
# A user whom both machines have, with a home.
(getent passwd; echo "eve:x:54321:65534::$machines_folder/eve:/bin/sh") >"$machines_folder/passwd"
mkdir -m 700 "$machines_folder/eve"
chown 54321:65534 "$machines_folder/eve"
start() {
  local name=$1
  shift
  # shellcheck disable=SC2016  # for the inner shell
  machine_start "$name" bash -c 'mount --bind "$1" "$2" && mount --bind "$3" /etc/passwd &&
    folder=$2 && shift 3 && exec "$folder/bin/telepad" --quiet "$@"' - \
    "$build" "$machines_folder/build" "$machines_folder/passwd" "$@"
}
start alpha
start beta --listen '*' --keys "$machines_folder/keys.beta"
machine_link alpha beta
node=$(machine_address beta alpha)
run() { machine_run alpha "$telefork" run "$node" -- "$@"; }

meet_introduce alpha beta nobody
[[ $(run sh -c 'id -un; hostname; pwd' 2>&1) == nobody$'\n'beta$'\n'* ]] ||
  fail "a key that stands for nobody is:" "$(run id 2>&1)"
code=0
said=$(run sh -c 'kill -STOP 1; test -r /proc/1/mem' 2>&1) || code=$?
((code == 1)) || fail "nobody could do what root can: $code $said"
# Nor has it what root's telepad lends the keeper.
said=$(run grep '^Cap[IPEA]' /proc/self/status | cut -f 2 | sort -u)
[[ $said == 0000000000000000 ]] || fail "nobody has capabilities:" "$said"

# A process of root's cannot be one of nobody's, and hears of it before anything is done.
code=0
# shellcheck disable=SC2016  # for the inner shell
said=$(machine_run alpha sh -c '"$0" check $$ "$1" --for fork; exit $?' "$telefork" "$node" 2>&1) ||
  code=$?
[[ $code -eq 3 && $said == *"of user 0 and group 0, and $node makes it one of user "* ]] ||
  fail "check of another user says with $code:" "$said"

meet_introduce alpha beta root
[[ $(run id -un) == root ]] || fail "a key that stands for root is: $(run id)"

# A program of eve's: its agent is started by root's telepad, and has eve's key all the same.
as_eve() {
  machine_run alpha setpriv --reuid 54321 --regid 65534 --clear-groups env -i PATH="$PATH" \
    HOME="${eves_home:-$machines_folder/eve}" LD_LIBRARY_PATH="$machines_folder/build/lib" "$@"
}
eve=$machines_folder/build/bin/telefork
fork_as_eve() {
  as_eve TELEFORK_SOCKET=/run/telefork/telepad.sock \
    "$machines_folder/build/bin/hello_fork" "$node" 2>&1
}
# With another HOME than the agent has, too, what the refusals name mends it.
eves_home=$machines_folder
keys=$machines_folder/eve/.config/telefork
said=$(fork_as_eve) && fail "eve was let in without a key:" "$said"
[[ $said == *"no key of yours in $keys on "*": telefork keygen --keys $keys makes one"* ]] ||
  fail "eve without a key is told:" "$said"
key=$(as_eve "$eve" keygen --keys "$keys")
trusting="trust $node $(cat "$machines_folder/beta.key") --keys $keys"
said=$(fork_as_eve) && fail "eve trusts beta by nobody's leave:" "$said"
[[ $said == *"telefork $trusting"* ]] || fail "eve who does not know beta is told:" "$said"
# shellcheck disable=SC2086  # these are words
as_eve "$eve" $trusting >/dev/null
eves_home=
said=$(fork_as_eve) && fail "eve's key was let in by nobody's leave:" "$said"
[[ $said == *"telefork trust $key --as USER"* ]] || fail "eve has another key than hers:" "$said"
machine_run beta "$telefork" trust "$key" --as eve --keys "$machines_folder/keys.beta" >/dev/null
said=$(fork_as_eve) || fail "eve cannot fork:" "$said"
[[ $said == *"forked on alpha, running on beta"* ]] || fail "eve's child ran elsewhere:" "$said"

# Without those that look for the child among the processes of the parent's machine.
# shellcheck disable=SC2046  # these are words
TELEFORK_COMPRESS=lz4 TELEFORK_TEST_NODE=$node TELEFORK_TEST_HOST=beta machine_run alpha \
  env $(fork_tests_third 0) "$build/tests/fork/fork_test" --gtest_brief=1 \
  --gtest_filter="-$fork_tests_near"

# A program that runs goes there in the middle of it, and is waited for here.
mkfifo "$machines_folder/in" "$machines_folder/out" "$machines_folder/begun"
exec {to}<>"$machines_folder/in"
machine_run alpha bash -c '
  python3 -c "
import socket, sys
print(socket.gethostname(), flush=True)
sys.stdin.readline()
print(socket.gethostname())
sys.exit(7)" <&0 &
  : <"$3"
  "$1" move $! "$2"
  echo "moved $?"
  wait $!
  echo "ended $?"' - "$telefork" "$node" "$machines_folder/begun" {to}>&- \
  <"$machines_folder/in" >"$machines_folder/out" 2>"$machines_folder/err" &
exec {from}<"$machines_folder/out"
lines=()
while IFS= read -r -t 60 -u "$from" line; do
  lines+=("$line")
  [[ $line != alpha ]] || : >"$machines_folder/begun"
  [[ $line != moved* ]] || echo >&"$to"
done
wait $!
[[ ${lines[*]} == "alpha moved 0 beta ended 7" ]] ||
  fail "a running program did not go to beta and end there:" "${lines[@]}" "$(cat "$machines_folder/err")"
exec {from}<&- {to}>&-
rm "$machines_folder/out"

# One that goes for good ends here at once, and goes on there with nobody's help.
said=$(machine_run alpha bash -c '
  python3 -c "
import os, socket, sys, time
print(socket.gethostname(), flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.02)
print(socket.gethostname())" "$3" </dev/null >"$4" 2>&1 &
  until grep -q . "$4"; do sleep 0.02; done
  "$1" move --detach $! "$2"
  echo "moved $?"
  wait $!
  echo "ended $?"' - "$telefork" "$node" "$machines_folder/go" "$machines_folder/told" 2>&1)
[[ $said == *"moved 0"*"ended 0"* ]] || fail "it does not go for good:" "$said"
: >"$machines_folder/go"
# Its end is nobody's to wait for here.
for ((tries = 0; tries < 3000; ++tries)); do
  [[ $(<"$machines_folder/told") != alpha$'\n'beta ]] || break
  sleep 0.02
done
[[ $(<"$machines_folder/told") == alpha$'\n'beta ]] ||
  fail "what has gone for good says:" "$(cat "$machines_folder/told")"

# Nobody hears of a cable that is cut: only the leases tell.
mkfifo "$machines_folder/out"
machine_run alpha env "${leases[@]}" "$telefork" run "$node" -- \
  sh -c 'echo begun; exec sleep infinity' >"$machines_folder/out" 2>"$machines_folder/err" &
caller=$!
exec {from}<"$machines_folder/out"
IFS= read -r -t 60 -u "$from" line || line=""
[[ $line == begun ]] || fail "it did not begin: '$line'" "$(cat "$machines_folder/err")"
machine_run alpha ip link delete tf0a
code=0
wait "$caller" || code=$?
((code == 125)) || fail "with the cable cut it ends with $code" "$(cat "$machines_folder/err")"
grep -q "lost: .*$node.*lease is over" "$machines_folder/err" ||
  fail "it does not say why:" "$(cat "$machines_folder/err")"
# There is no event for the end of the keeper and its greeter.
for ((tries = 0; tries < 3000; ++tries)); do
  left=$(machine_run beta ps -e -o comm= | grep -E 'telefork-|sleep$' | grep -vc '^sleep$' || true)
  ((left)) || break
  sleep 0.02
done
((left == 0)) || fail "on beta there is still:" "$(machine_run beta ps -ef)"
exec {from}<&-
