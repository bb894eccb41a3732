#!/bin/bash
# Tests of this folder once more, for a user who is not root.
# Usage: plain_user.sh BUILD VICTIM UNSTOPPABLE NAME_test...
set -euo pipefail
build=$1 victim=$2 unstoppable=$3
shift 3
here=$(dirname "$0")
source "$here/../../tools/machines.sh"
machines_for_test

# The checkout may lie where only root may look: it is mounted where all may, on that machine alone.
chmod 711 "$machines_folder"
mkdir -m 755 "$machines_folder/build" "$machines_folder/tests"
mkdir -m 700 "$machines_folder/tmp"
chown nobody "$machines_folder/tmp"
machine_start alpha bash -c \
  'mount --bind "$1" "$2/build" && mount --bind "$3" "$2/tests" && exec "$2/build/bin/telepad" --quiet' \
  - "$build" "$machines_folder" "$(realpath "$here")"
cd /
for test; do
  machine_run alpha setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups \
    env HOME="$machines_folder/tmp" TMPDIR="$machines_folder/tmp" \
    XDG_RUNTIME_DIR="$machines_folder/tmp" PYTHONDONTWRITEBYTECODE=1 \
    TELEFORK_BIN="$machines_folder/build/bin" \
    TELEFORK_VICTIM="$machines_folder/build/${victim#"$build"/}" \
    TELEFORK_UNSTOPPABLE="$machines_folder/build/${unstoppable#"$build"/}" \
    /usr/bin/python3 "$machines_folder/tests/$test.py" $TF_ONLY 2>&1 | cat  # its stderr is no file of root's
done
