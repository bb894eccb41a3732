#!/bin/bash
# ssh://HOST: three machines, of which alpha reaches beta by ssh, and gamma only through beta.
# Usage: ssh_machines.sh BUILD
set -euo pipefail
build=$1
if [[ $(id -u) != 0 ]]; then
  echo "needs: root, to make machines out of namespaces"
  exit 77
fi
if [[ ! -x /usr/sbin/sshd ]]; then
  echo "needs: sshd"
  exit 77
fi
here=$(dirname "$0")
source "$here/../../tools/machines.sh"
source "$here/meet.sh"
source "$here/../fork/near.sh"
agent=""
end() {
  [[ -z $agent ]] || kill "$agent"
  machines_end
}
trap end EXIT
machines_begin
folder=$machines_folder
telefork=$build/bin/telefork
for name in alpha beta gamma; do machine_start "$name" "$build/bin/telepad" --quiet; done
machine_link alpha beta
machine_link beta gamma
beta=$(machine_address beta alpha) gamma=$(machine_address gamma beta)

for key in user host other_user other_host; do
  ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$folder/$key"
done
cp "$folder/user.pub" "$folder/authorized_keys"
cat >"$folder/sshd_config" <<END
HostKey $folder/host
AuthorizedKeysFile $folder/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile /run/sshd.pid
SetEnv PATH=$build/bin:/usr/bin:/bin
END
cat >"$folder/ssh_config" <<END
Include $folder/more_config
Host beta
  HostName $beta
Host gamma
  HostName $gamma
  ProxyJump beta
Host nobody-there
  HostName $(machine_address alpha beta)
Host *
  IdentityFile $folder/user
  IdentitiesOnly yes
  UserKnownHostsFile $folder/known_hosts
  StrictHostKeyChecking yes
END
printf '%s %s\n' "$beta" "$(cat "$folder/host.pub")" "$gamma" "$(cat "$folder/host.pub")" \
  >"$folder/known_hosts"
: >"$folder/more_config"
cat >"$folder/ssh" <<END
#!/bin/sh
exec ssh -F '$folder/ssh_config' "\$@"
END
chmod +x "$folder/ssh"
export TELEFORK_SSH=$folder/ssh
unset SSH_AUTH_SOCK
# bash reads it for commands that come by ssh too.
bashrc=$(getent passwd root | cut -d: -f6)/.bashrc
start_sshd() {
  [[ ! -e $bashrc ]] || machine_run "$1" mount --bind /dev/null "$bashrc"
  machine_run "$1" mkdir -p /run/sshd
  machine_run "$1" /usr/sbin/sshd -f "$folder/sshd_config" -E "$folder/$1.sshd.log"
}
start_sshd beta
start_sshd gamma

on_alpha() { machine_run alpha "$@"; }
run() { on_alpha "$telefork" run "$@"; }
processes_on() { machine_run "$1" ps -e -o comm= | grep -vE '^(ps|grep)$' | sort; }
# There is no event for the end of what was left there.
await_processes() {
  local tries
  for ((tries = 0; tries < 3000; ++tries)); do
    [[ $(processes_on "$1") != "$2" ]] || return 0
    sleep 0.02
  done
  fail "on $1 there is still:" "$(machine_run "$1" ps -ef)"
}
await_rest() {
  await_processes alpha "$rest_of_alpha"
  await_processes beta "$rest_of_beta"
}
# Sets `code` and `said`.
try() {
  code=0
  said=$(on_alpha "$@" 2>&1) || code=$?
}
expect() {
  local wanted=$1 text=$2
  shift 2
  try "$@"
  [[ $code == "$wanted" && $said == *"$text"* ]] ||
    fail "$* ended with $code, not $wanted, or does not say '$text':" "$said"
}
rest_of_alpha=$(processes_on alpha) rest_of_beta=$(processes_on beta)

