#!/bin/bash
# Servers that are moved with what they have in memory, the address that they listen at, and a thread
# or more: from a machine where they had clients to one where they have others.
# Usage: servers.sh BUILD NGINX POSTGRES, the last the folder that its package was unpacked to
set -euo pipefail
build=$1
nginx=$2
postgres=$3
# shellcheck source=tools/machines.sh
source "$(dirname "$0")/../../tools/machines.sh"
machines_for_test
telefork=$build/bin/telefork
fail() {
  printf '%s\n' "$@" >&2
  exit 1
}
for name in alpha beta; do machine_start "$name" "$build/bin/telepad" --quiet; done
folder=$machines_folder

# Starts a server on alpha and writes its pid there to the file `pid`; it ends with its machine.
start() {
  rm -f "$folder/pid"
  # shellcheck disable=SC2016  # for the inner shell
  machine_run alpha bash -c 'echo $$ >"$0"; exec -a "$1" "${@:2}"' "$folder/pid" "$@" &
}
# Until it answers.
await() { until "$@" >/dev/null 2>&1; do kill -0 "$server"; done; }
move() {
  machine_run alpha "$telefork" move "$(<"$folder/pid")" "$(machine_node beta)" ||
    fail "moving a server failed"
}

# So often; what is to be true of it at each end is asked with the name of the machine.
times_there_and_back() {
  for ((i = 0; i < $1; ++i)); do
    move
    forget alpha
    "$2" beta
    machine_run alpha "$telefork" home "$(<"$folder/pid")" || fail "a server did not come home"
    forget beta
    "$2" alpha
  done
}
there_and_back() { times_there_and_back 5 "$1"; }
# The names of shared memory, which stay where a process has left.
forget() { machine_run "$1" bash -c 'rm -f /dev/shm/*; ipcrm --all=shm'; }

# As its service has it: of a user who may choose no ids for its threads at home. The package with
# that service has the same program by another name.
mkdir "$folder/redis"
chown nobody "$folder/redis"
chmod 755 "$folder"  # for the users that servers are
for name in alpha beta; do machine_run "$name" install -d -o nobody /run/redis; done
# shellcheck disable=SC2016  # for the inner shell
start setpriv setpriv --reuid=nobody --regid=nogroup --clear-groups \
  bash -c 'exec -a redis-server redis-check-rdb "$@"' redis \
  --port 4321 --save '' --dir "$folder/redis" --daemonize no \
  --unixsocket /run/redis/socket --unixsocketperm 700 \
  >"$folder/redis.log"
server=$!
redis() { machine_run "$1" redis-cli -p 4321 "${@:2}"; }
await redis alpha ping
for i in {1..2000}; do echo "set key$i value$i ex 1000"; done | redis alpha --pipe >"$folder/said"
redis alpha eval 'return redis.call("rpush", "list", unpack(redis.call("keys", "key*")))' 0 \
  >>"$folder/said"
has_keys() { [[ $(redis "$1" get key1998) == value1998 ]] || fail "redis has lost a key on $1"; }
there_and_back has_keys
move
[[ $(redis beta get key1999) == value1999 ]] || fail "redis has lost a key"
[[ $(redis beta llen list) == 2000 ]] || fail "redis has lost a list"
(($(redis beta ttl key7) > 900)) || fail "redis has lost a time"
[[ $(machine_run beta redis-cli -s /run/redis/socket get key5) == value5 ]] ||
  fail "redis is not there by its name"
[[ $(machine_run beta stat -c %a /run/redis/socket) == 700 ]] || fail "its name is another's"
# It forks for this, and has the child say how it went.
[[ $(redis beta config set save "100 1" && redis beta bgsave) == *"saving started"* ]] ||
  fail "redis saves nothing"
until [[ $(redis beta info persistence) == *rdb_bgsave_in_progress:0* ]]; do kill -0 "$server"; done
[[ $(redis beta info persistence) == *rdb_last_bgsave_status:ok* && -s $folder/redis/dump.rdb ]] ||
  fail "redis has saved nothing:" "$(<"$folder/redis.log")"
redis beta shutdown nosave || true
wait "$server" || fail "redis ended with $?:" "$(<"$folder/redis.log")"

