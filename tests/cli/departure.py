"""What the tests of `move` and `fork` by pid share."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import cli
from cable import Cable
from cli import call

# Of the session process that something is called home to, in their order.
STEPS_BEFORE = ("checked", "return_seen", "taken_home")
STEPS_WHOLE = ("whole", "ready_sent")
STEPS_AFTER = ("go_seen",)
STEPS_HERE = ("checked", "announced", "frozen", "described", "sent")
# Not so short that a machine which stands still for a moment ends what runs on it.
SHORT_LEASE = {"TELEFORK_LEASE_STOP_MS": "500", "TELEFORK_LEASE_KILL_MS": "5000",
               "TELEFORK_LEASE_HOME_MS": "7000"}

# Says which signals it gets, and what its parent has to know at the end.
LISTENER = """
import os, signal, sys
signals = (signal.SIGUSR1, signal.SIGRTMIN + 1, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("ready", os.getpid(), flush=True)
while True:
    info = signal.sigwaitinfo(signals)
    if info.si_signo == signal.SIGTERM:
        sys.exit(9)
    print(info.si_signo, flush=True)
"""


# A parent and a child: what the parent reads the child writes, with what both see of themselves. Each
# counts the SIGUSR1 and SIGINT that it gets.
PAIR = """
import os, signal, sys
counts = {signal.SIGUSR1: 0, signal.SIGINT: 0}
def count(number, frame): counts[number] += 1
for number in counts: signal.signal(number, count)
def told(line):
    return f"{line.strip()} {os.getpid()} {counts[signal.SIGUSR1]} {counts[signal.SIGINT]}"
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.close(w)
    for line in os.fdopen(r):
        if line.startswith("end "): os.kill(os.getpid(), int(line.split()[1]))
        os.write(1, f"{told(line)} {os.getppid()}\\n".encode())
    os._exit(7)
os.close(r)
os.write(1, f"ready {child}\\n".encode())
for line in sys.stdin: os.write(w, f"{told(line)}\\n".encode())
os.close(w)
pid, status = os.waitpid(child, 0)
os.write(1, f"{os.waitstatus_to_exitcode(status)} {pid == child}\\n".encode())
sys.exit(9)
"""


def large_program(megabytes, *signals):
    """Memory of which every page is another one, and what its parent has to know of it. It says which of
    the signals it gets, at SIGUSR2 whether its memory is what it was, and ends at SIGTERM."""
    numbers = sorted(map(int, (*signals, signal.SIGUSR2, signal.SIGTERM)))
    return f"""
import array, os, signal, sys
signals = {numbers}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
memory = array.array("Q", range({megabytes} << 17))
def say(*words): os.write(1, " ".join(map(str, words)).encode() + b"\\n")
say("ready", os.getpid())
while True:
    number = signal.sigwaitinfo(signals).si_signo
    if number == signal.SIGTERM: sys.exit(9)
    if number == signal.SIGUSR2:
        say("all", memory == array.array("Q", range({megabytes} << 17)))
    else:
        say(number)
"""


class Pair:
    passed = (9, b"7 True\n")

    def __init__(self, test, **options):
        self.process = test.start(sys.executable, "-c", PAIR, **options)
        self.pid = self.process.pid
        self.child = int(self.process.stdout.readline().split()[1])
        self.pids = [self.pid, self.child]

    def ask(self, word):
        """-> what both have counted, parent first: ((SIGUSR1, SIGINT), (SIGUSR1, SIGINT))."""
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().split()
        assert [said[0].decode(), int(said[1]), int(said[4]), int(said[7])] \
            == [word, self.pid, self.child, self.pid], said
        return tuple(tuple(map(int, counts)) for counts in (said[2:4], said[5:7]))

    def finish(self):
        """-> the exit code of the parent, what it says of its child."""
        out, _ = self.process.communicate(timeout=cli.PATIENCE)
        return self.process.returncode, out


def arguments_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def sessions():
    return json.loads(call("ps", "--json").stdout)["sessions"]


def is_deputy(pid):
    return os.readlink(f"/proc/{pid}/exe").endswith("telefork-deputy")


def has_taken_signals(pid):
    """None is pending, and it waits for what comes next."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^ShdPnd:\t0+$", text, re.M) and cli.processes()[pid] == "S"