# A command, its streams and its status; the user, and the machine behind another one.
expect 0 "beta: Linux" "$telefork" check ssh://beta
expect 0 "" "$telefork" check ssh://root@beta
[[ $(head -c 3000000 /dev/zero | tr '\0' x | run ssh://beta -- sh -c 'wc -c; hostname') == \
  3000000$'\n'beta ]] || fail "a command by ssh does not read its input"
expect 7 "on beta" "$telefork" run ssh://beta -- sh -c 'echo "on $(hostname)" >&2; exit 7'
expect 0 gamma "$telefork" run ssh://gamma -- hostname
await_rest

# What stands in the way, in ssh's own words.
expect 4 "ssh failed: ssh: Could not resolve hostname no-such-host.invalid" \
  "$telefork" check ssh://no-such-host.invalid
expect 4 "Connection refused" "$telefork" check ssh://nobody-there
expect 125 "unreachable: ssh://nobody-there: ssh failed" "$telefork" run ssh://nobody-there -- true
expect 4 "/nowhere/telepad is not to be found there" \
  env TELEFORK_SSH_TELEPAD=/nowhere/telepad "$telefork" check ssh://beta
expect 1 "starting /nowhere/ssh" env TELEFORK_SSH=/nowhere/ssh "$telefork" check ssh://beta
printf '#!/bin/sh\nprintf TFLINK99xxxx\ncat >/dev/null\n' >"$folder/old telepad"
chmod +x "$folder/old telepad"
expect 3 "link format is 99 there" \
  env TELEFORK_SSH_TELEPAD="$folder/old telepad" "$telefork" check ssh://beta
cp "$folder/other_user.pub" "$folder/authorized_keys"
expect 5 "Permission denied (publickey)" "$telefork" check ssh://beta
expect 125 "not authorised: ssh://beta: " "$telefork" run ssh://beta -- true

# The agent has the key that is asked for now.
eval "$(ssh-agent -a "$folder/agent" | sed 's/^echo.*//')"
agent=$SSH_AGENT_PID
ssh-add -q "$folder/other_user"
echo "IdentitiesOnly no" >"$folder/more_config"
expect 0 "" "$telefork" check ssh://beta
kill "$agent"
agent=""
unset SSH_AUTH_SOCK
cp "$folder/user.pub" "$folder/authorized_keys"
: >"$folder/more_config"

cp "$folder/known_hosts" "$folder/right_hosts"
printf '%s %s\n' "$beta" "$(cat "$folder/other_host.pub")" >"$folder/known_hosts"
expect 5 "REMOTE HOST IDENTIFICATION HAS CHANGED" "$telefork" check ssh://beta
: >"$folder/known_hosts"
expect 5 "Host key verification failed" "$telefork" check ssh://beta
cp "$folder/right_hosts" "$folder/known_hosts"
await_rest

# A connection that is shared is used; none is shared because of us.
printf 'ControlMaster auto\nControlPath %s/control\nControlPersist yes\n' "$folder" \
  >"$folder/more_config"
expect 0 "" "$telefork" check ssh://beta
[[ ! -e $folder/control ]] || fail "telefork's ssh is shared"
on_alpha "$folder/ssh" -fN beta 2>/dev/null
[[ -S $folder/control ]] || fail "ssh does not share its connection"
expect 7 "" "$telefork" run ssh://beta -- sh -c 'exit 7'
[[ -S $folder/control ]] || fail "telefork has ended the shared connection"
on_alpha "$folder/ssh" -O exit beta 2>/dev/null
printf 'LocalForward 9999 localhost:1\nExitOnForwardFailure yes\nRemoteCommand false\nRequestTTY force\n' \
  >"$folder/more_config"
expect 7 "" "$telefork" run ssh://beta -- sh -c 'exit 7'
: >"$folder/more_config"
await_rest

# Whatever of it dies takes all of it along.
leases=(TELEFORK_LEASE_STOP_MS=500 TELEFORK_LEASE_KILL_MS=1000 TELEFORK_LEASE_HOME_MS=2000)
mkfifo "$folder/out"
begin() {
  local line=""
  on_alpha env "${leases[@]}" "$telefork" run ssh://beta -- \
    sh -c 'echo begun; setsid sleep infinity & exec sleep infinity' \
    >"$folder/out" 2>"$folder/err" &
  caller=$!
  exec {from}<"$folder/out"
  IFS= read -r -t 60 -u "$from" line || true
  [[ $line == begun ]] || fail "it did not begin: '$line'" "$(cat "$folder/err")"
}
ends_with_125() {
  local code=0
  wait "$caller" || code=$?
  exec {from}<&-
  ((code == 125)) || fail "it ends with $code" "$(cat "$folder/err")"
  grep -q "lost: ssh://beta: $1" "$folder/err" || fail "it does not say why:" "$(cat "$folder/err")"
  await_rest
}
begin
on_alpha pkill -KILL -x ssh
ends_with_125 "ssh was killed by signal 9"
begin
machine_run beta pkill -KILL -f '^sshd: root@notty'
ends_with_125 ".*"
begin
machine_run beta pkill -KILL -f libexec/telefork/telefork-keeper
ends_with_125 ".*"

# The contract once more, but for up to 256 logins in a row.
# shellcheck disable=SC2046  # these are words
TELEFORK_TEST_NODE=ssh://beta TELEFORK_TEST_HOST=beta on_alpha \
  env $(fork_tests_third 1) "$build/tests/fork/fork_test" --gtest_brief=1 \
  --gtest_filter="-$fork_tests_near:*GivesWaitTheExitCode*"
await_rest