mkdir "$folder/site"
echo "a page" >"$folder/site/page"
# Its master, who is root, and workers of another user.
cat >"$folder/nginx.conf" <<END
daemon off;
user nobody nogroup;
worker_processes 2;
pid $folder/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path $folder/body;
  proxy_temp_path $folder/proxy;
  fastcgi_temp_path $folder/fastcgi;
  uwsgi_temp_path $folder/uwsgi;
  scgi_temp_path $folder/scgi;
  server { listen 127.0.0.1:4322; root $folder/site; }
}
END
start nginx "$nginx" -p "$folder" -c "$folder/nginx.conf"
server=$!
# shellcheck disable=SC2016  # for the inner shell
get='exec 3<>/dev/tcp/127.0.0.1/4322; printf "GET /page HTTP/1.0\r\n\r\n" >&3; tail -n 1 <&3'
ask() { machine_run "$1" bash -c "$get"; }
await ask alpha
workers() { machine_run beta pgrep -fc 'nginx: worker' || true; }
serves() { [[ $(ask "$1") == "a page" ]] || fail "nginx does not serve on $1"; }
there_and_back serves
move
[[ $(ask beta) == "a page" ]] || fail "nginx does not serve"
[[ $(workers) == 2 ]] || fail "nginx has lost its workers"
# One that is killed has another one begun.
machine_run beta pkill -o -KILL -f 'nginx: worker'
until [[ $(workers) == 2 ]]; do kill -0 "$server"; done
machine_run alpha kill -QUIT "$(<"$folder/pid")"
wait "$server" || fail "nginx ended with $?"

# A database with its background processes, and clients within what moves: a shell began both. They
# are in the middle of their transactions then, and all of these are to be there in the end.
mkdir "$folder/database"
chown nobody "$folder/database"
for name in alpha beta; do
  machine_run "$name" install -d -o nobody /run/postgres
  machine_run "$name" mount --bind "$postgres" /mnt  # for who may not come to that folder
done
cat >"$folder/database.sh" <<'END'
cd "$1/database"
export PATH=/mnt/usr/lib/postgresql/15/bin:/usr/lib/postgresql/15/bin:$PATH
export PGHOST=/run/postgres PGUSER=me PGDATABASE=postgres LC_ALL=C
initdb -A trust -U me --no-sync -D data >initdb.log
postgres -D data -c unix_socket_directories="$PGHOST" -c listen_addresses= -c fsync=off 2>log &
server=$!
until psql -qc 'select' 2>/dev/null; do kill -0 $server; done
psql -qc 'create role asker superuser login'
pgbench -iq 2>>clients.log
pgbench -n -c 2 -t 1500 2>>clients.log || exit 3
until [ -e ../home ]; do kill -0 $server; done
pgbench -n -c 3 -j 2 -t 1000 2>>clients.log || exit 3
psql -Atc 'select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts)
           from pgbench_history'
until [ -e ../asked ]; do kill -0 $server; done
kill -INT $server
wait $server
END
start bash setpriv --reuid=nobody --regid=nogroup --clear-groups \
  bash -eu "$folder/database.sh" "$folder" >"$folder/transactions"
server=$!
# Returns when what has answered has ended too: with a socket to a client that stays it cannot move.
query() {
  machine_run "$1" /usr/lib/postgresql/15/bin/psql -h /run/postgres -U asker -d postgres -Atc "$2"
  while machine_run "$1" pgrep -f '^postgres: asker ' >/dev/null; do kill -0 "$server"; done
}
under_way() { [[ $(query alpha "select count(*) > $1 from pgbench_history") == t ]]; }
await under_way 100
answers() { [[ $(query "$1" 'select count(*) from pgbench_accounts') == 100000 ]] || fail "on $1"; }
there_and_back answers
# With a client of two threads, in the middle of its work.
touch "$folder/home"
await under_way 3100
times_there_and_back 1 true
move
# A background process that is begun there, and what it shares with who asks.
[[ $(query beta "set force_parallel_mode = on; select count(*) from pgbench_accounts") == *100000 ]] ||
  fail "postgres has lost something"
touch "$folder/asked"
wait "$server" || fail "postgres ended with $?:" "$(<"$folder/database/log")"
[[ $(tail -n 1 "$folder/transactions") == "6000|t" ]] ||
  fail "transactions were lost:" "$(<"$folder/transactions")"
