#!/usr/bin/env python3
"""telefork home of a process and its child whose node stands still at a step of its own, or is not
heard any more: both are here, or there, or have ended at both ends."""
import os
import re
import shutil
import signal
import subprocess

import cli
from cable import Cable
from departure import SHORT_LEASE, STEPS_AFTER, STEPS_WHOLE, HomeTreeTest, arguments_of

# Of the keeper, in their order.
STEPS_OF_NODE = ("called_home", "held", "sent_home")


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:  # of another file system, or another user's
        shutil.copy2(source, target)


def make_stepping_programs(folder):
    """The programs of this build once more, whose keepers are started with what the variable
    TELEFORK_TEST_KEEPER says."""
    for name in ("bin", "libexec"):
        shutil.copytree(cli.BIN.parent / name, folder / name, copy_function=link_or_copy)
    keeper = folder / "libexec" / "telefork" / "telefork-keeper"
    os.rename(keeper, f"{keeper}.real")
    keeper.write_text('#!/bin/sh\nexec "$0.real" $TELEFORK_TEST_KEEPER "$@"\n')
    keeper.chmod(0o755)
    return folder / "bin" / "telepad"


class FaultTest(HomeTreeTest):
    listening = ()

    def setUp(self):
        self.program = None
        self.step = "none"
        super().setUp()

    def start_telepad(self):
        if not self.program:
            self.program = make_stepping_programs(self.folder)
        step = {} if self.step == "none" else {"TELEFORK_TEST_KEEPER": f"--stop-at-step {self.step}"}
        with open(self.folder / "telepad.log", "wb") as log:
            self.telepad = subprocess.Popen(
                [self.program, "--socket", self.folder / "telepad.sock", *self.listening],
                env={**os.environ, **step}, stderr=log)
        cli.wait_until(lambda: cli.call("check", f"unix:{self.folder}/telepad.sock").returncode == 0)

    def stop_keepers_at(self, step):
        self.end_telepad()
        self.step = step
        self.start_telepad()

    def held_there(self, pid):
        """A call home whose keeper stands still at the step -> (the command, the keeper)."""
        command = self.start(cli.TELEFORK, "home", str(pid))
        def find():
            for other, state in cli.processes().items():
                if state == "T" and b"/telefork-keeper" in arguments_of(other)[0] and \
                        self.is_of_this_telepad(other):
                    return other
            return None
        cli.wait_until(find)
        return command, find()

    def session_of(self, pid):
        for other in cli.processes():
            if arguments_of(other)[1:3] == [b"move", b"%d" % pid]:
                return other
        return None

    def are_gone(self, pids):
        cli.wait_until(lambda: not set(pids) & set(cli.processes()))

    def run_here(self, pair, guests):
        self.are_gone(guests)
        self.are_home(pair)
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(pair.finish(), self.passed)

    def run_there(self, pair, guests):
        self.are_away(pair)
        self.assertEqual(self.guests_of(pair), guests)
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.home_by_another_keeper(pair)

    def home_by_another_keeper(self, pair):
        """Which is the same one, and stands still there once more."""
        command, keeper = self.held_there(pair.pid)
        os.kill(keeper, signal.SIGCONT)
        self.assertEqual(self.done(command), 0, self.err)
        self.assertEqual(pair.finish(), self.passed)

    def have_ended(self, pair, guests):
        self.assertIn(pair.finish(), [(125, b""), (-signal.SIGKILL, b"")])
        self.are_gone([*guests, pair.child])


