#!/bin/bash
# "Machines" on this one, for the demo and for tests: each has its own network, pids, host name, IPC,
# mounts, /proc, /run and /dev/shm, and a telepad on its default socket. They see the same files
# otherwise; a machine's /run/telefork is the folder $machines_folder/NAME, through which the others
# reach its socket. Needs root.
#
#   source tools/machines.sh
#   trap machines_end EXIT             stops them all; says what is left behind, and then fails
#   machines_begin                     makes the folder $machines_folder for sockets and logs
#   machines_for_test                both, or the end of a test that has to be skipped
#   machine_start alpha TELEPAD ARG... a machine named alpha; returns when its telepad listens
#   machine_here alpha                 this shell's own machine has that name from now on
#   machine_run alpha COMMAND ARG...   runs a command on it, in the current directory
#   machine_node alpha                 prints the NODE by which all machines reach it
#   machine_link alpha beta            joins their networks by a cable: each then has one more address
#   machine_address alpha beta         prints the one that alpha has on its cable to beta
#   machine_stop alpha                 ends it at once, with all that runs there, as a power cut would
#
# Call them from the main shell, not from a subshell: a machine ends with the shell that started it,
# even if that is killed.

declare -gA machine_pid=()    # of each machine's pid 1, as seen from here
declare -gA machine_shell=()  # of the unshare that waits for it
declare -gA machine_namespaces=()  # of all that were ever started: when each ended
machines_late=$((1 << 62))
declare -gA machine_address_of=()  # "alpha beta": alpha's on the cable between them
machine_cables=0
machines_folder=""
machines_script=$(realpath "${BASH_SOURCE[0]}")

machines_begin() {
  if [[ $(id -u) != 0 ]]; then
    echo "machines: making namespaces needs root" >&2
    return 1
  fi
  machines_folder=$(mktemp -d -t telefork-machines.XXXXXX)
}

# For a test, which is skipped without root (tests/CMakeLists.txt).
machines_for_test() {
  if [[ $(id -u) != 0 ]]; then
    echo "needs: root, to make machines out of namespaces"
    exit 77
  fi
  trap machines_end EXIT
  machines_begin
}

machine_here() { machine_pid[$1]=$$; }

machine_node() { echo "unix:$machines_folder/$1/telepad.sock"; }
machine_log() { echo "$machines_folder/$1.log"; }

machine_address() { echo "${machine_address_of["$1 $2"]}"; }

# A pair of virtual Ethernet devices, one in each network; it goes with either.
machine_link() {
  local cable=$((machine_cables++)) end
  ip link add "tf${cable}a" netns "/proc/${machine_pid[$1]}/ns/net" type veth \
    peer name "tf${cable}b" netns "/proc/${machine_pid[$2]}/ns/net"
  machine_address_of["$1 $2"]=10.77.$cable.1
  machine_address_of["$2 $1"]=10.77.$cable.2
  for end in "$1 $2 a" "$2 $1 b"; do
    # shellcheck disable=SC2086  # three words
    set -- $end
    machine_run "$1" ip address add "$(machine_address "$1" "$2")/24" dev "tf$cable$3"
    machine_run "$1" ip link set "tf$cable$3" up
  done
}

machine_start() {
  local name=$1 pid="" ready
  shift
  mkdir -m 755 "$machines_folder/$name"
  mkfifo "$machines_folder/$name.ready"
  # Both ends, so that neither open waits.
  exec {ready}<>"$machines_folder/$name.ready"
  {
    machine_close_descriptors "$ready"
    exec setpriv --pdeathsig KILL \
      unshare --mount --uts --ipc --net --pid --fork --kill-child=KILL \
      bash "$machines_script" "$name" "$machines_folder/$name" "$ready" "$@"
  } </dev/null >"$(machine_log "$name")" 2>&1 &
  machine_shell[$name]=$!
  IFS= read -r -t 10 -u "$ready" pid || pid=""
  exec {ready}>&-
  rm -f "$machines_folder/$name.ready"
  if [[ ! $pid =~ ^[0-9]+$ ]]; then
    machine_fail "$name" "did not start"
    return 1
  fi
  machine_pid[$name]=$pid
  local id
  for id in $(machines_namespaces_of "$pid"); do machine_namespaces[$id]=$machines_late; done
  machine_await_telepad "$name"
}

