# Two machines joined by a cable, for tools/bench, which sources this after tools/machines.sh:
# benchmarks run on alpha, and beta is the node. Needs $build (absolute), $folder and $samples.
#
#   two_machines_missing        prints what this machine lacks for that; nothing where it lacks nothing
#   two_machines_start          both with a telepad, keys exchanged; once
#   run_on_alpha PROGRAM ARG... a benchmark there
#   $beta                       beta's address: the node, by TLS
#   ssh_missing, start_sshd     the same for an sshd on beta, which is then also ssh://beta
#
# All of it ends with machines_end.

two_machines_missing() {
  if [[ $(id -u) != 0 ]]; then
    echo "root, to make machines out of namespaces"
  elif ! unshare --mount --uts --ipc --net --pid --fork true 2>/dev/null; then
    echo "namespaces, to make machines of them"
  elif ! command -v ip >/dev/null; then
    echo "ip, to join machines by a cable (Debian: iproute2)"
  fi
}
ssh_missing() {
  two_machines_missing
  [[ -x /usr/sbin/sshd ]] || echo "sshd (Debian: openssh-server)"
  command -v scp >/dev/null || echo "scp (Debian: openssh-client)"
}

beta=""
two_machines_start() {
  [[ -z $beta ]] || return 0
  # What failed once would fail again.
  [[ -z $machines_folder ]] || return 1
  # For the telepad, whose agents start it. start_sshd makes it.
  export TELEFORK_SSH=$folder/ssh
  machines_begin &&
    mkdir -m 700 "$folder/beta.keys" &&
    "$build/bin/telefork" keygen --keys "$folder/beta.keys" >"$folder/beta.key" &&
    TELEFORK_KEEP_MEMORY_KB=0 machine_start alpha "$build/bin/telepad" &&
    machine_start beta "$build/bin/telepad" --listen '*' --keys "$folder/beta.keys" &&
    machine_link alpha beta &&
    two_machines_trust "$(machine_address beta alpha)" &&
    beta=$(machine_address beta alpha)
}
two_machines_trust() {
  "$build/bin/telefork" trust "$1" "$(cat "$folder/beta.key")" >&2 &&
    "$build/bin/telefork" trust "$("$build/bin/telefork" keygen | tail -n 1)" --as "$(id -un)" \
      --keys "$folder/beta.keys" >&2
}

run_on_alpha() {
  echo "bench: alpha: $*" >&2
  machine_run alpha "$build/bench/$1" "${@:2}" </dev/null >>"$samples"
}

# Both sides take the cipher that this ssh and this sshd agree upon where nobody asks for one: scp and
# telefork are given the same configuration.
start_sshd() {
  [[ ! -e $folder/sshd.log ]] || return 0
  local key bashrc
  for key in user host; do
    ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$folder/$key" || return 1
  done
  cat >"$folder/sshd_config" <<END
HostKey $folder/host
AuthorizedKeysFile $folder/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
SetEnv PATH=$build/bin:/usr/bin:/bin
END
  cat >"$folder/ssh_config" <<END
Host beta
  HostName $beta
  User $(id -un)
  IdentityFile $folder/user
  IdentitiesOnly yes
  UserKnownHostsFile $folder/known_hosts
  StrictHostKeyChecking yes
END
  echo "$beta $(cat "$folder/host.pub")" >"$folder/known_hosts"
  printf '#!/bin/sh\nexec ssh -F "%s" "$@"\n' "$folder/ssh_config" >"$folder/ssh"
  chmod +x "$folder/ssh"
  # bash reads it for commands that come by ssh too, and what it says there would be scp's.
  bashrc=$(getent passwd "$(id -un)" | cut -d: -f6)/.bashrc
  [[ ! -e $bashrc ]] || machine_run beta mount --bind /dev/null "$bashrc" || return 1
  machine_run beta mkdir -p /run/sshd &&
    machine_run beta /usr/sbin/sshd -f "$folder/sshd_config" -E "$folder/sshd.log"
}
# Of the connection to beta, in ssh's words.
ssh_cipher() {
  machine_run alpha "$folder/ssh" -v beta true 2>&1 </dev/null |
    sed -n 's/.*kex: client->server cipher: \([^ ]*\).*/\1/p'
}
