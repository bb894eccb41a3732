#!/usr/bin/env python3
"""telefork resume: what a move has left here whole is taken up again, and two never run."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import cli
from cli import call
from departure import SHORT_LEASE, DepartureTest, Pair, is_deputy, kill, sessions

# From when it is given up to when it is the deputy.
STEPS_HELD = ("given_up", "go_sent", "start_seen")
# Longer than any test waits: what goes on does so because it was taken up.
USUAL_LEASE = {}


class ResumeTest(DepartureTest):
    command = "move"

    def entry(self, pid):
        """What `ps` says of it -> (state, remedy)."""
        for entry in sessions():
            if entry["pid"] == pid and entry["role"] == "away":
                return entry["state"], entry["remedy"]
        return None

    def held(self, pid):
        return ("held", f"telefork resume {pid}")

    def left_at(self, step, pid, *flags, lease=None):
        """Its session was killed there -> what the command says."""
        command, session = self.stopped_at(step, pid, *flags, lease=USUAL_LEASE if lease is None else lease)
        os.kill(session, signal.SIGKILL)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 1, err)
        return err

    def lose_node(self):
        """Nobody there says what runs, until it is found again."""
        os.kill(self.telepad.pid, signal.SIGSTOP)
        self.addCleanup(self.find_node)
        cli.wait_until(lambda: cli.processes()[self.telepad.pid] == "T")

    def find_node(self):
        os.kill(self.telepad.pid, signal.SIGCONT)

    def left_by_its_node(self, pid, resumed):
        """It was to be detached, and its session has given up asking; `resumed` cannot be while the
        node is lost. Then that is found again."""
        command, session = self.stopped_at("held_back", pid, "--detach")
        self.lose_node()
        self.kill_keepers()
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 1, err)
        self.assertIn(b"it may run there, and is held here, whole: `telefork resume %d`" % pid, err)
        self.assertEqual(self.entry(pid), self.held(pid))
        self.refuses(call("resume", resumed), 4, f"{self.node} does not answer; it is held")
        self.assertEqual(self.entry(pid), self.held(pid))
        self.find_node()

    def resume(self, pid, known_by, first=None, processes=1):
        """`first` runs on then, and so many are there."""
        first = pid if first is None else first
        code, told = cli.call_json("resume", pid)
        self.assertGreater(told.pop("lost_s"), 0)
        self.assertEqual((code, told), (0, {"pid": first, "guest_pid": first, "processes": processes,
                                            "node": self.node, "known_by": known_by}))
        self.assertIsNone(self.entry(pid))
        self.assertFalse(is_deputy(pid))


class Resume(ResumeTest):
    def test_takes_up_what_a_killed_session_has_left(self):
        for step in STEPS_HELD:
            with self.subTest(step):
                victim = self.victim(3, 2)
                err = self.left_at(step, victim.pid)
                self.assertIn(b"`telefork resume %d` takes it up" % victim.pid, err)
                self.assertEqual(self.entry(victim.pid), self.held(victim.pid))
                self.assertIn(b"`telefork resume %d` takes it up" % victim.pid, call("ps").stdout)
                self.resume(victim.pid, "node")
                self.assertEqual(self.guests(), [])
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_says_so_to_people(self):
        victim = self.victim(1)
        self.left_at("go_sent", victim.pid)
        done = call("resume", victim.pid)
        self.assertEqual((done.returncode, done.stdout), (0, b""))
        self.assertRegex(done.stderr, rb"process %d runs on here, as it was [0-9.e+]+ s ago: " %
                         victim.pid)
        self.refuses(call("resume", victim.pid), 3, "it is not away")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_what_is_held_goes_nowhere_else(self):
        victim = self.victim(1)
        self.left_at("go_sent", victim.pid)
        remedy = f"`telefork resume {victim.pid}` takes it up"
        for command in (["home", victim.pid], ["move", victim.pid, self.node],
                        ["fork", victim.pid, self.node],
                        ["save", victim.pid, self.folder / "image"]):
            self.refuses(call(*command), 3, remedy)
        code, told = cli.call_json("check", victim.pid, self.node)
        self.assertEqual(code, 3)
        self.assertIn(remedy, told["refused"][0])
        self.resume(victim.pid, "node")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_waits_for_the_lease_where_nobody_can_be_asked(self):
        victim = self.victim(2)
        # Long enough for resume to begin in, on whatever machine.
        self.left_at("go_sent", victim.pid, lease=SHORT_LEASE | {"TELEFORK_LEASE_HOME_MS": "15000"})
        self.lose_node()
        self.resume(victim.pid, "lease")
        self.assertEqual(self.guests(), [])
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_what_goes_on_by_its_lease_is_held_no_more(self):
        victim = self.victim(2)
        self.left_at("go_sent", victim.pid, lease=SHORT_LEASE)
        cli.wait_until(lambda: self.entry(victim.pid) is None)
        self.refuses(call("resume", victim.pid), 3, "it is not away")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_what_is_killed_is_held_no_more(self):
        victim = self.victim(2)
        self.left_at("go_sent", victim.pid)
        os.kill(victim.pid, signal.SIGKILL)
        self.assertEqual(victim.wait_for_death(), -signal.SIGKILL)
        self.assertIsNone(self.entry(victim.pid))
        self.refuses(call("resume", victim.pid), 3, "there is no such process")

    def test_a_wait_that_is_ended_leaves_it_held(self):
        victim = self.victim(2)
        self.left_at("go_sent", victim.pid)
        self.lose_node()
        resume = self.start(cli.TELEFORK, "resume", str(victim.pid))
        # When it says that it waits.
        self.assertIn(b"when its lease is over", resume.stderr.readline())
        resume.send_signal(signal.SIGINT)
        self.assertEqual(resume.wait(timeout=cli.PATIENCE), -signal.SIGINT)
        self.assertEqual(self.entry(victim.pid), self.held(victim.pid))
        self.find_node()
        self.resume(victim.pid, "node")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_waits_for_a_session_that_finds_out_itself(self):
        victim = self.victim(2)
        command, session = self.stopped_at("given_up", victim.pid, lease=USUAL_LEASE)
        self.lose_node()
        self.kill_keepers()
        os.kill(session, signal.SIGCONT)
        cli.wait_until(lambda: self.entry(victim.pid) == ("unknown", f"telefork resume {victim.pid}"))
        self.refuses(call("home", victim.pid), 3, f"`telefork resume {victim.pid}` takes it up")
        resume = self.start(cli.TELEFORK, "resume", str(victim.pid), "--json")
        # Else it could be over before resume has looked.
        self.assertIn(b"asks %s already" % self.node.encode(), resume.stderr.readline())
        self.find_node()
        out, err = resume.communicate(timeout=cli.PATIENCE)
        self.assertEqual(resume.returncode, 0, err)
        self.assertEqual(json.loads(out)["known_by"], "session")
        self.assertEqual(command.wait(timeout=cli.PATIENCE), 75)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_refuses_what_is_not_lost(self):
        self.refuses(call("resume", 2**22 - 1), 3, "there is no such process")
        self.refuses(call("resume", "x"), 2)
        victim = self.victim(1)
        self.refuses(call("resume", victim.pid), 3, "it is not away")
        self.assertEqual(call("move", victim.pid, self.node).returncode, 0)
        self.refuses(call("resume", victim.pid), 3, f"it is on {self.node}; `telefork home {victim.pid}`")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_what_has_become_the_deputy_is_not_held(self):
        victim = self.victim(1, stderr=subprocess.PIPE)
        self.left_at("hollowed", victim.pid)
        _, err = victim.process.communicate(timeout=cli.PATIENCE)
        self.assertEqual(victim.process.returncode, 125, err)
        self.refuses(call("resume", victim.pid), 3, "there is no such process")


class Detached(ResumeTest):
    """Asked to go for good: no lease lets go on here what may run there."""

    def test_takes_up_what_a_killed_session_has_left(self):
        process, output = self.hermit()
        self.left_at("held_back", process.pid, "--detach")
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        self.resume(process.pid, "node")
        self.runs_here(process, output)

    def test_ends_what_is_there_and_goes_on_here(self):
        process, output = self.hermit()
        command, session = self.stopped_at("dismissed", process.pid, "--detach")
        cli.wait_until(lambda: [entry["state"] for entry in self.guests()] == ["detached"])
        os.kill(session, signal.SIGKILL)
        self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        self.resume(process.pid, "node")
        self.runs_here(process, output)

    def test_stays_held_until_its_node_can_be_asked(self):
        process, output = self.hermit()
        self.left_by_its_node(process.pid, resumed=process.pid)
        self.resume(process.pid, "node")
        self.runs_here(process, output)

    def test_a_telepad_that_was_started_since_cannot_tell(self):
        process, _ = self.hermit()
        self.left_at("dismissed", process.pid, "--detach")
        guest, = self.guests()
        self.addCleanup(kill, guest["pid"])
        self.end_telepad()
        self.start_telepad()
        self.refuses(call("resume", process.pid), 4, "this telepad was started since",
                     f"`kill -9 {process.pid}`")
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        process.kill()
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        self.assertIsNone(self.entry(process.pid))


# Traces a process as a debugger does, until it ends.
TRACER = """
import ctypes, os, sys
PTRACE_SEIZE = 0x4206
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
print(libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None), flush=True)
sys.stdin.read()
"""


def blocks(pid):
    """The signals that it blocks: all, as long as it is held."""
    return re.search(r"^SigBlk:\t(\w+)$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1]


class Tree(ResumeTest):
    """A parent and its child, which are held and taken up together."""

    def left(self, *flags, lease=None, step="go_sent"):
        pair = Pair(self)
        self.left_at(step, pair.pid, *flags, lease=lease)
        return pair

    def goes_on(self, pair):
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(pair.finish(), Pair.passed)
        self.assertEqual(self.guests(), [])

    def test_takes_up_what_a_killed_session_has_left(self):
        for step in STEPS_HELD:
            with self.subTest(step):
                pair = self.left(step=step)
                self.assertEqual(self.entry(pair.pid), self.held(pair.pid))
                self.resume(pair.pid, "node", processes=2)
                self.goes_on(pair)

    def test_the_name_of_the_child_is_as_good(self):
        pair = self.left()
        self.resume(pair.child, "node", first=pair.pid, processes=2)
        self.assertIsNone(self.entry(pair.pid))
        self.goes_on(pair)

    def test_says_so_to_people(self):
        pair = self.left()
        done = call("resume", pair.child)
        self.assertEqual((done.returncode, done.stdout), (0, b""))
        self.assertIn(b"process %d and 1 more run on here, as they were " % pair.pid, done.stderr)
        self.goes_on(pair)

    def test_what_is_held_goes_nowhere_else(self):
        pair = self.left()
        for command in (["move", pair.child, self.node], ["fork", pair.child, self.node],
                        ["save", pair.child, self.folder / "image"]):
            self.refuses(call(*command), 3, f"`telefork resume {pair.child}` takes it up")
        self.resume(pair.pid, "node", processes=2)
        self.goes_on(pair)

    def test_what_is_held_goes_nowhere_with_its_parent(self):
        process, child, output = self.hermits()
        self.left_at("go_sent", child)
        remedy = f"process {child}: it is held here, and may run on {self.node}: " \
                 f"`telefork resume {child}` takes it up"
        for command in (["move", process.pid, self.node], ["save", process.pid, self.folder / "image"]):
            self.refuses(call(*command), 3, remedy)
        self.assertIn(remedy, cli.call_json("check", process.pid)[1]["refused"][0])
        self.resume(child, "node")
        process.terminate()
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        self.assertEqual(output.read_bytes(), b"ready\nready\ndone\n")

    def test_waits_for_the_lease_where_nobody_can_be_asked(self):
        pair = self.left(lease=SHORT_LEASE | {"TELEFORK_LEASE_HOME_MS": "15000"})
        self.lose_node()
        self.resume(pair.pid, "lease", processes=2)
        self.goes_on(pair)

    def test_what_is_stopped_stays_so_and_goes_on_later(self):
        """It has not begun to wait yet when it is taken up."""
        for flags, step in ([], "go_sent"), (["--detach"], "held_back"):
            with self.subTest(step):
                process, child, output = self.hermits()
                os.kill(child, signal.SIGSTOP)
                cli.wait_until(lambda: cli.processes()[child] == "T")
                self.left_at(step, process.pid, *flags)
                self.assertEqual(self.entry(process.pid), self.held(process.pid))
                self.resume(process.pid, "node", processes=2)
                process.terminate()
                self.assertEqual(cli.processes()[child], "T")
                os.kill(child, signal.SIGCONT)
                self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
                self.assertEqual(output.read_bytes(), b"ready\nready\ndone\n")

    def test_one_that_was_killed_meanwhile_has_ended(self):
        pair = self.left()
        os.kill(pair.child, signal.SIGKILL)
        cli.wait_until(lambda: not cli.is_running(pair.child))
        self.assertEqual(self.entry(pair.pid), self.held(pair.pid))
        self.resume(pair.pid, "node")
        self.assertEqual(pair.finish(), (9, b"-9 True\n"))

    def test_who_is_left_of_them_is_held_still(self):
        pair = self.left()
        pair.process.kill()
        pair.process.wait(timeout=cli.PATIENCE)
        self.addCleanup(kill, pair.child)
        self.assertEqual(self.entry(pair.pid), self.held(pair.pid))
        code, told = cli.call_json("resume", pair.pid)
        self.assertEqual(code, 0, told)
        self.assertEqual((told["pid"], told["processes"]), (pair.child, 1))
        # What it reads has ended with its parent.
        cli.wait_until(lambda: not cli.is_running(pair.child))

    def test_when_all_were_killed_nothing_is_held(self):
        pair = self.left()
        for pid in (pair.child, pair.pid):
            os.kill(pid, signal.SIGKILL)
        pair.process.wait(timeout=cli.PATIENCE)
        cli.wait_until(lambda: not cli.is_running(pair.child))
        self.assertIsNone(self.entry(pair.pid))


class DetachedTree(ResumeTest):
    def run_here(self, process, output):
        process.terminate()
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        self.assertEqual(output.read_bytes(), b"ready\nready\ndone\n")
        cli.wait_until(lambda: not self.guests())

    def test_takes_up_what_a_killed_session_has_left(self):
        for step in (*STEPS_HELD, "held_back", "dismissed"):
            with self.subTest(step):
                process, _, output = self.hermits()
                self.left_at(step, process.pid, "--detach")
                self.assertEqual(self.entry(process.pid), self.held(process.pid))
                self.resume(process.pid, "node", processes=2)
                self.run_here(process, output)

    def test_ends_what_is_there_and_goes_on_here(self):
        process, child, output = self.hermits()
        command, session = self.stopped_at("dismissed", process.pid, "--detach")
        cli.wait_until(lambda: [entry["state"] for entry in self.guests()] == ["detached"])
        os.kill(session, signal.SIGKILL)
        self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        self.resume(child, "node", first=process.pid, processes=2)
        self.run_here(process, output)

    def test_goes_on_here_when_its_keeper_dies(self):
        for step in ("start_seen", "held_back"):
            with self.subTest(step):
                process, _, output = self.hermits()
                command, session = self.stopped_at(step, process.pid, "--detach", lease=USUAL_LEASE)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.assertIsNone(self.entry(process.pid))
                self.run_here(process, output)

    def test_stays_held_until_its_node_can_be_asked(self):
        process, child, output = self.hermits()
        self.left_by_its_node(process.pid, resumed=child)
        self.resume(process.pid, "node", processes=2)
        self.run_here(process, output)

    def test_a_telepad_that_was_started_since_cannot_tell(self):
        process, child, _ = self.hermits()
        self.left_at("held_back", process.pid, "--detach")
        self.end_telepad()
        self.start_telepad()
        self.refuses(call("resume", process.pid), 4, "this telepad was started since")
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        process.kill()
        process.wait(timeout=cli.PATIENCE)
        os.kill(child, signal.SIGKILL)
        cli.wait_until(lambda: not cli.is_running(child))
        self.assertIsNone(self.entry(process.pid))

    def test_what_was_confirmed_of_all_need_not_be_asked_again(self):
        """One of them cannot be taken up at once, and then nobody is there to be asked."""
        process, child, output = self.hermits()
        before = [blocks(pid) for pid in (process.pid, child)]
        self.left_at("held_back", process.pid, "--detach")
        tracer = self.start(sys.executable, "-c", TRACER, str(child))
        self.assertEqual(tracer.stdout.readline(), b"0\n")
        resume = self.start(cli.TELEFORK, "resume", str(process.pid))
        cli.wait_until(lambda: blocks(process.pid) == before[0])
        self.assertNotEqual(blocks(child), before[1])
        resume.kill()
        resume.wait(timeout=cli.PATIENCE)
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        self.end_telepad()
        self.start_telepad()
        tracer.kill()
        tracer.wait(timeout=cli.PATIENCE)
        self.resume(process.pid, "node", processes=2)
        self.run_here(process, output)


if __name__ == "__main__":
    cli.main()
