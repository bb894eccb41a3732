#!/usr/bin/env python3
"""telefork move of what was moved here: on one machine its pid is its deputy's, so that it is in a
pid namespace of its own at the node that it goes on from."""
import os
import pathlib
import signal
import subprocess
import unittest

import cli
from cli import call, call_json
from departure import DepartureTest, Pair, is_deputy, sessions

# Only root can give threads their ids.
THREADS = 3 if os.geteuid() == 0 else 0


def own_pid(pid):
    """As the process sees itself."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("NSpid:")).split()[-1])


class MovedOn(DepartureTest):
    command = "move"

    def setUp(self):
        super().setUp()
        self.further = f"unix:{self.folder}/further.sock"
        self.further_telepad = subprocess.Popen(
            [str(cli.BIN / "telepad"), "--quiet", "--socket", str(self.folder / "further.sock")])
        self.addCleanup(self.end_further)
        cli.wait_until(lambda: call("check", self.further).returncode == 0)

    def end_further(self):
        self.further_telepad.terminate()
        self.further_telepad.wait(timeout=cli.PATIENCE)

    def move(self, pid, node, *flags):
        """-> its pid there."""
        code, report = call_json("move", pid, node, *flags)
        self.assertEqual(code, 0, report)
        return report["pid"]

    def home(self, pid):
        done = call("home", pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertFalse(is_deputy(pid))

    def chain(self, pid, *flags):
        """-> its pid at the node, where its deputy is by now, and at the one that it went on to."""
        there = self.move(pid, self.node, *flags)
        self.assertEqual(own_pid(there), pid)
        further = self.move(there, self.further, *flags)
        self.assertTrue(is_deputy(pid) and is_deputy(there))
        self.assertEqual((own_pid(there), own_pid(further)), (pid, pid))
        return there, further

    def come_back(self, pid, there):
        self.home(there)
        self.assertTrue(is_deputy(pid))
        self.home(pid)
        cli.wait_until(lambda: not [e for e in sessions() if pid in (e["pid"], e["guest_pid"])])

    def test_comes_back_by_the_way_that_it_went(self):
        victim = self.victim(THREADS, 8, __file__)
        for _ in range(3):
            there, _ = self.chain(victim.pid)
            done = call("home", victim.pid)
            self.assertEqual(done.returncode, 3)
            self.assertIn(b"it has gone on from there", done.stderr)
            self.come_back(victim.pid, there)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_is_seen_at_home_as_where_it_is(self):
        process = self.listener()
        self.chain(process.pid)
        for number in (signal.SIGUSR1, signal.SIGRTMIN + 1):
            os.kill(process.pid, number)
            self.assertEqual(process.stdout.readline(), b"%d\n" % number)
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

    def test_with_its_child(self):
        pair = Pair(self)
        there, further = self.chain(pair.pid)
        self.assertEqual(pair.ask("far"), ((0, 0), (0, 0)))
        for pid in pair.pids:
            os.kill(pid, signal.SIGUSR1)
        cli.wait_until(lambda: pair.ask("signalled") == ((1, 0), (1, 0)))
        os.kill(pair.child, signal.SIGSTOP)
        cli.wait_until(lambda: any(cli.processes()[pid] in "Tt" for pid in cli.children(further)))
        os.kill(pair.child, signal.SIGCONT)
        self.come_back(pair.pid, there)
        self.assertEqual(pair.ask("home"), ((1, 0), (1, 0)))
        self.assertEqual(pair.finish(), Pair.passed)

    def test_is_copied_from_there(self):
        process = self.listener()
        there = self.move(process.pid, self.node)
        code, copy = call_json("fork", there, self.further)
        self.assertEqual((code, own_pid(copy["pid"])), (0, process.pid), copy)
        os.kill(copy["home_pid"], signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), b"%d\n" % signal.SIGUSR1)
        os.kill(copy["pid"], signal.SIGKILL)
        cli.wait_until(lambda: copy["home_pid"] not in cli.processes())
        self.home(process.pid)

    def test_is_saved_from_there(self):
        victim = self.victim(THREADS, 8)
        there = self.move(victim.pid, self.node)
        image = self.folder / "there.tfi"
        done = call("save", "--keep", there, image)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.home(victim.pid)
        self.assertEqual(victim.finish(), (42, b"pass\n"))
        done = call("load", image, stdin=b"go\n")
        self.assertEqual((done.returncode, done.stdout), (42, b"pass\n"), done.stderr)

    def test_with_children_that_were_begun_on_the_way(self):
        # Who may not choose ids is refused, before anything stands still.
        is_root = os.geteuid() == 0
        program = self.start("sh", "-c", 'read line; sleep 1000 & a=$!; echo $a; read line; '
                             'sleep 1000 & b=$!; echo $b; read line; kill $a $b; wait; echo all')
        def begin():
            program.stdin.write(b"\n")
            program.stdin.flush()
            return int(program.stdout.readline())
        there = self.move(program.pid, self.node)
        begin()
        further = self.move(there, self.further)
        begin()
        self.assertEqual(len(cli.children(further)), 2)
        done = call("home", there)
        if not is_root:
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn(b"it takes CAP_CHECKPOINT_RESTORE", done.stderr)
            self.assertEqual(program.communicate(b"\n", timeout=cli.PATIENCE)[0], b"all\n")
            return
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(cli.children(there)), 2)
        self.home_when_ids_are_free(program.pid)
        self.assertEqual(program.communicate(b"\n", timeout=cli.PATIENCE)[0], b"all\n")

    def test_a_command_needs_no_namespace(self):
        done = call("run", self.node, "--", "echo", "there")
        self.assertEqual((done.returncode, done.stdout), (0, b"there\n"), done.stderr)

    def test_that_cannot_go_on_stays_where_it_is(self):
        victim = self.victim(THREADS, 8)
        there = self.move(victim.pid, self.node)
        self.end_further()
        done = call("move", there, self.further)
        self.assertNotEqual(done.returncode, 0)
        self.assertFalse(is_deputy(there))
        self.home(victim.pid)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_in_a_namespace_that_it_has_made_there_is_refused(self):
        program = self.start("sh", "-c", 'read line; exec unshare "$@" sh -c "echo there; read line"',
                             "-", *(["--user"] if os.geteuid() else []), "--uts")
        there = self.move(program.pid, self.node)
        program.stdin.write(b"\n")
        program.stdin.flush()
        self.assertEqual(program.stdout.readline(), b"there\n")
        done = call("move", there, self.further)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(b"it is in another uts namespace than telefork", done.stderr)
        done = call("home", program.pid)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(b"it has left its uts namespace there", done.stderr)

    def test_with_mounts_of_its_own_does_not_come_home(self):
        user = ["--user", "--map-root-user"] if os.geteuid() else []
        program = self.start("sh", "-c", 'read line; exec unshare "$@" sh -c "echo there; read line"',
                             "-", *user, "--mount")
        self.move(program.pid, self.node)
        program.stdin.write(b"\n")
        program.stdin.flush()
        self.assertEqual(program.stdout.readline(), b"there\n")
        self.refuses(call("home", program.pid), 3, "it has left its mnt namespace there")


if __name__ == "__main__":
    cli.main()
