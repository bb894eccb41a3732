#!/bin/bash
# Victims (tests/victims) that go to another machine, by TLS over a cable: a fixed tenth of all that is
# done to them with a node, or the part that GTEST_TOTAL_SHARDS and GTEST_SHARD_INDEX name.
# Usage: victims.sh BUILD [GTEST_ARGUMENT...]
#
# The runner looks at processes at both ends: so home is a machine of its own by network, name and
# IPC, and has the pids of the one we are on, where those of the other one are seen too.
set -euo pipefail
build=$(realpath "$1")
shift
script=$(realpath "$0")
# shellcheck source=tools/machines.sh
source "$(dirname "$script")/../../tools/machines.sh"
source "$(dirname "$script")/meet.sh"
if [[ $(id -u) == 0 && ${victims_sh_is_home:-} != yes ]]; then
  victims_sh_is_home=yes exec unshare --net --uts --ipc "$script" "$build" "$@"
fi
unset victims_sh_is_home
machines_for_test
hostname alpha
ip link set lo up
machine_here alpha
# shellcheck disable=SC2034  # for meet.sh
telefork=$build/bin/telefork
export XDG_CONFIG_HOME=$machines_folder/asking
meet_prepare beta
machine_start beta "$build/bin/telepad" --quiet
machine_link alpha beta
meet_introduce alpha beta root

(($#)) || set -- --gtest_brief=1 '--gtest_filter=Victims/*:-*/None.*:*/File.*'
TELEFORK_COMPRESS=zstd TELEFORK_VICTIMS_NODE=$(machine_address beta alpha) \
  TELEFORK_VICTIMS_KEYS=$machines_folder/keys.beta \
  TELEFORK_VICTIMS_MACHINE=${machine_pid[beta]} GTEST_TOTAL_SHARDS=${GTEST_TOTAL_SHARDS:-10} \
  GTEST_SHARD_INDEX=${GTEST_SHARD_INDEX:-0} "$build/tests/victims/victims_test" "$@"
