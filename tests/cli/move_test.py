#!/usr/bin/env python3
"""telefork move: a running process that knows nothing of it, to a telepad of the same machine."""
import json
import os
import re
import signal
import subprocess
import sys

import cli
from cli import call
from departure import (LISTENER, STEPS_HERE, DepartureTest, is_deputy, sessions)

STEPS_AWAY = ("given_up", "go_sent", "start_seen")


class Move(DepartureTest):
    command = "move"

    def is_away(self, pid):
        return is_deputy(pid)

    def move(self, pid, *flags):
        done = call("move", pid, self.node, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(self.is_away(pid))
        return done

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

    def test_what_is_away_goes_nowhere_else(self):
        victim = self.victim(1)
        self.move(victim.pid)
        remedy = f"it is on {self.node}: `telefork home {victim.pid}` brings it back"
        for command in (["move", victim.pid, "local"], ["fork", victim.pid, self.node],
                        ["save", victim.pid, self.folder / "image"]):
            self.refuses(call(*command), 3, f"process {victim.pid}: {remedy}")
        code, told = cli.call_json("check", victim.pid, self.node)
        self.assertEqual(code, 3)
        self.assertIn(remedy, told["refused"][0])
        # Its parent would take it along.
        self.assertIn(remedy.encode(), call("check", os.getpid()).stdout)
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
        for _ in range(20):
            os.kill(process.pid, realtime)
        self.move(process.pid)
        os.kill(process.pid, signal.SIGCONT)
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

    def stopped(self, options=os.WSTOPPED):
        process = self.listener()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, options)
        return process

    def test_what_is_stopped_is_stopped_there_until_it_is_continued_here(self):
        process = self.stopped()
        self.move(process.pid)
        guest = self.guest_of(process.pid)
        cli.wait_until(lambda: cli.processes()[guest] == "T")
        self.assertEqual(os.waitpid(process.pid, os.WUNTRACED | os.WCONTINUED | os.WNOHANG), (0, 0))
        os.kill(process.pid, signal.SIGUSR1)
        os.kill(process.pid, signal.SIGCONT)
        _, status = os.waitpid(process.pid, os.WCONTINUED)
        self.assertTrue(os.WIFCONTINUED(status))
        self.assertEqual(process.stdout.readline(), b"%d\n" % signal.SIGUSR1)
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

    def test_its_parent_is_told_of_a_stop_once(self):
        process = self.stopped(os.WSTOPPED | os.WNOWAIT)
        self.move(process.pid)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        guest = self.guest_of(process.pid)
        cli.wait_until(lambda: cli.processes()[guest] == "T")
        self.assertEqual(os.waitpid(process.pid, os.WUNTRACED | os.WCONTINUED | os.WNOHANG), (0, 0))
        os.kill(process.pid, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        cli.wait_until(lambda: guest not in cli.processes())

    def test_what_is_stopped_ends_with_its_session_or_by_a_signal_there(self):
        for ends_there in (False, True):
            with self.subTest(ends_there):
                process = self.stopped()
                self.move(process.pid)
                guest = self.guest_of(process.pid)
                status = cli.pathlib.Path(f"/proc/{process.pid}/status").read_text()
                session = int(re.search(r"^TracerPid:\t(\d+)$", status, re.M).group(1))
                os.kill(guest if ends_there else session, signal.SIGKILL)
                self.assertEqual(process.wait(timeout=cli.PATIENCE),
                                 -signal.SIGKILL if ends_there else 125)

    def test_what_is_stopped_goes_on_there_when_it_is_continued_there(self):
        process = self.stopped()
        self.move(process.pid)
        guest = self.guest_of(process.pid)
        os.kill(guest, signal.SIGCONT)
        _, status = os.waitpid(process.pid, os.WCONTINUED)
        self.assertTrue(os.WIFCONTINUED(status))
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

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
        process = self.listener()
        self.refuses(call("move", process.pid, "unix:/nowhere"), 4, "/nowhere")
        self.refuses(call("move", process.pid, ""), 2)
        self.refuses(call("move", "x", self.node), 2)
        self.assertIsNone(process.poll())

    def test_it_goes_on_here_when_the_move_dies(self):
        """From when it is given up on, not before its lease is over: it may run there."""
        for step in STEPS_HERE + STEPS_AWAY:
            with self.subTest(step):
                victim = self.victim(3, 2)
                command, session = self.stopped_at(step, victim.pid)
                os.kill(session, signal.SIGKILL)
                self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_the_pid_ends_when_the_session_dies_later(self):
        victim = self.victim(3, 2, stderr=subprocess.PIPE)
        command, session = self.stopped_at("hollowed", victim.pid)
        os.kill(session, signal.SIGKILL)
        out, err = victim.process.communicate(b"go\n", timeout=cli.PATIENCE)
        self.assertEqual((victim.process.returncode, out), (125, b""))
        self.assertIn(b"what became of the guest is not known", err)

    def test_a_wish_not_to_move_is_heard_until_it_is_given_up(self):
        for step in STEPS_HERE:
            with self.subTest(step):
                victim = self.victim(3, 2)
                command, session = self.stopped_at(step, victim.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"interrupted while moving", err)
                self.assertFalse(self.is_away(victim.pid))
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_it_goes_on_here_when_the_node_dies(self):
        for step in STEPS_HERE + ("given_up",):
            with self.subTest(step):
                victim = self.victim(3, 2)
                command, session = self.stopped_at(step, victim.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"runs on here", err)
                self.assertEqual(victim.finish(), (42, b"pass\n"))


class Detach(DepartureTest):
    """Nothing stays at home."""
    command = "move"

    def ends_there(self, process, output, guest):
        os.kill(guest, signal.SIGUSR1)
        cli.wait_until(lambda: output.read_bytes() == b"ready %d\n%d\n" % (process.pid,
                                                                          signal.SIGUSR1))
        os.kill(guest, signal.SIGTERM)
        cli.wait_until(lambda: guest not in cli.processes() and not self.guests())

    def test_the_pid_ends_and_it_lives_on_there(self):
        process, output = self.hermit()
        done = call("move", process.pid, self.node, "--detach", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        told = json.loads(done.stdout)
        self.assertEqual((told["guest_pid"], told["warnings"]), (process.pid, []))
        guest, = self.guests()
        self.assertEqual((guest["pid"], guest["state"]), (told["pid"], "detached"))
        self.assertIsNone(self.guest_of(process.pid))
        self.ends_there(process, output, told["pid"])

    def test_a_stop_there_is_nobodys_business_here(self):
        process, output = self.hermit()
        told = json.loads(call("move", process.pid, self.node, "--detach", "--json").stdout)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        os.kill(told["pid"], signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes()[told["pid"]] == "T")
        os.kill(told["pid"], signal.SIGCONT)
        self.ends_there(process, output, told["pid"])

    def test_refuses_streams_that_nobody_would_carry(self):
        process = self.listener()
        why = "nothing of the process stays here that could carry this stream"
        self.refuses(call("move", process.pid, self.node, "--detach"), 3,
                     "fd 0 -> pipe:", "fd 1 -> pipe:", "fd 2 -> pipe:", why)
        checked = call("check", process.pid, self.node, "--detach")
        self.assertEqual(checked.returncode, 3, checked.stderr)
        self.assertEqual(checked.stdout.count(why.encode()), 3)
        self.assertIsNone(process.poll())
        self.refuses(call("check", process.pid, "--detach"), 2)
        process.kill()

    def test_refuses_a_node_that_ends_with_the_session(self):
        process, output = self.hermit()
        why = "no process can stay on local by itself"
        self.refuses(call("move", process.pid, "local", "--detach"), 3, why)
        self.assertIn(why.encode(), call("check", process.pid, "local", "--detach").stdout)
        self.runs_here(process, output)

    def test_it_goes_on_here_when_the_move_dies(self):
        for step in STEPS_HERE + STEPS_AWAY:
            with self.subTest(step):
                process, output = self.hermit()
                command, session = self.stopped_at(step, process.pid, "--detach")
                os.kill(session, signal.SIGKILL)
                self.assertEqual(command.wait(timeout=cli.PATIENCE), 1)
                self.runs_here(process, output)

    def test_it_goes_on_here_when_the_node_dies(self):
        for step in STEPS_HERE + STEPS_AWAY + ("held_back",):
            with self.subTest(step):
                process, output = self.hermit()
                command, session = self.stopped_at(step, process.pid, "--detach")
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.runs_here(process, output)

    def test_it_is_there_alone_once_it_was_let_go(self):
        process, output = self.hermit()
        _, session = self.stopped_at("let_go", process.pid, "--detach")
        guest, = self.guests()
        os.kill(session, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        self.ends_there(process, output, guest["pid"])


if __name__ == "__main__":
    cli.main()
