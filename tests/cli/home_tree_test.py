#!/usr/bin/env python3
"""telefork home of a process that was moved, and all that has come of it."""
import json
import os
import pathlib
import signal
import subprocess
import sys

import cli
from cli import call
from departure import SHORT_LEASE, DepartureTest, Pair, arguments_of, is_deputy, kill, sessions

STEPS_BEFORE = ("checked", "return_seen", "taken_home")
STEPS_WHOLE = ("whole", "ready_sent")
STEPS_AFTER = ("go_seen",)
STEPS_OF_NODE = ("called_home", "held", "sent_home")

IS_ROOT = os.geteuid() == 0


def place_of(pid):
    """Parent, process group, session and terminal."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 4:].split()[:4]


class HomeTree(DepartureTest):
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

    def test_both_come_home_five_times(self):
        pair = Pair(self)
        before = [place_of(pid) for pid in pair.pids]
        for _ in range(5):
            self.move(pair.pid)
            self.are_away(pair)
            guests = self.guests_of(pair)
            self.home(pair.pid)
            self.are_home(pair)
            self.assertEqual([place_of(pid) for pid in pair.pids], before)
            self.assertEqual(cli.children(pair.pid), [pair.child])
            self.assertFalse(set(guests) & set(cli.processes()))
            self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(sessions(), [])
        self.assertEqual(pair.finish(), self.passed)


if __name__ == "__main__":
    cli.main()