class DepartureTest(cli.NodeTest):
    command = None  # "move" or "fork"

    def start(self, *command, **options):
        streams = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        process = subprocess.Popen(command, **{**streams, **options})
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=cli.PATIENCE)

    def listener(self):
        process = self.start(sys.executable, "-c", LISTENER)
        self.assertEqual(process.stdout.readline(), b"ready %d\n" % process.pid)
        return process

    def guest_of(self, pid):
        """Of whom only the deputy is here -> its pid there."""
        for entry in sessions():
            if entry["pid"] == pid and entry["role"] == "away":
                return entry["guest_pid"]
        return None

    def stopped_at(self, step, pid, *flags, lease=None):
        """A command that stands still at a step -> (the command, its session process)."""
        command = subprocess.Popen(
            [cli.TELEFORK, self.command, str(pid), self.node, "--stop-at", step, *flags],
            env={**os.environ, **(SHORT_LEASE if lease is None else lease)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, command)
        return command, self.standing_still(self.command, pid)

    def stopped_home(self, step, pid):
        """A call home that stands still at a step -> (the command, the session process)."""
        command = subprocess.Popen([cli.TELEFORK, "home", str(pid), "--stop-at", step],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, command)
        return command, self.standing_still("move", pid)

    def standing_still(self, command, pid):
        """The session process of `command`."""
        def find():
            for other, state in cli.processes().items():
                if state == "T" and arguments_of(other)[1:3] == [command.encode(), b"%d" % pid]:
                    return other
            return None
        cli.wait_until(find)
        session = find()
        self.addCleanup(kill, session)
        return session

    def interrupt(self, command, session):
        """A wish not to have it, which is heard when the session goes on -> stderr."""
        command.send_signal(signal.SIGINT)
        cli.wait_until(lambda: has_taken_signals(command.pid))
        os.kill(session, signal.SIGCONT)
        return command.communicate(timeout=cli.PATIENCE)[1]

    def process_with_id(self, wanted):
        last = pathlib.Path("/proc/sys/kernel/ns_last_pid")
        before = last.read_text()
        while True:
            last.write_text(str(wanted - 1))
            pid = os.fork()
            if pid == 0:
                signal.pause()
            self.addCleanup(kill, pid)
            if pid == wanted:
                last.write_text(before)
                return pid
            kill(pid)
            os.waitpid(pid, 0)

    def home_when_ids_are_free(self, pid):
        """Of one that cannot choose ids: whoever begins a process in the very instant gets the one
        that was to be given out next, and it stays there until that is free again."""
        def comes():
            done = call("home", pid)
            if done.returncode == 0:
                return True
            texts = {75: b"another process has come to have its id at this instant",
                     3: b"is taken here"}
            self.assertIn(texts.get(done.returncode, b"no such end"), done.stderr)
            return False
        cli.wait_until(comes)

    def guests(self):
        return [entry for entry in sessions() if entry["role"] == "guest" and
                self.is_of_this_telepad(entry["pid"])]

    def hermit(self):
        """A listener without anything of its parent's -> (the process, where it writes)."""
        output = self.folder / "output"
        with open(output, "wb") as file:
            process = self.start(sys.executable, "-c", LISTENER, stdin=subprocess.DEVNULL,
                                 stdout=file, stderr=file)
        cli.wait_until(lambda: output.read_bytes() == b"ready %d\n" % process.pid)
        return process, output

    def hermits(self):
        """A parent and a child like that, which SIGTERM ends -> (the parent, the child's pid, where
        they write)."""
        output = self.folder / "output"
        code = "import os, signal, sys\n" \
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n" \
            "pid = os.fork()\n" \
            "os.write(1, b'ready\\n')\n" \
            "signal.sigwait([signal.SIGTERM])\n" \
            "if pid: os.kill(pid, signal.SIGTERM); os.wait(); os.write(1, b'done\\n')\n"
        with open(output, "wb") as file:
            process = self.start(sys.executable, "-c", code, stdin=subprocess.DEVNULL, stdout=file,
                                 stderr=file)
        cli.wait_until(lambda: output.read_bytes() == b"ready\nready\n")
        child, = cli.children(process.pid)
        cli.wait_until(lambda: {cli.processes()[pid] for pid in (process.pid, child)} == {"S"})
        return process, child, output

    def runs_here(self, process, output):
        os.kill(process.pid, signal.SIGUSR1)
        cli.wait_until(lambda: output.read_bytes().endswith(b"\n%d\n" % signal.SIGUSR1))
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)
        cli.wait_until(lambda: not self.guests())

    def keepers(self):
        return [pid for pid in cli.processes() if b"/telefork-keeper" in arguments_of(pid)[0] and
                self.is_of_this_telepad(pid)]

    def kill_keepers(self):
        for pid in self.keepers():
            kill(pid)

    def is_of_this_telepad(self, pid):
        while pid > 1:
            if pid == self.telepad.pid:
                return True
            try:
                text = pathlib.Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                return False
            pid = int(text[text.rindex(")") + 2:].split()[1])
        return False


