#!/usr/bin/env python3
"""telefork fork of a process and all that has come of it: a copy of all of it, while all of it runs
on."""
import json
import os
import pathlib
import re
import signal
import sys

import cli
from cli import call
from departure import (COPY_STEPS, COPY_STEPS_AWAY, CopyTest, arguments_of, is_deputy, kill,
                       sessions)

# A parent and a child, with two pipes between them and memory that they share. On SIGUSR1 the parent
# has the child answer what lies unread in the one pipe, and says what it has heard and what its
# wait() says.
PAIR = """
import mmap, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
shared = mmap.mmap(-1, 4096)
own = bytearray(b"p" * 1000000)
ask, answer = os.pipe(), os.pipe()
parent = os.getpid()
os.write(ask[1], b"unread ")
child = os.fork()
if child == 0:
    os.close(ask[1]); os.close(answer[0])
    own[:] = b"c" * len(own)
    signal.sigwait([signal.SIGUSR1])
    while text := os.read(ask[0], 100):
        assert os.getppid() == parent and own == b"c" * len(own)
        shared[1] += 1
        os.write(answer[1], text)
    os._exit(7)
os.close(ask[0]); os.close(answer[1])
os.write(1, f"ready {child}\\n".encode())
while True:
    signal.sigwait([signal.SIGUSR1])
    shared[0] += 1
    os.kill(child, signal.SIGUSR1)
    os.write(ask[1], b"asked")
    heard = b""
    while not heard.endswith(b"asked"): heard += os.read(answer[0], 100)
    assert own == b"p" * len(own)
    os.close(ask[1])
    pid, status = os.wait()
    counts = shared[0], shared[1] > 0
    try: os.wait()
    except ChildProcessError: break
os.write(1, f"{heard.decode()} {counts} {os.waitstatus_to_exitcode(status)} {pid == child}\\n".encode())
sys.exit(9)
"""
PASSED = b"unread asked (1, True) 7 True\n"


def status_of(pid, name):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return re.search(rf"^{name}:\s*(.*)$", text, re.M)[1]


