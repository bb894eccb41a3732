#!/usr/bin/env python3
"""telefork move of a process and all that has come of it."""
import json
import os
import re
import signal
import subprocess
import sys

import cli
from cli import call
from departure import STEPS_HERE, DepartureTest, Pair, is_deputy, sessions

STEPS_AWAY = ("given_up", "go_sent", "start_seen")
STEPS_PAST_RETURN = ("decided", "one_hollow")


class MoveTree(DepartureTest):
    command = "move"
    passed = Pair.passed

    def pair(self, **options):
        return Pair(self, **options)

    def move(self, pid, *flags):
        done = call("move", pid, self.node, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def moved(self, **options):
        pair = self.pair(**options)
        told = json.loads(self.move(pair.pid, "--json").stdout)
        self.assertEqual((told["processes"], told["guest_pid"], told["warnings"]), (2, pair.pid, []))
        for pid in pair.pids:
            self.assertTrue(is_deputy(pid), pid)
        return pair

    def guests(self, pair):
        """-> those there, parent first."""
        first = self.guest_of(pair.pid)
        child, = cli.children(first)
        return first, child

    def test_the_pair_passes_by_itself(self):
        pair = self.pair()
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(pair.finish(), self.passed)

    def test_moves_both(self):
        pair = self.pair()
        before = [os.getpgid(pid) for pid in pair.pids], [os.getsid(pid) for pid in pair.pids]
        self.assertEqual(call("check", pair.pid, self.node).returncode, 0)
        self.move(pair.pid, "--tree")
        self.assertEqual(cli.children(pair.pid), [pair.child])
        self.assertEqual(([os.getpgid(pid) for pid in pair.pids],
                          [os.getsid(pid) for pid in pair.pids]), before)
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(pair.finish(), self.passed)
        self.assertNotIn(pair.child, cli.processes())

    def test_what_stays_of_a_stopped_one_ends_with_its_session_and_its_parent(self):
        pair = self.pair()
        os.kill(pair.child, signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes()[pair.child] == "T")
        self.move(pair.pid)
        status = cli.pathlib.Path(f"/proc/{pair.child}/status").read_text()
        session = int(re.search(r"^TracerPid:\t(\d+)$", status, re.M).group(1))
        for pid in (session, pair.pid):
            os.kill(pid, signal.SIGKILL)
        cli.wait_until(lambda: cli.processes().get(pair.child, "Z") == "Z")

    def test_moves_both_to_a_node_of_its_own(self):
        pair = self.pair()
        done = call("move", pair.pid, "local")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"and 1 more run on local", done.stderr)
        self.assertEqual(pair.finish(), self.passed)

    def test_a_signal_reaches_whom_it_is_for_once(self):
        pair = self.moved()
        os.kill(pair.child, signal.SIGUSR1)
        self.assertEqual(self.asked_until(pair, lambda said: said[1][0] == 1), ((0, 0), (1, 0)))
        os.kill(pair.pid, signal.SIGUSR1)
        self.assertEqual(self.asked_until(pair, lambda said: said[0][0] == 1), ((1, 0), (1, 0)))
        self.assertEqual(pair.finish(), self.passed)

    def test_a_signal_to_the_group_reaches_each_once(self):
        pair = self.moved(process_group=0)
        for times in (1, 2, 3):
            os.killpg(pair.pid, signal.SIGINT)
            said = self.asked_until(pair, lambda said: said[0][1] + said[1][1] == 2 * times)
            self.assertEqual(said, ((0, times), (0, times)))
        self.assertEqual(pair.finish(), self.passed)

    def asked_until(self, pair, is_it):
        """What is sent by kill and what is written take two ways: asks until it has come."""
        said = []
        cli.wait_until(lambda: said.append(pair.ask("word")) or is_it(said[-1]))
        return said[-1]

    def test_each_ends_at_home_as_it_ends_there(self):
        pair = self.moved()
        pair.process.stdin.write(b"end 10\nend 9\n")  # SIGUSR1 first, which ends nobody
        pair.process.stdin.close()
        pair.process.stdin = None
        out, _ = pair.process.communicate(timeout=cli.PATIENCE)
        self.assertEqual(out.splitlines()[-1], b"-9 True", out)
        self.assertEqual(pair.process.returncode, 9)
        self.assertNotIn(pair.child, cli.processes())

    def test_a_kill_at_home_ends_it_there(self):
        pair = self.moved()
        first, child = self.guests(pair)
        os.kill(pair.child, signal.SIGKILL)
        cli.wait_until(lambda: not cli.is_running(child))
        self.assertEqual(pair.finish(), (9, b"-9 True\n"))
        cli.wait_until(lambda: not {first, child} & set(cli.processes()))

    def test_stops_and_goes_on_at_both_ends(self):
        pair = self.moved()
        _, child = self.guests(pair)
        def are(states):
            return lambda: (cli.processes()[pair.child] in states) and cli.processes()[child] in states
        os.kill(pair.child, signal.SIGSTOP)
        cli.wait_until(are("Tt"))
        os.kill(pair.child, signal.SIGCONT)
        cli.wait_until(are("S"))
        os.kill(child, signal.SIGSTOP)
        cli.wait_until(are("Tt"))
        os.kill(child, signal.SIGCONT)
        cli.wait_until(are("S"))
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(pair.finish(), self.passed)

    def test_refuses_the_shell_that_has_begun_it(self):
        for command in ("move", "check"):
            script = f"{cli.TELEFORK} {command} $$ {self.node}; exit $?"
            done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=cli.PATIENCE)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn(b"telefork itself is among its children", done.stdout + done.stderr)

    def test_both_go_on_here_when_the_move_dies(self):
        for step in STEPS_HERE + STEPS_AWAY:
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                os.kill(session, signal.SIGKILL)
                self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
                self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
                self.assertEqual(pair.finish(), self.passed)

    def test_none_goes_on_here_when_the_move_dies_later(self):
        for step in STEPS_PAST_RETURN:
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                self.assertEqual([is_deputy(pid) for pid in pair.pids],
                                 [False, step == "one_hollow"])
                os.kill(session, signal.SIGKILL)
                self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
                self.assertEqual(pair.finish(), (-signal.SIGKILL, b""))
                cli.wait_until(lambda: pair.child not in cli.processes())

    def test_both_end_when_the_session_dies_at_last(self):
        pair = self.pair()
        _, session = self.stopped_at("hollowed", pair.pid)
        os.kill(session, signal.SIGKILL)
        out, err = pair.process.communicate(timeout=cli.PATIENCE)
        self.assertEqual((pair.process.returncode, out), (125, b""))
        self.assertEqual(err.count(b"what became of the guest is not known"), 1)
        cli.wait_until(lambda: pair.child not in cli.processes())

    def test_a_wish_not_to_move_is_heard_until_it_is_given_up(self):
        for step in STEPS_HERE:
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 75, err)
                self.assertEqual(pair.finish(), self.passed)

    def test_both_go_on_here_when_the_node_dies(self):
        for step in STEPS_HERE + ("given_up",):
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
                self.assertEqual(pair.finish(), self.passed)

    def test_both_end_when_the_node_dies_later(self):
        for step in ("start_seen", "decided", "one_hollow", "hollowed"):
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                self.assertEqual(pair.finish(), (125, b""))
                cli.wait_until(lambda: pair.child not in cli.processes())

    def test_one_that_is_killed_on_the_way_is_killed_at_both_ends(self):
        """Until it is given up all of it stays."""
        for step in ("sent", "given_up", "start_seen", "decided"):
            with self.subTest(step):
                pair = self.pair()
                command, session = self.stopped_at(step, pair.pid)
                os.kill(pair.child, signal.SIGKILL)
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75 if step == "sent" else 0, err)
                self.assertEqual(pair.finish(), (9, b"-9 True\n"))

    def test_what_has_begun_there_gets_the_terminals_signals_once(self):
        """Of a group of three one has no deputy."""
        code = """if True:
            import os, signal, sys
            def count(number, frame): os.write(1, f"{os.getpid()} got it\\n".encode())
            signal.signal(signal.SIGINT, count)
            middle = os.fork()
            print("ready", flush=True)
            last = middle
            if middle == 0:
                sys.stdin.readline()
                last = os.fork()
            # A pause() that a signal comes just before never ends.
            r, w = os.pipe()
            os.set_blocking(w, False)
            signal.set_wakeup_fd(w)
            # Python forgets what comes to a child before it is one (PyOS_AfterFork_Child).
            if last == 0: print("begun", flush=True)
            while True: os.read(r, 1)"""
        shell = cli.Shell()
        self.addCleanup(shell.close)
        script = self.folder / "job.py"
        script.write_text(code)
        shell.type(f"{sys.executable} {script}\n")
        for _ in range(2):
            shell.expect("ready")
        job, = cli.children(shell.pid)
        self.assertEqual(call("move", job, self.node).returncode, 0)
        first = self.guest_of(job)
        shell.type("\n")
        shell.expect("begun")
        for _ in range(3):
            shell.type("\x03")
            said = {shell.expect(r"(\d+) got it\r\n")[1] for _ in range(3)}
            self.assertEqual(len(said), 3)
        middle, = cli.children(first)
        last, = cli.children(middle)
        for pid in (last, *cli.children(job), job):
            os.kill(pid, signal.SIGKILL)
        cli.wait_until(lambda: not {first, middle, last} & set(cli.processes()))


