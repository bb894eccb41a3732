# For tests of a user who is not root, on machines that root has made. Sourced.
#
#   plain_machines BUILD alpha beta    starts them; what was built lies where that user may look too
#   plain_run alpha COMMAND ARG...     as that user, with the settings of plain_settings
#   plain_expect CODE TEXT alpha COMMAND ARG...     and it ends so, and says that
#   plain_telepad alpha                that user's own telepad; its node is $plain_node
#
# In the commands @ is the folder of what was built.
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/machines.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../links/meet.sh"

# A telepad looks its users up.
plain_uid=$(id -u nobody)
plain_gid=$(id -g nobody)
plain_groups=--clear-groups
plain_build=/run/build
plain_settings=()
plain_node=""

plain_machines() {
  local build=$1 name
  shift
  machines_for_test
  chmod 711 "$machines_folder"
  plain_home=$machines_folder/home
  mkdir -m 700 "$plain_home" "$plain_home/run"
  chown -R "$plain_uid:$plain_gid" "$plain_home"
  plain_settings=(HOME="$plain_home" TMPDIR="$plain_home" XDG_RUNTIME_DIR="$plain_home/run"
    TELEFORK_SOCKET= LD_LIBRARY_PATH="$plain_build/lib")
  cd /
  for name in "$@"; do
    machine_start "$name" bash -c \
      'mkdir "$2" && mount --bind "$1" "$2" && exec "$2/bin/telepad" --quiet' - "$build" "$plain_build"
  done
}

plain_run() {
  local name=$1
  shift
  machine_run "$name" setpriv --reuid "$plain_uid" --regid "$plain_gid" "$plain_groups" \
    env "${plain_settings[@]}" "${@/#@/$plain_build}"
}

# Of any command. Sets `said`.
expect() {
  local wanted=$1 text=$2 code=0
  shift 2
  said=$("$@" 2>&1) || code=$?
  [[ $code == "$wanted" && $said == *"$text"* ]] ||
    fail "$* ended with $code, not $wanted, or does not say '$text':" "$said"
}
plain_expect() {
  local wanted=$1 text=$2
  shift 2
  expect "$wanted" "$text" plain_run "$@"
}

# The first line of what it says is told when it listens, unless it has more to say before.
plain_telepad() {
  local name=$1 line=""
  mkfifo "$machines_folder/$name.plain"
  plain_run "$name" @/bin/telepad >"$machines_folder/$name.plain" 2>&1 &
  plain_telepad=$!
  exec {plain_said}<"$machines_folder/$name.plain"
  plain_telepad_says=""
  while IFS= read -r -t 60 -u "$plain_said" line; do
    plain_telepad_says+=$line$'\n'
    [[ $line != *listening* ]] || break
  done
  plain_node=unix:${line##* }
}
