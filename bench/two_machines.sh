# Two machines joined by a cable, for tools/bench, which sources this after tools/machines.sh:
# benchmarks run on alpha, and beta is the node. Needs $build (absolute), $folder and $samples.
#
#   two_machines_missing        prints what this machine lacks for that; nothing where it lacks nothing
#   two_machines_start          both with a telepad, keys exchanged; once
#   run_on_alpha PROGRAM ARG... a benchmark there
#   $beta                       beta's address: the node, by TLS
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

beta=""
two_machines_start() {
  [[ -z $beta ]] || return 0
  # What failed once would fail again.
  [[ -z $machines_folder ]] || return 1
  machines_begin &&
    mkdir -m 700 "$folder/beta.keys" &&
    "$build/bin/telefork" keygen --keys "$folder/beta.keys" >"$folder/beta.key" &&
    machine_start alpha "$build/bin/telepad" &&
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
