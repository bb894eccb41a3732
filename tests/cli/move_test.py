#!/usr/bin/env python3
"""telefork move: a running process that knows nothing of it, to a telepad of the same machine."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

import cli
from cli import call

STEPS_HERE = ("checked", "announced", "frozen", "described", "sent")
STEPS_AWAY = ("given_up", "go_sent", "start_seen")
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


class Move(cli.NodeTest):
    def start(self, *command, **options):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, **options)
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

    def is_away(self, pid):
        return os.readlink(f"/proc/{pid}/exe").endswith("telefork-deputy")

    def move(self, pid, *flags):
        done = call("move", pid, self.node, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(self.is_away(pid))
        return done

    def guest_of(self, pid):
        """Of whom only the deputy is here -> its pid there."""
        for entry in json.loads(call("ps", "--json").stdout)["sessions"]:
            if entry["pid"] == pid and entry["role"] == "away":
                return entry["guest_pid"]
        return None

    def test_moves_a_process_with_threads(self):
        victim = self.victim(4, 8, __file__)
        self.move(victim.pid)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_moves_one_of_one_thread_with_json(self):
        victim = self.victim(0)
        done = self.move(victim.pid, "--json")
        told = json.loads(done.stdout)
        self.assertEqual((told["guest_pid"], told["node"], told["mode"], told["warnings"]),
                         (victim.pid, self.node, "eager", []))
        self.assertGreater(told["pages_sent"], 256)
        self.assertGreater(told["bytes_sent"], told["pages_sent"] * 4096)
        shares = told["steps_ms"]
        self.assertEqual(list(shares), [*STEPS_HERE, *STEPS_AWAY, "hollowed"])
        self.assertLessEqual(sum(shares.values()), told["total_ms"])
        self.assertEqual(self.guest_of(victim.pid), told["pid"])
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_moves_to_a_node_of_its_own(self):
        victim = self.victim(2, 4)
        done = call("move", victim.pid, "local")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_check_says_the_same(self):
        victim = self.victim(1)
        self.assertEqual(call("check", victim.pid, self.node).returncode, 0)
        reader, writer = os.pipe()
        process = self.start(sys.executable, "-c", LISTENER, pass_fds=(reader,))
        process.stdout.readline()
        self.refuses(call("move", process.pid, self.node), 3, f"fd {reader} -> pipe:")
        checked = call("check", process.pid, self.node)
        self.assertEqual(checked.returncode, 3, checked.stderr)
        self.assertIn(f"fd {reader} -> pipe:".encode(), checked.stdout)
        os.close(reader)
        os.close(writer)
        self.assertFalse(self.is_away(process.pid))

    def test_signals_reach_it_and_none_twice(self):
        process = self.listener()
        realtime = signal.SIGRTMIN + 1
        # Not taken yet when it stops: they go with it.
        os.kill(process.pid, signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes()[process.pid] == "T")
        self.refuses(call("move", process.pid, self.node), 3, "it is stopped")
        os.kill(process.pid, signal.SIGCONT)
        for _ in range(20):
            os.kill(process.pid, realtime)
        self.move(process.pid)
        os.kill(process.pid, signal.SIGUSR1)
        told = [process.stdout.readline() for _ in range(21)]
        self.assertEqual(sorted(told), sorted([b"%d\n" % realtime] * 20 +
                                              [b"%d\n" % signal.SIGUSR1]))
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.communicate(timeout=cli.PATIENCE), (b"", b""))
        self.assertEqual(process.returncode, 9)

    def test_pending_signals_go_with_it_once(self):
        held = "import os, signal, sys\n" \
            "signals = (signal.SIGUSR1, signal.SIGRTMIN + 1)\n" \
            "signal.pthread_sigmask(signal.SIG_BLOCK, signals)\n" \
            "print('ready', flush=True); sys.stdin.readline()\n" \
            "while (info := signal.sigtimedwait(signals, 0)): print(info.si_signo)\n"
        process = self.start(sys.executable, "-c", held)
        process.stdout.readline()
        for number in (signal.SIGUSR1, signal.SIGRTMIN + 1, signal.SIGRTMIN + 1):
            os.kill(process.pid, number)
        self.move(process.pid)
        out, err = process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(out.split(), [b"%d" % signal.SIGUSR1] + [b"%d" % (signal.SIGRTMIN + 1)] * 2)
        self.assertEqual((err, process.returncode), (b"", 0))

    def test_its_parent_sees_it_stop_continue_and_die(self):
        process = self.listener()
        self.move(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        guest = self.guest_of(process.pid)
        cli.wait_until(lambda: cli.processes()[guest] == "T")
        os.kill(process.pid, signal.SIGCONT)
        _, status = os.waitpid(process.pid, os.WCONTINUED)
        self.assertTrue(os.WIFCONTINUED(status))
        os.kill(process.pid, signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), b"%d\n" % signal.SIGUSR1)
        os.kill(process.pid, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        cli.wait_until(lambda: guest not in cli.processes())

    def test_refuses_what_cannot_move(self):
        self.refuses(call("move", 2**22 - 1, self.node), 3, "there is no such process")
        parent = self.start("sh", "-c", "sleep 1000 & echo $!; wait")
        child = int(parent.stdout.readline())
        self.addCleanup(os.kill, child, signal.SIGKILL)
        self.refuses(call("move", parent.pid, self.node), 3, "it has children")
        self.refuses(call("move", parent.pid, "unix:/nowhere"), 4, "/nowhere")
        self.refuses(call("move", parent.pid, ""), 2)
        self.refuses(call("move", "x", self.node), 2)
        self.assertIsNone(parent.poll())

    def stopped_at(self, step, victim):
        """A move that stands still at a step -> (the command, its session process)."""
        environment = {**os.environ, **SHORT_LEASE}
        command = subprocess.Popen(
            [cli.TELEFORK, "move", str(victim.pid), self.node, "--stop-at", step],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, command)

        def find():
            for pid, state in cli.processes().items():
                if state == "T" and arguments_of(pid)[1:3] == [b"move", b"%d" % victim.pid]:
                    return pid
            return None
        cli.wait_until(find)
        session = find()
        self.addCleanup(kill, session)
        return command, session

    def test_it_goes_on_here_when_the_move_dies(self):
        """From when it is given up on, not before its lease is over: it may run there."""
        for step in STEPS_HERE + STEPS_AWAY:
            with self.subTest(step):
                victim = self.victim(3, 2)
                command, session = self.stopped_at(step, victim)
                os.kill(session, signal.SIGKILL)
                self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_the_pid_ends_when_the_session_dies_later(self):
        victim = self.victim(3, 2, stderr=subprocess.PIPE)
        command, session = self.stopped_at("hollowed", victim)
        os.kill(session, signal.SIGKILL)
        out, err = victim.process.communicate(b"go\n", timeout=cli.PATIENCE)
        self.assertEqual((victim.process.returncode, out), (125, b""))
        self.assertIn(b"what became of the guest is not known", err)

    def test_a_wish_not_to_move_is_heard_until_it_is_given_up(self):
        for step in STEPS_HERE:
            with self.subTest(step):
                victim = self.victim(3, 2)
                command, session = self.stopped_at(step, victim)
                command.send_signal(signal.SIGINT)
                cli.wait_until(lambda: self.has_taken_signals(command.pid))
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"interrupted while moving", err)
                self.assertFalse(self.is_away(victim.pid))
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def has_taken_signals(self, pid):
        """None is pending, and it waits for what comes next."""
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
        return re.search(r"^ShdPnd:\t0+$", text, re.M) and cli.processes()[pid] == "S"

    def test_it_goes_on_here_when_the_node_dies(self):
        for step in STEPS_HERE + ("given_up",):
            with self.subTest(step):
                victim = self.victim(3, 2)
                command, session = self.stopped_at(step, victim)
                for pid in cli.processes():
                    if (arguments_of(pid)[0].endswith(b"telefork-keeper") and
                            self.is_of_this_telepad(pid)):
                        os.kill(pid, signal.SIGKILL)
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"runs on here", err)
                self.assertEqual(victim.finish(), (42, b"pass\n"))

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


if __name__ == "__main__":
    cli.main()
