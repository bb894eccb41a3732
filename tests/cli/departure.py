"""What the tests of `move` and `fork` by pid share."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import cli
from cli import call

STEPS_HERE = ("checked", "announced", "frozen", "described", "sent")
SHORT_LEASE = {"TELEFORK_LEASE_STOP_MS": "500", "TELEFORK_LEASE_KILL_MS": "2000",
               "TELEFORK_LEASE_HOME_MS": "4000"}

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

        def find():
            for other, state in cli.processes().items():
                if state == "T" and arguments_of(other)[1:3] == [self.command.encode(), b"%d" % pid]:
                    return other
            return None
        cli.wait_until(find)
        session = find()
        self.addCleanup(kill, session)
        return command, session

    def interrupt(self, command, session):
        """A wish not to have it, which is heard when the session goes on -> stderr."""
        command.send_signal(signal.SIGINT)
        cli.wait_until(lambda: has_taken_signals(command.pid))
        os.kill(session, signal.SIGCONT)
        return command.communicate(timeout=cli.PATIENCE)[1]

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

    def runs_here(self, process, output):
        os.kill(process.pid, signal.SIGUSR1)
        cli.wait_until(lambda: output.read_bytes().endswith(b"\n%d\n" % signal.SIGUSR1))
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)
        cli.wait_until(lambda: not self.guests())

    def kill_keepers(self):
        for pid in cli.processes():
            if arguments_of(pid)[0].endswith(b"telefork-keeper") and self.is_of_this_telepad(pid):
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
