#!/bin/bash
# ssh://HOST for a user who is root on neither machine. Usage: ssh_plain_user.sh BUILD TEST
set -euo pipefail
if [[ ! -x /usr/sbin/sshd ]]; then
  echo "needs: sshd"
  exit 77
fi
source "$(dirname "$0")/../plain/plain.sh"
source "$(dirname "$0")/../fork/near.sh"
# An account that may log in, and one more with other ids; known on these machines alone.
plain_uid=12345 plain_gid=12345 plain_groups=--groups=12345
test=$2
plain_machines "$1" alpha beta
machine_link alpha beta
beta=$(machine_address beta alpha)
folder=$machines_folder
{
  cat /etc/passwd
  printf '%s:*:%s:%s::/run/%s:/bin/bash\n' plain 12345 12345 plain other 12346 12346 other
} >"$folder/passwd"
for name in alpha beta; do
  machine_run "$name" mount --bind "$folder/passwd" /etc/passwd
  for user in plain other; do
    machine_run "$name" install -d -m 700 -o "$user" -g "$(machine_run "$name" id -g "$user")" "/run/$user"
  done
done

for key in user host; do ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$folder/$key"; done
chown "$plain_uid" "$folder/user"
cat >"$folder/sshd_config" <<END_OF_FILE
HostKey $folder/host
AuthorizedKeysFile $folder/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile /run/sshd.pid
SetEnv PATH=$plain_build/bin:/usr/bin:/bin XDG_RUNTIME_DIR=/run/plain
END_OF_FILE
cat >"$folder/ssh_config" <<END_OF_FILE
Host beta
  HostName $beta
  IdentityFile $folder/user
  IdentitiesOnly yes
  UserKnownHostsFile $folder/known_hosts
  StrictHostKeyChecking yes
END_OF_FILE
printf '%s %s\n' "$beta" "$(cat "$folder/host.pub")" >"$folder/known_hosts"
printf '#!/bin/sh\nexec ssh -F "%s" "$@"\n' "$folder/ssh_config" >"$folder/ssh"
chmod 755 "$folder/ssh"
chmod 644 "$folder/passwd" "$folder/ssh_config" "$folder/known_hosts" "$folder/user.pub"
machine_run beta mkdir -p /run/sshd
machine_run beta /usr/sbin/sshd -f "$folder/sshd_config" -E "$folder/sshd.log"
plain_settings=(HOME=/run/plain TMPDIR=/run/plain XDG_RUNTIME_DIR=/run/plain TELEFORK_SOCKET=
  TELEFORK_SSH="$folder/ssh" LD_LIBRARY_PATH="$plain_build/lib")
caller=@/tests/plain/plain_caller telefork=@/bin/telefork

# All of it, by hand.
plain_expect 0 "beta: Linux" alpha "$telefork" check ssh://beta
[[ $said != *"it cannot"* ]] || fail "check finds something in the way:" "$said"
plain_expect 0 $'beta\n12345 12345' alpha "$telefork" run ssh://beta -- sh -c 'hostname; echo $(id -u) $(id -g)'
plain_expect 7 "" alpha "$telefork" run ssh://plain@beta -- sh -c 'exit 7'
plain_expect 0 "forked to beta" alpha "$caller" fork ssh://beta
plain_expect 0 "called on beta" alpha "$caller" run_on ssh://beta

# What takes root, by name.
refused="of user 12345 and group 12345, and ssh://other@beta makes it one of user 12346 and group 12346: \
a process keeps its ids; ask as its user there (ssh://USER@HOST,"
plain_expect 3 "$refused" alpha "$caller" fork ssh://other@beta
plain_expect 3 "$refused" alpha "$caller" run_on ssh://other@beta
plain_expect 0 12346 alpha "$telefork" run ssh://other@beta -- id -u
roots=$(machine_run alpha pgrep -x telepad)
for what in save fork run_on; do
  plain_expect 3 "ask as its user or as root" alpha "$telefork" check "$roots" ssh://beta --for "$what"
done

# Each sentence of a contract, but for those that look for the child among the processes of the
# parent's machine, for a pid that only root's telepad may choose, and for hundreds of logins.
plain_settings+=(TMPDIR="$plain_home" TELEFORK_TEST_NODE=ssh://beta TELEFORK_TEST_HOST=beta
  TELEFORK_TEST_SOCKET= TELEFORK_TEST_TELEPAD="$plain_build/bin/telepad")
# shellcheck disable=SC2207  # these are words
plain_settings+=($(fork_tests_third 2))
plain_run alpha "@/$test" --gtest_brief=1 \
  --gtest_filter="-$fork_tests_near:*KeepsItsPidWhereThatIsFree*:*GivesWaitTheExitCode*:*RunsAHundredAtOnce*"