class ForkTree(CopyTest):
    def pair(self):
        process = self.start(sys.executable, "-c", PAIR)
        process.child = int(process.stdout.readline().split()[1])
        self.addCleanup(kill, process.child)
        cli.wait_until(lambda: {cli.processes()[pid] for pid in (process.pid, process.child)} == {"S"})
        return process

    def copy_passes(self, pair, told):
        os.kill(told["home_pid"], signal.SIGUSR1)
        self.assertEqual(pair.stdout.readline(), PASSED)
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())

    def passes(self, pair):
        """The originals, that nothing has been done to."""
        self.assertEqual(cli.children(pair.pid), [pair.child])
        self.assertEqual(cli.children(pair.child), [])
        self.end_copies()
        os.kill(pair.pid, signal.SIGUSR1)
        out, _ = pair.communicate(timeout=cli.PATIENCE)
        self.assertEqual((pair.returncode, out), (9, PASSED))

    def test_the_pair_passes_by_itself(self):
        self.passes(self.pair())

    def test_both_pass(self):
        pair = self.pair()
        checked, _ = cli.call_json("check", pair.pid, self.node, "--for", "copy")
        self.assertEqual(checked, 0)
        told = self.fork(pair.pid)
        self.assertEqual((told["processes"], told["guest_pid"], told["warnings"]),
                         (2, pair.pid, []))
        self.assertEqual(list(told["steps_ms"]), [*COPY_STEPS, *COPY_STEPS_AWAY])
        self.assertTrue(is_deputy(told["home_pid"]))
        self.assertEqual([is_deputy(pid) for pid in (pair.pid, pair.child)], [False, False])
        self.assertEqual(arguments_of(told["home_pid"]), arguments_of(pair.pid))
        there, = cli.children(told["pid"])
        self.assertEqual(status_of(there, "NSpid").split()[-1], str(pair.child))
        # Nobody holds it there: it may be looked at, and go on from there.
        self.assertEqual(status_of(there, "TracerPid"), "0")
        self.copy_passes(pair, told)
        self.passes(pair)

    def test_copies_to_a_node_of_its_own(self):
        pair = self.pair()
        done = call("fork", pair.pid, "local")
        self.assertEqual(done.returncode, 0, done.stderr)
        text = r"a copy of process (\d+) and 1 more runs on local, as \d+ there and (\d+) here"
        pid, home = map(int, re.search(text, done.stderr.decode()).groups())
        self.assertEqual(pid, pair.pid)
        self.copy_passes(pair, {"home_pid": home})
        self.passes(pair)

    def refused(self, process, *texts):
        """By check and fork in the same words."""
        done = call("fork", process.pid, self.node)
        self.refuses(done, 3, *texts)
        checked = call("check", process.pid, self.node, "--for", "copy")
        self.assertEqual(checked.returncode, 3, checked.stderr)
        self.assertEqual(checked.stdout.splitlines()[1:], done.stderr.splitlines())
        self.assertIsNone(process.poll())

    def keeper(self, code):
        """A parent that has opened a file, and a child for which this is run -> (it, the child)."""
        process = self.start(sys.executable, "-c", f"""
import fcntl, os, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
file = open({str(self.folder / "file")!r}, "w")
child = os.fork()
if child == 0:
    {code}
    os.write(1, b"%d\\n" % os.getpid())
    signal.sigwait([signal.SIGUSR1])
    os._exit(7)
signal.sigwait([signal.SIGUSR1])
os.kill(child, signal.SIGUSR1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
        child = int(process.stdout.readline())
        self.addCleanup(kill, child)
        return process, child

    def test_refuses_what_a_child_keeps(self):
        for code, what in (("fcntl.lockf(file, fcntl.LOCK_EX)", "file"),
                           ("listening = socket.create_server(('127.0.0.1', 0))", "socket:")):
            with self.subTest(code):
                process, child = self.keeper(code)
                self.refused(process, f"refused: process {child} (", what,
                             "the original keeps it, and only one can have it")
                checked, told = cli.call_json("check", process.pid, self.node, "--for", "copy",
                                              "--leave-fds")
                self.assertEqual((checked, len(told["left_home"])), (0, 1), told)
                self.assertRegex(told["left_home"][0], rf"^process {child} \(.*\), fd .*{what}")
                home = self.fork(process.pid, "--leave-fds")["home_pid"]
                os.kill(home, signal.SIGUSR1)
                cli.wait_until(lambda: home not in cli.processes())
                os.kill(process.pid, signal.SIGUSR1)
                self.assertEqual(process.wait(timeout=cli.PATIENCE), 7)

    def ended_there(self, told):
        """-> how many came, by what is said and what is there."""
        there = [told["pid"]]
        for pid in there:
            there += cli.children(pid)
        self.assertEqual(len(there), told["processes"])
        for pid in there:
            kill(pid)
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        return told["processes"]

    def test_refuses_memory_that_a_third_one_shares(self):
        """Of three that share it two are copied."""
        process = self.start(sys.executable, "-c", """
import mmap, os, signal, time
shared = mmap.mmap(-1, 4096)
for generation in range(2):
    if os.fork() != 0: break
os.write(1, b"%d\\n" % os.getpid())
signal.pause()
""")
        pids = sorted(int(process.stdout.readline()) for _ in range(3))
        for pid in pids:
            self.addCleanup(kill, pid)
        middle, = cli.children(process.pid)
        done = call("fork", middle, self.node)
        self.refuses(done, 3, "memory shared with processes that stay cannot move")
        self.assertEqual(self.ended_there(self.fork(middle, "--shared=copy")), 2)
        self.assertEqual(self.ended_there(self.fork(process.pid)), 3)

    def test_it_outlives_the_originals(self):
        pair = self.pair()
        told = self.fork(pair.pid)
        kill(pair.child)
        kill(pair.pid)
        self.assertEqual(pair.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        self.copy_passes(pair, told)

    def test_one_copy_after_the_other(self):
        pair = self.pair()
        told = [self.fork(pair.pid) for _ in range(3)]
        self.assertEqual(len({one["home_pid"] for one in told}), 3)
        for one in told:
            self.copy_passes(pair, one)
        self.passes(pair)

    def test_who_kills_its_pid_kills_the_first_of_the_copy(self):
        """As a parent that is killed at home leaves its children."""
        pair = self.pair()
        told = self.fork(pair.pid)
        there, = cli.children(told["pid"])
        os.kill(told["home_pid"], signal.SIGKILL)
        cli.wait_until(lambda: told["pid"] not in cli.processes())
        self.assertTrue(cli.is_running(there))
        kill(there)
        cli.wait_until(lambda: there not in cli.processes())
        self.passes(pair)

    def test_the_originals_run_on_when_the_session_dies(self):
        """Their snapshots have ended with it, and are reaped by who asked for the copy."""
        for step in COPY_STEPS + COPY_STEPS_AWAY:
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                os.kill(session, signal.SIGKILL)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 1, err)
                self.assertIn(b"%d itself runs on here" % pair.pid, err)
                cli.wait_until(lambda: not self.guests())
                self.passes(pair)

    def test_the_originals_run_on_when_all_of_it_dies(self):
        """Nobody is left to reap the snapshots: nothing of them but their numbers is there."""
        pair = self.pair()
        command, session = self.stopped_at("forked", pair.pid)
        snapshots = [pid for pid in cli.children(pair.pid) if pid != pair.child]
        snapshots += cli.children(pair.child)
        self.assertEqual(len(snapshots), 2)
        command.kill()
        os.kill(session, signal.SIGKILL)
        cli.wait_until(lambda: {cli.processes()[pid] for pid in snapshots} == {"Z"})
        os.kill(pair.pid, signal.SIGUSR1)
        self.assertEqual(pair.communicate(timeout=cli.PATIENCE)[0], PASSED)
        self.assertEqual(pair.returncode, 9)

    def test_the_copy_is_of_one_instant(self):
        """What the originals do while their snapshots are read is none of it."""
        pair = self.pair()
        command, session = self.stopped_at("forked", pair.pid)
        os.kill(pair.pid, signal.SIGUSR1)
        self.assertEqual(pair.stdout.readline(), PASSED)
        self.assertEqual(pair.wait(timeout=cli.PATIENCE), 9)
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        home, = [entry["pid"] for entry in sessions() if entry["guest_pid"] == self.guests()[0]["pid"]
                 and entry["role"] == "away"]
        self.copy_passes(pair, {"home_pid": home})

    def test_a_wish_not_to_have_it_is_heard_until_it_is_given_up(self):
        for step in COPY_STEPS:
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"interrupted while copying", err)
                self.assertEqual(self.guests(), [])
                self.passes(pair)

    def test_the_originals_run_on_when_the_node_dies(self):
        for step in COPY_STEPS + COPY_STEPS_AWAY[:1]:
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"runs on here", err)
                self.passes(pair)

    def test_the_pid_of_the_copy_ends_with_the_node(self):
        pair = self.pair()
        told = self.fork(pair.pid)
        self.kill_keepers()
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        self.passes(pair)


if __name__ == "__main__":
    cli.main()