class DetachTree(DepartureTest):
    """Nothing of it stays at home."""
    command = "move"

    def test_both_pids_end_and_they_live_on_there(self):
        process, child, output = self.hermits()
        done = call("move", process.pid, self.node, "--detach", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        cli.wait_until(lambda: child not in cli.processes())
        os.kill(json.loads(done.stdout)["pid"], signal.SIGTERM)
        cli.wait_until(lambda: output.read_bytes() == b"ready\nready\ndone\n")

    def test_both_go_on_here_when_the_move_dies(self):
        for step in STEPS_HERE + STEPS_AWAY:
            with self.subTest(step):
                process, _, output = self.hermits()
                command, session = self.stopped_at(step, process.pid, "--detach")
                os.kill(session, signal.SIGKILL)
                self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
                process.terminate()
                self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
                self.assertEqual(output.read_bytes(), b"ready\nready\ndone\n")

    def test_they_are_there_alone_once_they_were_let_go(self):
        process, child, output = self.hermits()
        command, session = self.stopped_at("let_go", process.pid, "--detach")
        guest, = (entry["pid"] for entry in sessions() if entry["role"] == "guest" and
                  self.is_of_this_telepad(entry["pid"]))
        os.kill(session, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        cli.wait_until(lambda: child not in cli.processes())
        os.kill(guest, signal.SIGTERM)
        cli.wait_until(lambda: output.read_bytes() == b"ready\nready\ndone\n")


# A shell script of which a terminal's job is made: a pipeline of two beside the shell itself, each of
# which says which signals of the terminal it gets.
JOB = """
trap 'echo got-INT-shell' INT
python3 -u -c "
import signal, sys
signal.signal(signal.SIGINT, lambda *_: print('got-INT-first', file=sys.stderr))
print('ready', flush=True)
for line in iter(sys.stdin.readline, ''): print(line, end='', flush=True)
" | python3 -u -c "
import signal, sys
signal.signal(signal.SIGINT, lambda *_: print('got-INT-last'))
for line in iter(sys.stdin.readline, ''): print('[' + line.strip() + ']')
sys.exit(5)
"
"""


class Job(DepartureTest):
    """A pipeline that is a job of an interactive shell's, on a terminal."""
    command = "move"

    def moved(self):
        shell = cli.Shell()
        self.addCleanup(shell.close)
        script = self.folder / "job.sh"
        script.write_text(JOB)
        shell.type(f"bash {script}; echo status=$?\n")
        shell.expect(r"\[ready\]\r\n")
        job, = cli.children(shell.pid)
        done = call("move", job, self.node)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"and 2 more run", done.stderr)
        for pid in (job, *cli.children(job)):
            self.assertTrue(is_deputy(pid), pid)
        return shell, job

    def states(self, job):
        states = cli.processes()
        return {states[pid] for pid in (job, *cli.children(job))}

    def test_reads_the_terminal_and_tells_its_status(self):
        shell, job = self.moved()
        shell.type("word\n")
        shell.expect(r"\[word\]\r\n")
        shell.type("\x04")
        shell.expect("status=5")
        self.assertNotIn(job, cli.processes())

    def test_is_stopped_and_put_into_the_foreground_again(self):
        shell, job = self.moved()
        for _ in range(2):
            shell.type("\x1a")
            shell.expect("Stopped")
            cli.wait_until(lambda: self.states(job) <= {"T", "t"})
            shell.type("fg\n")
            cli.wait_until(lambda: self.states(job) == {"S"})
            shell.type("again\n")
            shell.expect(r"\[again\]\r\n")
        shell.type("\x04")
        shell.expect("PROMPT> ")

    def test_an_interrupt_reaches_each_once(self):
        shell, _ = self.moved()
        shell.type("\x03")
        shell.expect("got-INT-(first|last)")
        shell.expect("got-INT-(first|last)")
        shell.type("word\n")
        shell.expect(r"\[word\]\r\n")
        shell.type("\x04")
        # The script's own trap waits until they have ended.
        rest = shell.expect(r"(?s)(.*)status=5")[1]
        self.assertEqual((rest.count(b"got-INT-shell"), rest.count(b"got-INT")), (1, 1))

    def test_a_kill_of_the_group_ends_all_of_it(self):
        shell, job = self.moved()
        pids = [job, *cli.children(job)]
        os.killpg(job, signal.SIGTERM)
        shell.expect("status=143")
        cli.wait_until(lambda: not set(pids) & set(cli.processes()))


if __name__ == "__main__":
    cli.main()
