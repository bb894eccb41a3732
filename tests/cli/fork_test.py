#!/usr/bin/env python3
"""telefork fork: a copy of a running process that knows nothing of it, on a telepad of the same
machine, while the process itself runs on."""
import fcntl
import json
import os
import signal
import socket
import sys

import cli
from cli import call
from departure import (COPY_STEPS, COPY_STEPS_AWAY, CopyTest, arguments_of, is_deputy, kill,
                       sessions)


class Fork(CopyTest):
    def computing(self, *arguments):
        """A victim that looks at itself when it gets SIGUSR1; nobody has its stdin."""
        victim = self.victim(*arguments, env={**os.environ, "VICTIM_WAITS_FOR_SIGNAL": "1"})
        return victim

    def passes(self, victim):
        """The original, that nothing has been done to. What its copies hold ends with them."""
        self.assertEqual(cli.children(victim.pid), [])
        self.end_copies()
        os.kill(victim.pid, signal.SIGUSR1)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_both_pass(self):
        victim = self.computing(4, 8, __file__)
        told = self.fork(victim.pid)
        self.assertTrue(is_deputy(told["home_pid"]))
        self.assertFalse(is_deputy(victim.pid))
        os.kill(told["home_pid"], signal.SIGUSR1)
        self.assertEqual(victim.process.stdout.readline(), b"pass\n")
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        self.passes(victim)

    def test_it_outlives_the_original(self):
        victim = self.computing(2)
        told = self.fork(victim.pid)
        victim.process.kill()
        self.assertEqual(victim.process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        os.kill(told["home_pid"], signal.SIGUSR1)
        self.assertEqual(victim.process.stdout.read(), b"pass\n")
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())

    def test_json(self):
        victim = self.computing()
        told = self.fork(victim.pid)
        self.assertEqual((told["guest_pid"], told["node"], told["mode"], told["warnings"]),
                         (victim.pid, self.node, "eager", []))
        self.assertGreater(told["pages_sent"], 256)
        self.assertGreater(told["bytes_sent"], told["pages_sent"] * 4096)
        shares = told["steps_ms"]
        self.assertEqual(list(shares), [*COPY_STEPS, *COPY_STEPS_AWAY])
        self.assertLessEqual(sum(shares.values()), told["total_ms"])
        self.assertLess(told["freeze_ms"], told["total_ms"])
        self.assertEqual(self.guest_of(told["home_pid"]), told["pid"])
        self.assertIsNone(self.guest_of(victim.pid))
        self.assertEqual(arguments_of(told["home_pid"]), arguments_of(victim.pid))
        self.passes(victim)

    def test_copies_to_a_node_of_its_own(self):
        victim = self.computing(1)
        done = call("fork", victim.pid, "local", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        os.kill(told["home_pid"], signal.SIGUSR1)
        self.assertEqual(victim.process.stdout.readline(), b"pass\n")
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        self.passes(victim)

    def test_signals_reach_each_by_its_own_pid(self):
        process = self.listener()
        told = self.fork(process.pid)
        realtime = signal.SIGRTMIN + 1
        for pid, number in ((process.pid, realtime), (told["home_pid"], signal.SIGUSR1)):
            os.kill(pid, number)
            self.assertEqual(process.stdout.readline(), b"%d\n" % number)
        os.kill(told["home_pid"], signal.SIGTERM)
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        self.assertEqual(self.guests(), [])
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.communicate(timeout=cli.PATIENCE), (b"", b""))
        self.assertEqual(process.returncode, 9)

    def test_who_kills_its_pid_kills_the_copy(self):
        victim = self.computing(1)
        told = self.fork(victim.pid)
        os.kill(told["home_pid"], signal.SIGKILL)
        cli.wait_until(lambda: told["pid"] not in cli.processes())
        self.passes(victim)

    def test_one_copy_after_the_other(self):
        victim = self.computing(3, 4)
        pids = {self.fork(victim.pid)["home_pid"] for _ in range(3)}
        self.assertEqual(len(pids), 3)
        self.assertEqual(len(self.guests()), 3)
        self.passes(victim)

    def holder(self, *fds):
        """One that has these descriptors, and waits."""
        code = "import signal; print('ready', flush=True); signal.sigwait([signal.SIGUSR1])"
        process = self.start(sys.executable, "-c", "import signal; signal.pthread_sigmask("
                             "signal.SIG_BLOCK, [signal.SIGUSR1]); " + code, pass_fds=fds)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def refused(self, process, *texts):
        """By check and fork in the same words."""
        done = call("fork", process.pid, self.node)
        self.refuses(done, 3, *texts)
        checked = call("check", process.pid, self.node, "--for", "copy")
        self.assertEqual(checked.returncode, 3, checked.stderr)
        self.assertEqual(checked.stdout.splitlines()[1:], done.stderr.splitlines())
        self.assertIsNone(process.poll())

    def test_refuses_what_only_one_can_have(self):
        listening = socket.create_server(("127.0.0.1", 0))
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", 0))
        named = socket.socket(socket.AF_UNIX)
        named.bind(str(self.folder / "name"))
        reader, writer = os.pipe()
        for one in (listening, bound, named):
            self.addCleanup(one.close)
        fds = [one.fileno() for one in (listening, bound, named)]
        process = self.holder(*fds, reader)
        # Then nobody else has them.
        for one in (listening, bound, named):
            one.close()
        kept = "the original keeps it, and only one can have it"
        self.refused(process, f"fd {reader} -> pipe:", *[f"fd {fd} -> socket:" for fd in fds], kept,
                     "or leave it at home (--leave-fds)")
        os.close(reader)
        os.close(writer)
        checked, told = cli.call_json("check", process.pid, self.node, "--for", "copy",
                                      "--leave-fds")
        self.assertEqual((checked, len(told["left_home"])), (0, 3), told)
        told = self.fork(process.pid, "--leave-fds")
        os.kill(told["home_pid"], signal.SIGUSR1)
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())

    def test_watches_nothing_of_what_it_leaves(self):
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        ours.send(b"x")
        code = "import os, select, signal, sys\n" \
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" \
            "kept, event, epoll = int(sys.argv[1]), os.eventfd(1), select.epoll()\n" \
            "epoll.register(kept, select.EPOLLIN)\n" \
            "epoll.register(event, select.EPOLLIN)\n" \
            "os.write(1, b'ready\\n')\n" \
            "signal.sigwait([signal.SIGUSR1])\n" \
            "os.write(1, b'%d ready\\n' % len(epoll.poll()))\n"
        process = self.start(sys.executable, "-c", code, str(theirs.fileno()),
                             pass_fds=[theirs.fileno()])
        theirs.close()
        self.assertEqual(process.stdout.readline(), b"ready\n")
        self.refuses(call("fork", process.pid, self.node), 3, "-> socket:")
        told = self.fork(process.pid, "--leave-fds")
        os.kill(told["home_pid"], signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), b"1 ready\n")
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        os.kill(process.pid, signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), b"2 ready\n")

    def test_refuses_a_lock(self):
        with open(self.folder / "file", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            process = self.holder(file.fileno())
        self.refused(process, "the original keeps it, and only one can have it")

    def test_refuses_what_cannot_be_copied(self):
        self.refuses(call("fork", 2**22 - 1, self.node), 3, "there is no such process")
        victim = self.computing()
        self.refuses(call("fork", victim.pid, "unix:/nowhere"), 4, "/nowhere")
        self.refuses(call("fork", victim.pid, ""), 2)
        asks = "import os, subprocess, sys\n" \
            "sys.exit(subprocess.run([*sys.argv[1:3], str(os.getpid()), sys.argv[3]]).returncode)\n"
        asking = self.start(sys.executable, "-c", asks, cli.TELEFORK, "fork", self.node)
        _, err = asking.communicate(timeout=cli.PATIENCE)
        self.assertEqual(asking.returncode, 3, err)
        self.assertIn(b"telefork itself is among its children", err)
        self.passes(victim)

    def test_the_original_runs_on_when_the_session_dies(self):
        """Its snapshot has ended with it, and is reaped by who asked for the copy."""
        for step in COPY_STEPS + COPY_STEPS_AWAY:
            with self.subTest(step):
                victim = self.computing(3, 2)
                command, session = self.stopped_at(step, victim.pid)
                os.kill(session, signal.SIGKILL)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 1, err)
                self.assertIn(b"%d itself runs on here" % victim.pid, err)
                cli.wait_until(lambda: not self.guests())
                self.passes(victim)

    def test_the_original_runs_on_when_all_of_it_dies(self):
        """Nobody is left to reap the snapshot: nothing of it but its number is there."""
        victim = self.computing(3, 2)
        command, session = self.stopped_at("forked", victim.pid)
        snapshot, = cli.children(victim.pid)
        command.kill()
        os.kill(session, signal.SIGKILL)
        cli.wait_until(lambda: cli.processes()[snapshot] == "Z")
        os.kill(victim.pid, signal.SIGUSR1)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_the_original_runs_while_its_snapshot_is_read(self):
        victim = self.computing(3, 2)
        command, session = self.stopped_at("forked", victim.pid)
        self.assertEqual(len(cli.children(victim.pid)), 1)
        victim.process.kill()
        self.assertEqual(victim.process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        home, = [entry["pid"] for entry in sessions() if entry["guest_pid"] == self.guests()[0]["pid"]
                 and entry["role"] == "away"]
        os.kill(home, signal.SIGUSR1)
        self.assertEqual(victim.process.stdout.read(), b"pass\n")

    def test_a_wish_not_to_have_it_is_heard_until_it_is_given_up(self):
        for step in COPY_STEPS:
            with self.subTest(step):
                victim = self.computing(3, 2)
                command, session = self.stopped_at(step, victim.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"interrupted while copying", err)
                self.assertEqual(self.guests(), [])
                self.passes(victim)

    def test_the_original_runs_on_when_the_node_dies(self):
        for step in COPY_STEPS + COPY_STEPS_AWAY[:1]:
            with self.subTest(step):
                victim = self.computing(3, 2)
                command, session = self.stopped_at(step, victim.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn(b"runs on here", err)
                self.passes(victim)

    def test_the_pid_of_the_copy_ends_with_the_node(self):
        victim = self.computing(1)
        told = self.fork(victim.pid)
        self.kill_keepers()
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        self.passes(victim)


if __name__ == "__main__":
    cli.main()
