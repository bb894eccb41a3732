# For tests with machines (tools/machines.sh) that meet by TCP. Sourced after it.
#
#   telefork=$build/bin/telefork
#   meet_prepare beta                  a key for beta's telepad; start it with $(meet_options beta)
#   export XDG_CONFIG_HOME=$machines_folder/asking     where who asks has key and known nodes
#   meet_introduce alpha beta USER     who asks, from alpha, is USER on beta from now on

meet_options() { echo "--listen * --keys $machines_folder/keys.$1"; }

meet_prepare() { "$telefork" keygen --keys "$machines_folder/keys.$1" >"$machines_folder/$1.key"; }

meet_introduce() {
  local key
  key=$("$telefork" keygen --force)
  "$telefork" trust "$(machine_address "$2" "$1")" "$(cat "$machines_folder/$2.key")" >/dev/null
  "$telefork" trust "$key" --as "$3" --keys "$machines_folder/keys.$2" >/dev/null
}

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}
