#!/bin/bash
# The examples across two machines; each compares its result with a local one, or says where it ran.
# Usage: examples.sh BUILD
set -euo pipefail
source "$(dirname "$0")/../../tools/machines.sh"
machines_for_test
for name in alpha beta; do machine_start "$name" "$1/bin/telepad" --quiet; done

expect() {
  local wanted=$1 got
  shift
  got=$(machine_run alpha "$@" 2>&1) || { printf '%s\n' "$got" >&2; exit 1; }
  [[ $got =~ $wanted ]] || { printf '%s:\n%s\n' "$*" "$got" >&2; exit 1; }
}
expect "forked on alpha, running on beta.*my child [0-9]+ ended with 42" \
  "$1/bin/hello_fork" "$(machine_node beta)"
expect "the same table" "$1/bin/word_count" "$(machine_node beta)" "$(machine_node alpha)"
[[ ! -x $1/bin/render ]] || {
  "$1/bin/make_mesh" "$machines_folder/knot.obj"
  for node in local "$(machine_node beta)"; do
    expect "traced 65536 triangles" "$1/bin/render" -o "$machines_folder/${node%%:*}.png" -s 1 \
      "$machines_folder/knot.obj" "$node"
  done
  cmp "$machines_folder/local.png" "$machines_folder/unix.png"
  # Before anything is traced: the light of a long picture is not for nothing.
  ! said=$("$1/bin/render" -o "$machines_folder/none/knot.png" "$machines_folder/knot.obj" local 2>&1)
  [[ $said == *"none/knot.png cannot be written: No such file or directory"* &&
    $said != *traced* ]] || { printf '%s\n' "$said" >&2; exit 1; }
  # A face that names what is not there: file, line and index.
  mesh=$machines_folder/bad.obj
  while read -r face why; do
    printf 'v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 1\nf %s\n' "${face//,/ }" > "$mesh"
    ! said=$("$1/bin/render" -o "$machines_folder/bad.png" "$mesh" local 2>&1)
    [[ $said == "render: $mesh:5: $why" ]] || { printf '%s\n' "$said" >&2; exit 1; }
  done <<'END'
1,2,4 there is no vertex 4, of the 3 before this line
1,2,-4 there is no vertex -4, of the 3 before this line
0,1,2 there is no vertex 0, of the 3 before this line
1//1,2//1,3//2 there is no normal 2, of the 1 before this line
1,x,3 'x' is no index
1,2,99999999999999999999 '99999999999999999999' is no index
END
}