# A socket that listens has the flag __SO_ACCEPTCON in its network's /proc/net/unix.
machine_await_telepad() {
  local name=$1 tries
  for ((tries = 0; tries < 500; ++tries)); do
    grep -q ' 00010000 .* /run/telefork/telepad.sock$' "/proc/${machine_pid[$name]}/net/unix" \
      2>/dev/null && return 0
    sleep 0.02
  done
  machine_fail "$name" "has no telepad that listens"
  return 1
}

machine_fail() {
  echo "machines: $1 $2" >&2
  cat "$(machine_log "$1")" >&2
}

machine_run() {
  local name=$1
  shift
  (
    machine_close_descriptors
    exec nsenter --target "${machine_pid[$name]}" --root --mount --uts --ipc --net --pid \
      --wdns="$PWD" -- "$@"
  )
}

# All but the standard ones and the given: a descriptor that leaked in, from make or a terminal,
# would have to travel.
machine_close_descriptors() {
  local fd
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    ((fd <= 2 || fd == ${1:-0})) || exec {fd}>&-
  done
}

# The kernel kills what is left in a pid namespace with its pid 1, and waits for it.
machine_stop() {
  local name=$1 id
  for id in $(machines_namespaces_of "${machine_pid[$name]:-0}"); do
    machine_namespaces[$id]=$(machines_now)
  done
  kill -KILL "${machine_pid[$name]:-${machine_shell[$name]}}" 2>/dev/null || true
  { wait "${machine_shell[$name]}"; } 2>/dev/null || true
  unset "machine_pid[$name]" "machine_shell[$name]"
}

machines_end() {
  local name left=""
  [[ -n $machines_folder ]] || return 0
  for name in "${!machine_shell[@]}"; do machine_stop "$name"; done
  rm -rf "$machines_folder"
  left=$(machines_left)
  machines_folder=""
  [[ -z $left ]] || { printf 'machines: left behind:\n%s\n' "$left" >&2; return 1; }
}

# The number of a namespace that has gone is given to the next one, which may be of another test by now:
# what is in that began after the machine's end.
machines_left() {
  local id number type pid command
  for id in "${!machine_namespaces[@]}"; do
    while read -r number type pid command; do
      [[ $number == "$id" ]] || continue
      (($(machines_began "$pid") > machine_namespaces[$id])) ||
        echo "namespace $number $type $pid $command"
    done < <(lsns -n -r -o NS,TYPE,PID,COMMAND)
  done
  grep -F "$machines_folder" /proc/self/mounts || true
  [[ ! -e $machines_folder ]] || echo "folder $machines_folder"
}

# Both in clock ticks since the kernel's start; one that has ended began late (proc_pid_stat(5)).
machines_now() { awk -v ticks="$(getconf CLK_TCK)" '{printf "%d\n", $1 * ticks}' /proc/uptime; }
machines_began() {
  local stat=""
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || true
  # shellcheck disable=SC2086  # words
  set -- ${stat##*) }
  echo "${20:-$machines_late}"
}
machines_namespaces_of() {
  readlink "/proc/$1/ns/"{mnt,uts,ipc,net,pid} 2>/dev/null | tr -dc '0-9\n' || true
}

# Pid 1 of a machine: it reaps, as bash does, whatever ends there without a parent.
machine_init() {
  local name=$1 folder=$2 ready=$3 pid
  shift 3
  # /proc is still that of the machine we are on: our pid as it counts.
  read -r pid _ </proc/self/stat
  hostname "$name"
  mount -t proc proc /proc
  mount -t tmpfs -o mode=755 tmpfs /run
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  mkdir /run/telefork
  mount --bind "$folder" /run/telefork
  ip link set lo up
  "$@" {ready}>&- &
  # It outlives its telepad, so that tests can end that and start another.
  sleep infinity {ready}>&- &
  echo "$pid" >&"$ready"
  exec {ready}>&-
  wait
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  machine_init "$@"
fi
