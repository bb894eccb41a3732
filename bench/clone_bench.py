#!/usr/bin/env python3
"""A redis-server that serves meanwhile is cloned: `telefork fork --mode live --leave-fds`. What its clients
get per second meanwhile, against before; for how long it stood still; and whether the clone has every key.
Beside it, at another time of the same load, what redis does itself: BGSAVE, and a server that loads the file.

    clone_bench.py --telefork PATH --node NODE --transport NAME --size 1G --trials N --folder FOLDER

The clone has no socket of its original's: told to end, it saves its data, which a new server loads and is
asked about. The keys that clients write to are others than those that are compared.
"""
import argparse
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

VALUE = 4000  # bytes
KEYS_AT_ONCE = 5000
WINDOW = 3.0  # seconds of undisturbed service
CHECK = """
local wrong = 0
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  if redis.call('get', 'fixed:' .. i) ~= string.rep(string.format('%08d', i), ARGV[3] / 8) then wrong = wrong + 1 end
end
return wrong"""
FILL = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('set', 'fixed:' .. i, string.rep(string.format('%08d', i), ARGV[3] / 8))
end
return 0"""


class Redis:
    """A server of this machine, and one connection to it."""

    def __init__(self, folder):
        # A name in the file system would go with the first clone that ends.
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        # redis-tools has the server too, by another name.
        self.process = subprocess.Popen(
            ["redis-server", "--port", self.port, "--save", "", "--dir", str(folder),
             "--daemonize", "no", "--enable-module-command", "no"],
            executable=shutil.which("redis-check-rdb"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.wire = None
        while self.wire is None:
            if self.process.poll() is not None:
                sys.exit("redis-server has ended")
            try:
                self.wire = self.connect()
                while self.ask("PING") != "PONG":  # it loads its file
                    time.sleep(0.01)
            except OSError:
                self.wire = None
                time.sleep(0.01)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port)).makefile("rwb")

    def ask(self, *words):
        words = [str(word).encode() for word in words]
        self.wire.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        self.wire.flush()
        line = self.wire.readline().strip()
        if line[:1] == b"$":
            return self.wire.read(int(line[1:]) + 2)[:-2].decode()
        if line[:1] == b"-" and not line.startswith(b"-LOADING"):
            raise RuntimeError(line.decode())
        return line[1:].decode()

    def of_info(self, section, name):
        return dict(line.split(":", 1) for line in self.ask("INFO", section).split("\r\n") if ":" in line)[name]

    def served(self):
        return int(self.of_info("stats", "total_commands_processed"))

    def for_all_keys(self, script, keys):
        return sum(int(self.ask("EVAL", script, 0, first, min(first + KEYS_AT_ONCE, keys) - 1, VALUE))
                   for first in range(0, keys, KEYS_AT_ONCE))

    def end(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def clients(redis):
    """Some that write and read without end."""
    process = subprocess.Popen(
        ["redis-benchmark", "-p", redis.port, "-c", "20", "-t", "set,get", "-l", "-n", "1000000", "-r", "100000", "-d", "64", "-q"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Rate:
    """Of commands served, while it lasts."""

    def __init__(self, redis):
        self.redis = redis

    def __enter__(self):
        self.began, self.first = time.monotonic(), self.redis.served()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.began
        self.per_second = (self.redis.served() - self.first) / self.seconds


def undisturbed(redis):
    with Rate(redis) as rate:
        time.sleep(WINDOW)
    return rate.per_second


def await_end(pid):
    with contextlib.suppress(ProcessLookupError):
        end = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        select.select([end], [], [])
        os.close(end)


def clone(arguments, redis, folder):
    """-> (what telefork says, the rate meanwhile)."""
    command = [arguments.telefork, "fork", str(redis.process.pid), arguments.node, "--mode", "live", "--leave-fds", "--json"]
    with Rate(redis) as rate:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.decode())
    told = json.loads(done.stdout)
    file = folder / "dump.rdb"
    await_end(told["home_pid"])
    if not file.exists():
        sys.exit("the clone has saved nothing")
    return told, rate


def own_way(redis, folder, keys):
    """-> (the rate while it saves, seconds to save, seconds until another one has loaded that)."""
    with Rate(redis) as rate:
        redis.ask("BGSAVE")
        while redis.of_info("persistence", "rdb_bgsave_in_progress") == "1":
            time.sleep(0.01)
    began = time.monotonic()
    check_loaded(folder, keys, "BGSAVE")
    return rate, rate.seconds, time.monotonic() - began


def check_loaded(folder, keys, whose):
    other = Redis(folder)
    wrong = other.for_all_keys(CHECK, keys)
    other.end()
    (folder / "dump.rdb").unlink()
    if wrong:
        sys.exit(f"{wrong} of {keys} keys are wrong: {whose}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("telefork", "node", "transport", "size", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--trials", type=int, default=3)
    arguments = parser.parse_args()
    size = int(arguments.size[:-1]) << {"M": 20, "G": 30}[arguments.size[-1]]
    folder = pathlib.Path(arguments.folder) / "redis"
    folder.mkdir()
    keys = size // (VALUE + 96)
    redis = Redis(folder)
    record = {"bench": "live clone", "mode": "live", "transport": arguments.transport, "size": size, "keys": keys}
    samples = {}
    try:
        redis.for_all_keys(FILL, keys)
        # Told to end, its clone saves.
        redis.ask("CONFIG", "SET", "save", "3600 1000000000")
        for _ in range(arguments.trials):
            with clients(redis):
                before = undisturbed(redis)
                told, rate = clone(arguments, redis, folder)
                after = undisturbed(redis)
                usual = statistics.mean((before, after))
            check_loaded(folder, keys, "the clone's")
            with clients(redis):
                usual_then = undisturbed(redis)
                own_rate, saving, loading = own_way(redis, folder, keys)
            for name, value in (("freeze_ms", told["freeze_ms"]), ("watch_ms", told["watch_ms"]),
                                ("command_ms", rate.seconds * 1000),
                                ("percent", 100 * rate.per_second / usual),
                                ("rounds", len(told["rounds"])), ("pages_sent", told["pages_sent"]),
                                ("bgsave_percent", 100 * own_rate.per_second / usual_then),
                                ("bgsave_ms", saving * 1000), ("load_ms", loading * 1000)):
                samples.setdefault(name, []).append(value)
    finally:
        redis.end()
    print(json.dumps({**record, **samples}))


if __name__ == "__main__":
    main()
