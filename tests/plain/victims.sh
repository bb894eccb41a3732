#!/bin/bash
# Victims (tests/victims) of a user who is not root: a fixed tenth of all that is done to them, or the
# part that GTEST_TOTAL_SHARDS and GTEST_SHARD_INDEX name. Usage: victims.sh BUILD [GTEST_ARGUMENT...]
set -euo pipefail
build=$(realpath "$1")
shift
if [[ $(id -u) != 0 ]]; then
  echo "needs: root, to become another user"
  exit 77
fi
checkout=$(realpath "$(dirname "$0")/../..")
victims=$build/tests/victims/victims_test
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 711 "$folder"
mkdir -m 700 "$folder/home"
chown nobody "$folder/home"
plain=(setpriv --reuid "$(id -u nobody)" --regid "$(id -g nobody)" --clear-groups --reset-env
  env HOME="$folder/home" TMPDIR="$folder/home" XDG_RUNTIME_DIR="$folder/home"
  ASAN_OPTIONS="${ASAN_OPTIONS:-}" GTEST_TOTAL_SHARDS="${GTEST_TOTAL_SHARDS:-10}"
  GTEST_SHARD_INDEX="${GTEST_SHARD_INDEX:-0}")
(($#)) || set -- --gtest_brief=1 '--gtest_filter=Victims/*'

# The programs know each other by their paths, which may lie where only root may look: in the root
# directory a folder stands in the way then, in whose place is one that everybody may pass.
if ! "${plain[@]}" test -x "$victims"; then
  mkdir "$folder/checkout"
  # shellcheck disable=SC2016  # for the inner shell
  plain=(unshare --mount bash -c '
    mount --bind "$1" "$2/checkout" && mount -t tmpfs -o mode=755 tmpfs "/$(cut -d / -f 2 <<<"$1")" &&
      mkdir -p "$1" && mount --bind "$2/checkout" "$1" && shift 2 && exec "$@"' -
    "$checkout" "$folder" "${plain[@]}")
fi
cd /
"${plain[@]}" "$victims" "$@"