class ByNarrowCable:
    """Of a DepartureTest: to a telepad by TLS, by a cable through which that takes its time."""
    most = 0  # bytes of each connection, after which it stands still instead

    def setUp(self):
        self.environment = {**os.environ, **SHORT_LEASE}
        super().setUp()
        self.addCleanup(self.cable.cut)

    def call(self, *command):
        return call(*command, env=self.environment)

    def done(self, *command):
        done = self.call(*command)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode().strip()

    def start_telepad(self):
        self.environment["XDG_CONFIG_HOME"] = str(self.folder / "config")
        served, log = self.folder / "served", self.folder / "telepad.log"
        key = self.done("keygen", "--keys", served)
        self.done("trust", self.done("keygen"), "--as", "root", "--keys", served)
        with open(log, "wb") as output:
            self.telepad = subprocess.Popen(
                [cli.BIN / "telepad", "--socket", self.folder / "telepad.sock",
                 "--listen", "127.0.0.1:0", "--keys", served], stderr=output)
        cli.wait_until(lambda: call("check", self.node).returncode == 0)
        self.cable = Cable(re.search(r"listening on (\S+)\n", log.read_text())[1],
                           narrow=not self.most, most=self.most)
        self.node = self.cable.node
        self.done("trust", self.node, key)


COPY_STEPS = (*STEPS_HERE[:-1], "forked", "sent")
COPY_STEPS_AWAY = ("given_up", "go_sent", "start_seen")


class CopyTest(DepartureTest):
    command = "fork"

    def setUp(self):
        super().setUp()
        self.homes = []
        self.addCleanup(self.end_copies)

    def end_copies(self):
        for home in self.homes:
            kill(home)
        cli.wait_until(lambda: not any(home in cli.processes() for home in self.homes))

    def fork(self, pid, *flags):
        done = call("fork", pid, self.node, "--json", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        self.homes.append(told["home_pid"])
        return told


class HomeTreeTest(DepartureTest):
    """Of a pair that is moved and called home."""
    command = "move"
    passed = Pair.passed

    def move(self, pid, environment=None):
        done = call("move", pid, self.node, env={**os.environ, **(environment or {})})
        self.assertEqual(done.returncode, 0, done.stderr)

    def home(self, pid, *flags):
        done = call("home", pid, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def away(self, environment=None, **options):
        pair = Pair(self, **options)
        self.move(pair.pid, environment)
        self.are_away(pair)
        return pair

    def are_away(self, pair):
        self.assertEqual([is_deputy(pid) for pid in pair.pids], [True, True])

    def are_home(self, pair):
        self.assertEqual([is_deputy(pid) for pid in pair.pids], [False, False])

    def guests_of(self, pair):
        first = self.guest_of(pair.pid)
        return [first, *cli.children(first)]

    def done(self, command):
        _, self.err = command.communicate(timeout=cli.PATIENCE)
        return command.returncode
