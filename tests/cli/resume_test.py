#!/usr/bin/env python3
"""telefork resume: what a move has left here whole is taken up again, and two never run."""
import json
import os
import signal
import subprocess

import cli
from cli import call
from departure import SHORT_LEASE, DepartureTest, is_deputy, kill, sessions

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

    def resume(self, pid, known_by):
        code, told = cli.call_json("resume", pid)
        self.assertEqual((code, told), (0, {"pid": pid, "guest_pid": pid, "node": self.node,
                                            "known_by": known_by}))
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
        self.assertIn(b"process %d runs on here: " % victim.pid, done.stderr)
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
        command, session = self.stopped_at("held_back", process.pid, "--detach")
        self.lose_node()
        self.kill_keepers()
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 1, err)
        self.assertIn(b"it may run there, and is held here, whole: `telefork resume %d`" %
                      process.pid, err)
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        self.refuses(call("resume", process.pid), 4, f"{self.node} does not answer; it is held")
        self.assertEqual(self.entry(process.pid), self.held(process.pid))
        self.find_node()
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


if __name__ == "__main__":
    cli.main()
