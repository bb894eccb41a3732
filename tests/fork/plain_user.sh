#!/bin/bash
# Tests once more, for a user who is not root.
#
#   plain_user.sh alone  BUILD TEST   everything is that user's own: the agent, the telepad, the keeper
#   plain_user.sh own    BUILD TEST   the same, and the child is on another machine, at a telepad of that
#                                     user's
#   plain_user.sh served BUILD TEST   the agent and the keeper come from root's telepads, which become that
#                                     user; the child is on another machine, where its pid is free
set -euo pipefail
how=$1 build=$2 test=$3
user=nobody  # a telepad looks its users up
source "$(dirname "$0")/../../tools/machines.sh"
source "$(dirname "$0")/near.sh"
machines_for_test

# The checkout may lie where only root may look; a bind mount is seen through its own path alone.
# What is mounted goes with the mount namespace of each machine.
home=$machines_folder/home
chmod 711 "$machines_folder"
mkdir -m 755 "$home" "$machines_folder/build"
mkdir -m 700 "$home/tmp" "$home/run"
chown "$user" "$home/tmp" "$home/run"

cd /
settings=(HOME="$home/tmp" TMPDIR="$home/tmp" XDG_RUNTIME_DIR="$home/run"
  LD_LIBRARY_PATH="$machines_folder/build/lib"
  TELEFORK_TEST_TELEPAD="$machines_folder/build/bin/telepad")
run_with_groups() {
  local group=$1 groups=$2
  shift 2
  machine_run alpha setpriv --reuid "$user" --regid "$group" "$groups" env "${settings[@]}" \
    "$machines_folder/build/$test" --gtest_brief=1 "$@"
}
run_as_user() { run_with_groups "$(id -g "$user")" --clear-groups "$@"; }
# Without those that look for the child among the processes of the parent's machine.
run_far_as_user() {
  run_as_user --gtest_filter="-$fork_tests_near${1-}"
}
start() {
  machine_start "$1" bash -c 'mount --bind "$1" "$2" && exec "$2/bin/telepad" --quiet' - \
    "$build" "$machines_folder/build"
}

start alpha
if [[ $how == alone ]]; then
  settings+=(TELEFORK_TEST_NODE=local)
  run_as_user
  # An id that is unlike the others is named, and not those that are alike.
  said=$(machine_run alpha env "${settings[@]}" python3 -c '
import ctypes, os, sys
library = ctypes.CDLL("libtelefork.so")
library.telefork_error.restype = ctypes.c_char_p
os.setgroups([])
os.setresgid(*[int(sys.argv[2])] * 3)
os.setresuid(int(sys.argv[1]), int(sys.argv[1]), 0)
for fd in range(3, 64):
    try: os.close(fd)
    except OSError: pass
assert library.telefork_fork(b"local") == -1
print(library.telefork_error().decode())' "$(id -u "$user")" "$(id -g "$user")")
  [[ $said == *"is of user $(id -u "$user"), 0 and group $(id -g "$user"), and local makes it one of user "* ]] ||
    { echo "said: $said"; exit 1; }
  [[ $said == *"real, effective and saved ids alike"* ]]
elif [[ $how == own ]]; then
  start beta
  # Each machine's own, by the same name.
  settings+=(XDG_RUNTIME_DIR=/run/plain)
  for name in alpha beta; do machine_run "$name" install -d -m 700 -o "$user" /run/plain; done
  mkfifo "$machines_folder/said"
  machine_run beta setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
    env "${settings[@]}" "$machines_folder/build/bin/telepad" --socket "$home/run/beta.sock" \
    >"$machines_folder/said" 2>&1 &
  exec {said}<"$machines_folder/said"
  line=""
  until [[ $line == *listening* ]]; do IFS= read -r -t 60 -u "$said" line; done
  cat <&"$said" >/dev/null &
  settings+=(TELEFORK_TEST_NODE=unix:"$home/run/beta.sock")
  # shellcheck disable=SC2207  # these are words
  settings+=($(fork_tests_third 1))
  run_far_as_user ':*KeepsItsPidWhereThatIsFree*'  # which only root's telepad may choose
else
  start beta
  settings+=(TELEFORK_TEST_NODE="$(machine_node beta)" TELEFORK_TEST_SOCKET=/run/telefork/telepad.sock)
  # Those of the process itself count, and not those that the account has.
  run_with_groups 1 --groups=4,24 --gtest_filter='*HasTheIdsOfItsParent*'
  all=("${settings[@]}")
  # shellcheck disable=SC2207  # these are words
  settings+=($(fork_tests_third 0))
  run_far_as_user
  settings=("${all[@]}")
  # One of whom the machines know no more than the number.
  user=54399
  if getent passwd "$user"; then exit 1; fi
  chown "$user" "$home/tmp" "$home/run"
  some='*HasTheIdsOfItsParent*:*RunsThereAndReturnsHere*'
  run_with_groups "$user" --clear-groups --gtest_filter="$some"
  settings+=(TELEFORK_TEST_NODE=local)
  run_with_groups "$user" --clear-groups --gtest_filter="$some"
fi
