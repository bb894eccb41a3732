#!/usr/bin/env python3
"""telefork move and fork of processes that belong together, whose memory follows them (--mode lazy),
by a cable through which that takes its time."""
import json
import os
import signal
import subprocess
import sys

import cli
from departure import STEPS_HERE, is_deputy
from lazy_test import Narrow

MEGABYTES = 6

# Three processes, each the child of the one before. Every page of what each has of its own is another
# one; what was there before they were three each has changed since, in a place of its own. They say
# which signals they get, and end at SIGTERM, each with its child.
PROGRAM = f"""
import array, os, signal, sys
signals = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
count = {MEGABYTES} << 17
common = array.array("Q", range(count))
child = place = 0
while place < 2:
    child = os.fork()
    if child: break
    place += 1
def what_it_has(): return array.array("Q", range(place + 1 << 40, (place + 1 << 40) + count))
own = what_it_has()
common[place] = 4711
def say(*words): os.write(1, " ".join(map(str, words)).encode() + b"\\n")
def is_whole():
    as_it_was = array.array("Q", range(count))
    as_it_was[place] = 4711
    return own == what_it_has() and common == as_it_was
say("ready", place, os.getpid())
while True:
    number = signal.sigwaitinfo(signals).si_signo
    if number == signal.SIGUSR2:
        say(place, "whole", is_whole())
    elif number == signal.SIGTERM:
        if not child: sys.exit(7)
        try: os.kill(child, number)
        except ProcessLookupError: pass
        say(place, "child", os.waitstatus_to_exitcode(os.wait()[1]))
        sys.exit(9)
    else:
        say(place, number)
"""


class Narrowly(Narrow):
    def setUp(self):
        super().setUp()
        self.pids = []

    def three(self, **options):
        process = self.start(sys.executable, "-c", PROGRAM, process_group=0, **options)
        self.addCleanup(self.end_all)
        said = sorted(process.stdout.readline().split() for _ in range(3))
        self.pids = [int(words[2]) for words in said]
        self.assertEqual(self.pids[0], process.pid)
        return process

    def end_all(self):
        for pid in self.pids:
            if pid in cli.processes():
                os.kill(pid, signal.SIGKILL)

    def expect_all(self, process, lines):
        said = [process.stdout.readline().strip().decode() for _ in lines]
        self.assertEqual(sorted(said), sorted(lines))

    def are_whole(self, process, places=range(3)):
        for place in places:
            os.kill(self.pids[place], signal.SIGUSR2)
            self.expect(process, f"{place} whole True")

    def all_end(self, process, middle=("1 child 7", "0 child 9")):
        os.kill(process.pid, signal.SIGTERM)
        self.expect(process, *middle)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)
        cli.wait_until(lambda: not set(self.pids) & set(cli.processes()))

    def guests_of(self, pid):
        guests = [self.guest_of(pid)]
        while children := cli.children(guests[-1]):
            guests += children
        return guests