class AtANode(FaultTest):
    def at_each_step(self, act, lease=None):
        """act(step, the pair, its guests, the command, the keeper)"""
        for step in STEPS_OF_NODE:
            with self.subTest(step):
                self.stop_keepers_at(step)
                pair = self.away(lease)
                guests = self.guests_of(pair)
                act(step, pair, guests, *self.held_there(pair.pid))

    def test_nobody_dies(self):
        def act(_, pair, guests, command, keeper):
            os.kill(keeper, signal.SIGCONT)
            self.assertEqual(self.done(command), 0, self.err)
            self.run_here(pair, guests)
        self.at_each_step(act)

    def test_signals_on_the_way_reach_each_once(self):
        def act(_, pair, guests, command, keeper):
            for pid in pair.pids:
                os.kill(pid, signal.SIGUSR1)
            os.kill(keeper, signal.SIGCONT)
            self.assertEqual(self.done(command), 0, self.err)
            said = []
            cli.wait_until(lambda: said.append(pair.ask("word")) or
                           said[-1][0][0] + said[-1][1][0] == 2)
            self.assertEqual(said[-1], ((1, 0), (1, 0)))
            self.assertEqual(pair.finish(), self.passed)
        self.at_each_step(act)

    def test_a_wish_not_to_have_them_is_heard(self):
        def act(step, pair, guests, command, keeper):
            self.interrupt(command, keeper)
            # All of it was here already.
            if step == "sent_home" and command.returncode == 0:
                return self.run_here(pair, guests)
            self.assertEqual(command.returncode, 1 if step == "called_home" else 75)
            return self.run_there(pair, guests)
        self.at_each_step(act)

    def test_all_end_when_the_session_dies(self):
        def act(_, pair, guests, command, keeper):
            os.kill(self.session_of(pair.pid), signal.SIGKILL)
            os.kill(keeper, signal.SIGCONT)
            self.assertEqual(self.done(command), 1)
            self.have_ended(pair, guests)
        self.at_each_step(act)

    def run_here_or_have_ended(self, step, pair, guests, command):
        """They run here where all of it was here already."""
        code = self.done(command)
        if step == "sent_home":
            self.assertEqual(code, 0, self.err)
            self.run_here(pair, guests)
        else:
            self.assertEqual(code, 1, self.err)
            self.have_ended(pair, guests)

    def test_all_are_in_one_place_when_the_keeper_dies(self):
        def act(step, pair, guests, command, keeper):
            self.kill_keepers()
            self.run_here_or_have_ended(step, pair, guests, command)
        self.at_each_step(act, SHORT_LEASE)

    def test_all_are_in_one_place_when_the_keeper_is_not_heard(self):
        def act(step, pair, guests, command, keeper):
            self.run_here_or_have_ended(step, pair, guests, command)
            self.are_gone([keeper])
        self.at_each_step(act, SHORT_LEASE)

    def test_one_that_is_killed_here_is_killed_at_both_ends(self):
        def act(step, pair, guests, command, keeper):
            os.kill(pair.child, signal.SIGKILL)
            os.kill(keeper, signal.SIGCONT)
            self.assertIn(self.done(command), (0, 75) if step == "sent_home" else (1, 75), self.err)
            cli.wait_until(lambda: not cli.is_running(guests[1]))
            self.assertEqual(pair.finish(), (9, b"-9 True\n"))
        self.at_each_step(act)

    def test_one_that_is_killed_there_is_killed_at_both_ends(self):
        """Or neither, where all of it was here already."""
        def act(step, pair, guests, command, keeper):
            os.kill(guests[1], signal.SIGKILL)
            os.kill(keeper, signal.SIGCONT)
            self.done(command)
            self.assertEqual(pair.finish(), self.passed if step == "sent_home" else
                             (9, b"-9 True\n"))
            self.are_gone([*guests, pair.child])
        self.at_each_step(act)


class OverACable(FaultTest):
    """Which nothing passes any more from some step on, and nobody is told."""

    def setUp(self):
        super().setUp()
        self.environment = {**SHORT_LEASE, "XDG_CONFIG_HOME": str(self.folder / "config")}

    def call(self, *arguments):
        done = cli.call(*arguments, env={**os.environ, **self.environment})
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode().strip()

    def lay_cable(self, step):
        served = self.folder / "served"
        if not self.listening:
            self.listening = ("--listen", "127.0.0.1:0", "--keys", served)
            self.key = self.call("keygen", "--keys", served)
            as_whom = ["--as", "root"] if os.geteuid() == 0 else []
            self.call("trust", self.call("keygen"), *as_whom, "--keys", served)
        self.stop_keepers_at(step)
        log = (self.folder / "telepad.log").read_text()
        self.cable = Cable(re.search(r"listening on (\S+)\n", log)[1])
        self.node = self.cable.node
        self.call("trust", self.node, self.key)

    def silence(self, step, *, of_node):
        """-> the pair, its guests, the command"""
        self.lay_cable(step if of_node else "none")
        self.addCleanup(self.cable.cut)
        pair = self.away(self.environment)
        guests = self.guests_of(pair)
        held = self.held_there(pair.pid) if of_node else self.stopped_home(step, pair.pid)
        self.cable.silence()
        os.kill(held[1], signal.SIGCONT)
        return pair, guests, held[0]

    def test_all_end_where_not_all_is_here(self):
        for step, of_node in (("checked", False), ("return_seen", False), ("called_home", True),
                              ("held", True)):
            with self.subTest(step):
                pair, guests, command = self.silence(step, of_node=of_node)
                self.assertEqual(self.done(command), 1, self.err)
                self.have_ended(pair, guests)

    def test_all_run_here_once_all_is_here(self):
        for step in ("taken_home", *STEPS_WHOLE, *STEPS_AFTER):
            with self.subTest(step):
                pair, guests, command = self.silence(step, of_node=False)
                self.assertEqual(self.done(command), 0, self.err)
                self.run_here(pair, guests)

    def test_all_are_in_one_place_when_some_may_be_on_its_way(self):
        pair, guests, command = self.silence("sent_home", of_node=True)
        if self.done(command) == 0:
            self.run_here(pair, guests)
        else:
            self.have_ended(pair, guests)


if __name__ == "__main__":
    cli.main()