class Move(Narrowly):
    command = "move"

    def away(self, *flags, **options):
        process = self.three(**options)
        told = self.go(process.pid, *flags)
        self.assertEqual(told["processes"], 3)
        self.follow()
        return process

    def follow(self):
        """They are elsewhere, and whole here."""
        self.assertEqual([is_deputy(pid) for pid in self.pids], [False] * 3)
        entry = self.entry(self.pids[0])
        self.assertEqual((entry["mode"], entry["state"], entry["memory_follows"]),
                         ("lazy", "away", True))
        missing = self.entry(entry["guest_pid"], "guest")["pages_missing"]
        # Of more than one of them.
        self.assertGreater(missing, MEGABYTES << 9)

    def all_comes(self):
        self.cable.widen()
        cli.wait_until(lambda: not self.entry(self.pids[0])["memory_follows"])
        guest = self.guest_of(self.pids[0])
        cli.wait_until(lambda: self.entry(guest, "guest")["pages_missing"] == 0)

    def go_on_here(self, process, places=range(3), **ends):
        done = self.call("resume", process.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIsNone(self.entry(process.pid))
        self.are_whole(process, places)
        self.all_end(process, **ends)

    def test_they_run_there_before_their_memory_has_come(self):
        process = self.away()
        for place in range(3):
            os.kill(self.pids[place], signal.SIGUSR1)
            self.expect(process, f"{place} {int(signal.SIGUSR1)}")
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
            self.expect_all(process, [f"{place} {int(signal.SIGINT)}" for place in range(3)])
        self.follow()
        self.refuses(self.call("move", process.pid, self.node), 3, "its memory still follows it")
        # It needs all of it at once.
        os.kill(self.pids[2], signal.SIGUSR2)
        self.expect(process, "2 whole True")
        self.all_comes()
        self.assertEqual([is_deputy(pid) for pid in self.pids], [True] * 3)
        self.are_whole(process)
        self.all_end(process)

    def test_each_stops_and_ends_as_it_does_there(self):
        process = self.away()
        guests = self.guests_of(process.pid)

        def are(place, states):
            return lambda: all(cli.processes()[pid] in states
                               for pid in (self.pids[place], guests[place]))
        os.kill(self.pids[1], signal.SIGSTOP)
        cli.wait_until(are(1, "Tt"))
        os.kill(self.pids[1], signal.SIGCONT)
        cli.wait_until(are(1, "S"))
        os.kill(guests[2], signal.SIGSTOP)
        cli.wait_until(are(2, "Tt"))
        os.kill(guests[2], signal.SIGCONT)
        cli.wait_until(are(2, "S"))
        # It is whole here until all of them may be lost.
        os.kill(guests[2], signal.SIGKILL)
        cli.wait_until(lambda: not cli.is_running(guests[2]))
        self.assertIn(self.pids[2], cli.processes())
        self.all_comes()
        cli.wait_until(lambda: self.pids[2] not in cli.processes())
        self.are_whole(process, (0, 1))
        self.all_end(process, ("1 child -9", "0 child 9"))

    def test_come_home_when_all_has_gone(self):
        process = self.away()
        command = self.start(cli.TELEFORK, "home", str(process.pid))
        self.assertIn(b"waiting for its memory", command.stderr.readline())
        self.cable.widen()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.assertIsNone(self.entry(process.pid))
        self.are_whole(process)
        self.all_end(process)

    def test_are_held_when_their_node_is_lost(self):
        process = self.away()
        self.kill_keepers()
        self.is_held(process)
        self.go_on_here(process)
        self.assertIn(f"`telefork resume {process.pid}` takes them up", process.stderr.read().decode())

    def test_are_held_when_nobody_is_left_here(self):
        process = self.away()
        os.kill(self.session_of(process.pid), signal.SIGKILL)
        self.is_held(process)
        self.go_on_here(process)

    def test_one_that_is_killed_here_takes_its_memory_along(self):
        process = self.away()
        guests = self.guests_of(process.pid)
        os.kill(self.pids[2], signal.SIGKILL)
        self.is_held(process)
        cli.wait_until(lambda: not set(guests) & set(cli.processes()))
        self.go_on_here(process, (0, 1), middle=("1 child -9", "0 child 9"))

    def test_are_here_once_when_the_move_dies_at_a_step(self):
        for step in (STEPS_HERE[-1], "start_seen"):
            with self.subTest(step):
                process = self.three()
                command, session = self.stopped_at(step, process.pid, "--mode", "lazy",
                                                   lease=self.environment)
                os.kill(session, signal.SIGKILL)
                self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
                self.are_whole(process)
                self.all_end(process)

    def test_all_end_when_the_move_dies_at_last(self):
        process = self.three()
        self.cable.widen()
        _, session = self.stopped_at("one_hollow", process.pid, "--mode", "lazy",
                                     lease=self.environment)
        os.kill(session, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        cli.wait_until(lambda: not set(self.pids) & set(cli.processes()))

    def test_go_for_good_when_all_has_gone(self):
        output = self.folder / "output"
        with open(output, "wb") as file:
            process = self.start(sys.executable, "-c", PROGRAM, stdin=subprocess.DEVNULL, stdout=file,
                                 stderr=file)
        cli.wait_until(lambda: output.read_bytes().count(b"ready") == 3)
        self.pids = [int(line.split()[2]) for line in sorted(output.read_bytes().splitlines())]
        self.addCleanup(self.end_all)
        command = self.start(cli.TELEFORK, "move", "--detach", "--mode", "lazy", str(process.pid),
                             self.node, env=self.environment)
        cli.wait_until(lambda: self.entry(process.pid) and
                       self.entry(process.pid)["state"] == "away")
        self.follow()
        guests = self.guests_of(process.pid)
        # The first ends before that, and what it leaves lives on there.
        os.kill(guests[0], signal.SIGKILL)
        self.cable.widen()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        cli.wait_until(lambda: not set(self.pids) & set(cli.processes()))
        for place in (1, 2):
            self.addCleanup(lambda pid: pid in cli.processes() and os.kill(pid, signal.SIGKILL),
                            guests[place])
            os.kill(guests[place], signal.SIGUSR2)
            cli.wait_until(lambda place=place: b"%d whole True\n" % place in output.read_bytes())


class Fork(Narrowly):
    command = "fork"

    def test_a_copy_finds_what_was(self):
        process = self.three()
        told = self.go(process.pid)
        home, guest = told["home_pid"], told["pid"]
        self.assertEqual(told["processes"], 3)
        self.addCleanup(lambda: home in cli.processes() and os.kill(home, signal.SIGKILL))
        self.assertGreater(self.entry(guest, "guest")["pages_missing"], MEGABYTES << 9)
        self.assertTrue(self.entry(home)["memory_follows"])
        guests = self.guests_of(home)
        self.assertEqual(len(guests), 3)
        # Another copy meanwhile: what the first one is read from is in nobody's way.
        code, another = cli.call_json("fork", process.pid, "local")
        self.assertEqual((code, another.get("processes")), (0, 3), another)
        for pid in self.guests_of(another["home_pid"]):
            os.kill(pid, signal.SIGKILL)
        cli.wait_until(lambda: another["home_pid"] not in cli.processes())
        # The originals run on, and all write to one place.
        self.are_whole(process)
        self.cable.widen()
        for place in (2, 1, 0):
            os.kill(guests[place], signal.SIGUSR2)
            self.expect(process, f"{place} whole True")
        cli.wait_until(lambda: not self.entry(home)["memory_follows"])
        # Nothing of the copy is left in them.
        cli.wait_until(lambda: [len(cli.children(pid)) for pid in self.pids] == [1, 1, 0])
        for guest in guests:
            os.kill(guest, signal.SIGKILL)
        cli.wait_until(lambda: home not in cli.processes())
        self.are_whole(process)
        self.all_end(process)


if __name__ == "__main__":
    cli.need("uffd_kernel_faults")
    cli.main()
