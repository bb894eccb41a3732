#!/usr/bin/env python3
"""telefork home: a process that `telefork move` took away comes back to its pid."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import unittest

import cli
from cli import call
from departure import (LISTENER, SHORT_LEASE, STEPS_AFTER, STEPS_BEFORE, STEPS_WHOLE,
                       DepartureTest, arguments_of, is_deputy, kill, sessions)

# Echoes lines until one says end; then it says how many there were.
ECHO = """
import sys
count = 0
print("ready", flush=True)
for line in iter(sys.stdin.readline, "end\\n"):
    if not line: break
    count += 1
    print(line.strip(), flush=True)
print(count, flush=True)
sys.exit(5)
"""


IS_ROOT = os.geteuid() == 0
# Only root can give threads their ids.
THREADS = 3 if IS_ROOT else 0


class Home(DepartureTest):
    command = "move"

    def is_away(self, pid):
        return is_deputy(pid)

    def move(self, pid):
        done = call("move", pid, self.node)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(self.is_away(pid))

    def home(self, pid, *flags):
        done = call("home", pid, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertFalse(self.is_away(pid))
        return done

    def entries(self, pid):
        return [e for e in sessions() if pid in (e["pid"], e["guest_pid"])]

    def away(self, *arguments, environment=None, node=None, **options):
        """A victim that was moved -> (it, its guest)."""
        victim = self.victim(*arguments, **options)
        done = call("move", victim.pid, node or self.node, "--json",
                    env={**os.environ, **(environment or {})})
        self.assertEqual(done.returncode, 0, done.stderr)
        return victim, json.loads(done.stdout)["pid"]

    def test_comes_back_five_times(self):
        victim = self.victim(THREADS, 8, __file__)
        threads = sorted(os.listdir(f"/proc/{victim.pid}/task"))
        for _ in range(5):
            self.move(victim.pid)
            self.home(victim.pid)
            self.assertEqual(sorted(os.listdir(f"/proc/{victim.pid}/task")), threads)
            cli.wait_until(lambda: self.entries(victim.pid) == [])
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_with_a_stderr_that_an_exec_closes_or_none(self):
        for prepare in ("os.set_inheritable(2, False)", "os.close(2)"):
            program = subprocess.Popen([sys.executable, "-c", f"import os; {prepare}\n" + ECHO],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.addCleanup(program.kill)
            self.assertEqual(program.stdout.readline(), b"ready\n")
            before = self.stderr_of(program.pid)
            for _ in range(2):
                self.move(program.pid)
                # The deputy may have something to say. Where there is none the number is free.
                if before:
                    self.assertEqual(self.stderr_of(program.pid), before)
                self.home(program.pid)
                self.assertEqual(self.stderr_of(program.pid), before)
            self.assertEqual(program.communicate(b"a\nend\n", timeout=cli.PATIENCE)[0], b"a\n1\n")
            self.assertEqual(program.returncode, 5)

    def stderr_of(self, pid):
        link = f"/proc/{pid}/fd/2"
        return os.readlink(link) if os.path.lexists(link) else None

    def test_tells_json(self):
        victim, guest = self.away(0)
        told = json.loads(self.home(victim.pid, "--json").stdout)
        self.assertEqual((told["pid"], told["guest_pid"], told["node"], told["mode"],
                          told["warnings"]), (victim.pid, victim.pid, self.node, "eager", []))
        self.assertGreater(told["pages_sent"], 256)
        self.assertGreater(told["bytes_sent"], told["pages_sent"] * 4096)
        self.assertEqual(list(told["steps_ms"]),
                         [*STEPS_BEFORE, *STEPS_WHOLE, *STEPS_AFTER, "released"])
        self.assertLessEqual(told["freeze_ms"], told["total_ms"])
        self.assertNotIn(guest, cli.processes())
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_from_a_node_of_its_own_of_which_nothing_is_left(self):
        victim, guest = self.away(THREADS, 4, node="local")
        self.home(victim.pid)
        self.assertNotIn(guest, cli.processes())
        cli.wait_until(lambda: not [
            pid for pid in cli.processes()
            if arguments_of(pid)[1:4] == [b"move", b"%d" % victim.pid, b"local"]])
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_parent_and_group_are_those_that_it_had(self):
        process = self.listener()
        before = self.place_of(process.pid)
        self.move(process.pid)
        self.home(process.pid)
        self.assertEqual(self.place_of(process.pid), before)
        os.kill(process.pid, signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), b"%d\n" % signal.SIGUSR1)
        os.kill(process.pid, signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        os.kill(process.pid, signal.SIGCONT)
        os.waitpid(process.pid, os.WCONTINUED)
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

    def place_of(self, pid):
        """Parent, process group, session, terminal, and its streams."""
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        streams = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
        return text[text.rindex(")") + 4:].split()[:4], streams

    def test_signals_on_the_way_reach_it_once(self):
        for step in STEPS_BEFORE + STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                process = self.listener()
                self.move(process.pid)
                command, session = self.stopped_home(step, process.pid)
                realtime = signal.SIGRTMIN + 1
                for _ in range(3):
                    os.kill(process.pid, realtime)
                os.kill(session, signal.SIGCONT)
                command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 0)
                os.kill(process.pid, signal.SIGTERM)
                out, _ = process.communicate(timeout=cli.PATIENCE)
                # It takes the lowest number first, and ends with SIGTERM.
                self.assertLessEqual(out.count(b"%d\n" % realtime), 3)
                self.assertEqual(process.returncode, 9)

    def test_a_signal_on_the_way_ends_what_it_waits_in(self):
        """Its handler has run, and the call is not made again as if nothing had happened."""
        waits = "import os, select, signal, sys, threading, time\n" \
            "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'got\\n'))\n" \
            "r, w = os.pipe()\nlists = select.poll()\nlists.register(r)\n" \
            "os.write(1, b'ready\\n')\nwhile True: eval(sys.argv[1])\n"
        for call in ("signal.pause()", "os.read(r, 1)", "lists.poll()", "lists.poll(10**8)",
                     "time.sleep(10**5)", "threading.Event().wait()"):
            with self.subTest(call):
                process = self.start(sys.executable, "-c", waits, call)
                self.assertEqual(process.stdout.readline(), b"ready\n")
                cli.wait_until(lambda: cli.processes()[process.pid] == "S")
                for stopped, step in ((self.stopped_at, "sent"), (self.stopped_home, "ready_sent")):
                    command, session = stopped(step, process.pid)
                    os.kill(process.pid, signal.SIGUSR1)
                    os.kill(session, signal.SIGCONT)
                    self.assertEqual(process.stdout.readline(), b"got\n")
                    _, err = command.communicate(timeout=cli.PATIENCE)
                    self.assertEqual(command.returncode, 0, err)
                process.kill()

    def test_what_was_stopped_there_is_stopped_here(self):
        process = self.listener()
        self.move(process.pid)
        guest = self.guest_of(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes()[guest] == "T")
        self.home(process.pid)
        cli.wait_until(lambda: cli.processes()[process.pid] == "T")
        os.kill(process.pid, signal.SIGUSR1)
        os.kill(process.pid, signal.SIGCONT)
        self.assertEqual(process.stdout.readline(), b"%d\n" % signal.SIGUSR1)
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

    def test_input_that_was_not_read_there_is_read_here(self):
        process = self.start(sys.executable, "-c", ECHO)
        process.stdout.readline()
        self.move(process.pid)
        process.stdin.write(b"one\n")
        process.stdin.flush()
        self.assertEqual(process.stdout.readline(), b"one\n")
        guest = self.guest_of(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes()[guest] == "T")
        many = b"".join(b"%d\n" % i for i in range(20000))
        process.stdin.write(many[:100000])
        process.stdin.flush()
        os.kill(process.pid, signal.SIGCONT)
        cli.wait_until(lambda: cli.is_running(guest))
        # Which waits for somebody to read what it has written there.
        home = self.start(cli.TELEFORK, "home", str(process.pid))
        read = []
        reader = threading.Thread(target=lambda: read.append(process.stdout.read()))
        reader.start()
        _, err = home.communicate(timeout=cli.PATIENCE)
        self.assertEqual(home.returncode, 0, err)
        process.stdin.write(many[100000:] + b"end\n")
        process.stdin.flush()
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 5)
        reader.join()
        self.assertEqual(read, [many + b"20001\n"])

    def test_input_that_waits_there_comes_with_it_twice(self):
        """Nobody reads it before it is home: it is in the pipe there."""
        slow = "import os, signal, sys\n" \
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" \
            "print('ready', flush=True); signal.sigwait([signal.SIGUSR1])\n" \
            "print(sys.stdin.read(), end='')\n"
        process = self.start(sys.executable, "-c", slow)
        process.stdout.readline()
        text = b"x" * 150000 + b"\n"
        for part in (text[:50000], text[50000:]):
            self.move(process.pid)
            process.stdin.write(part)
            process.stdin.flush()
            self.home(process.pid)
        os.kill(process.pid, signal.SIGUSR1)
        out, _ = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual(out, text)
        self.assertEqual(process.returncode, 0)

    def test_a_call_that_was_stopped_before_goes_on(self):
        """The kernel continues it as restart_syscall(2), by what it keeps of it itself."""
        poll = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n" \
            "entry = (ctypes.c_short * 4)(0, 0, 1, 0)\nprint('ready', flush=True)\n" \
            "print(libc.poll(entry, 1, 10**8), ctypes.get_errno(), flush=True)\n"
        process = self.start(sys.executable, "-c", poll)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        cli.wait_until(lambda: cli.processes()[process.pid] == "S")
        for _ in range(2):
            self.move(process.pid)
            for _ in range(2):
                os.kill(process.pid, signal.SIGSTOP)
                os.waitpid(process.pid, os.WUNTRACED)
                os.kill(process.pid, signal.SIGCONT)
                os.waitpid(process.pid, os.WCONTINUED)
            guest = self.guest_of(process.pid)
            cli.wait_until(lambda: cli.processes()[guest] == "S")
            command, session = self.stopped_home("taken_home", process.pid)
            self.interrupt(command, session)
            self.home(process.pid)
        out, _ = process.communicate(b"x", timeout=cli.PATIENCE)
        self.assertEqual(out, b"1 0\n")

    def test_output_is_in_order(self):
        count = "import sys\nprint('ready', flush=True)\n" \
            "for i in range(200000): print(i, flush=i % 100 == 0)\n"
        process = self.start(sys.executable, "-c", count)
        begin = os.read(process.stdout.fileno(), 4096)
        self.move(process.pid)
        while len(begin) < 70000:
            begin += os.read(process.stdout.fileno(), 4096)
        home = self.start(cli.TELEFORK, "home", str(process.pid))
        out, _ = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual(begin + out, b"ready\n" + b"".join(b"%d\n" % i for i in range(200000)))
        self.assertEqual(process.returncode, 0)
        home.communicate(timeout=cli.PATIENCE)

    def test_job_of_a_shell(self):
        shell = cli.Shell()
        self.addCleanup(shell.close)
        shell.type(f"{sys.executable} -c 'import sys\nfor l in sys.stdin: print(\"got\", l)' &\n")
        pid = int(shell.expect(r"\[1\] (\d+)")[1])
        shell.expect("PROMPT> ")
        cli.wait_until(lambda: cli.processes()[pid] == "T")
        self.assertEqual(shell.command("jobs") , 0)
        shell.type("fg\n")
        shell.type("first\n")
        shell.expect("got first")
        self.move(pid)
        shell.type("second\n")
        shell.expect("got second")
        self.home(pid)
        shell.type("third\n")
        shell.expect("got third")
        shell.type("\x04")
        shell.expect("PROMPT> ")

    def test_refuses_who_is_not_away(self):
        self.refuses(call("home", 2**22 - 1), 3, "there is no such process")
        victim = self.victim(1)
        self.refuses(call("home", victim.pid), 3, "it is not away")
        self.refuses(call("home", "x"), 2)
        run = self.start(cli.TELEFORK, "run", self.node, "cat")
        cli.wait_until(lambda: [entry["state"] for entry in self.entries(run.pid)] == ["away"])
        self.refuses(call("home", run.pid), 3, "a command of telefork run")
        _, guest = self.away(1)
        self.refuses(call("home", guest), 3, "it is a guest here")

    def test_refuses_what_cannot_come(self):
        """It runs on there."""
        script = "import os, signal, sys, time\nprint('ready', flush=True)\n" \
            "sys.stdin.readline()\nr, w = os.pipe()\npid = os.fork()\n" \
            "if pid == 0:\n" \
            "    if os.fork() == 0: os.write(w, b'%d ' % os.getpid()); time.sleep(1000)\n" \
            "    os._exit(0)\n" \
            "os.wait(); pid = int(os.read(r, 16)); os.close(r); os.close(w)\n" \
            "print('forked', flush=True)\n" \
            "sys.stdin.readline(); os.kill(pid, signal.SIGKILL)\n" \
            "print('alone', flush=True); sys.stdin.readline(); sys.exit(3)\n"
        process = self.start(sys.executable, "-c", script)
        self.move_when(process, b"ready\n")
        self.say(process, b"forked\n")
        self.refuses(call("home", process.pid), 3, "whose parent has ended")
        self.assertTrue(self.is_away(process.pid))
        self.say(process, b"alone\n")
        cli.wait_until(lambda: call("home", process.pid).returncode == 0)
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 3)

    def move_when(self, process, line):
        self.assertEqual(process.stdout.readline(), line)
        self.move(process.pid)

    def say(self, process, answer):
        process.stdin.write(b"\n")
        process.stdin.flush()
        self.assertEqual(process.stdout.readline(), answer)

    def test_refuses_ids_that_it_cannot_have(self):
        """Of a thread that it began there: another process has it here, or this user may not
        choose."""
        script = "import sys, threading\nprint('ready', flush=True)\nsys.stdin.readline()\n" \
            "event = threading.Event()\nthread = threading.Thread(target=event.wait)\n" \
            "thread.start(); print(thread.native_id, flush=True)\n" \
            "sys.stdin.readline(); event.set(); thread.join(); sys.exit(4)\n"
        process = self.start(sys.executable, "-c", script)
        self.move_when(process, b"ready\n")
        process.stdin.write(b"\n")
        process.stdin.flush()
        tid = int(process.stdout.readline())
        taker = None
        if IS_ROOT and not os.path.exists(f"/proc/{tid}"):
            taker = self.process_with_id(tid)
        self.refuses(call("home", process.pid), 3, f"thread id {tid}",
                     "is taken here" if IS_ROOT else "this user")
        self.assertTrue(self.is_away(process.pid))
        if taker:
            kill(taker)
            os.waitpid(taker, 0)
            self.home(process.pid)
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 4)

    def threads_of_another_user_come_home_as_root(self):
        """One of root's that has become a user who may not choose ids, with threads of here and of
        there."""
        script = "import os, sys, threading\n" \
            "event = threading.Event()\n" \
            "def begin(count):\n" \
            "    return [threading.Thread(target=event.wait) for _ in range(count)]\n" \
            "threads = begin(3)\n" \
            "for thread in threads: thread.start()\n" \
            "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)\n" \
            "print('ready', flush=True); sys.stdin.readline()\n" \
            "threads += begin(2)\n" \
            "for thread in threads[3:]: thread.start()\n" \
            "print(*(thread.native_id for thread in threads[3:]), flush=True)\n" \
            "while sys.stdin.readline() != 'end\\n': pass\n" \
            "event.set()\n" \
            "for thread in threads: thread.join()\n" \
            "print(set(os.getresuid() + os.getresgid())); sys.exit(4)\n"
        process = self.start(sys.executable, "-c", script)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        threads = set(os.listdir(f"/proc/{process.pid}/task"))
        for _ in range(2):
            self.move(process.pid)
            self.home_when_ids_are_free(process.pid)
            self.assertEqual(set(os.listdir(f"/proc/{process.pid}/task")), threads)
        self.move(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        threads.update(process.stdout.readline().decode().split())
        self.home_when_ids_are_free(process.pid)
        self.assertEqual(set(os.listdir(f"/proc/{process.pid}/task")), threads)
        out, err = process.communicate(b"end\n", timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out), (4, b"{65534}\n"), err)

    if IS_ROOT:
        test_threads_of_another_user_come_home = threads_of_another_user_come_home_as_root

    def test_two_that_call_at_once_bring_it_once(self):
        victim, _ = self.away()
        pid = victim.pid
        first, session = self.stopped_home("checked", pid)
        second = subprocess.Popen([cli.TELEFORK, "home", str(pid)], stderr=subprocess.PIPE)
        self.addCleanup(self.end, second)
        # It has called, and waits for the answer.
        cli.wait_until(lambda: "poll" in pathlib.Path(f"/proc/{second.pid}/wchan").read_text())
        os.kill(session, signal.SIGCONT)
        self.assertIn(b"here again", first.communicate(timeout=cli.PATIENCE)[1])
        said = second.communicate(timeout=cli.PATIENCE)[1]
        self.assertEqual((first.returncode, second.returncode), (0, 3), said)
        self.assertEqual(said.count(b"refused: process %d: it has come home meanwhile" % pid), 1, said)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_a_wish_not_to_have_it_is_heard(self):
        for step in STEPS_BEFORE:
            with self.subTest(step):
                victim, guest = self.away(THREADS, 2)
                command, session = self.stopped_home(step, victim.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 75 if step != "checked" else 1, err)
                self.assertIn(b"interrupted while", err)
                self.assertTrue(self.is_away(victim.pid))
                self.assertTrue(cli.is_running(guest))
                self.home(victim.pid)
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_a_wish_comes_too_late_when_it_is_whole(self):
        for step in STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                victim, _ = self.away(THREADS, 2)
                command, session = self.stopped_home(step, victim.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 0, err)
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_the_pid_ends_when_the_session_dies(self):
        """Before it stands here the deputy says why; after it there is nobody who could."""
        for step in STEPS_BEFORE + STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                victim, guest = self.away(THREADS, 2, stderr=subprocess.DEVNULL)
                command, session = self.stopped_home(step, victim.pid)
                os.kill(session, signal.SIGKILL)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 1)
                self.assertIn(b"has ended", err)
                ends = 125 if step in ("checked", "return_seen") else -signal.SIGKILL
                self.assertEqual(victim.wait_for_death(), ends)
                cli.wait_until(lambda: guest not in cli.processes())

    def test_the_pid_ends_when_the_node_dies_before_it_is_whole(self):
        for step in STEPS_BEFORE:
            with self.subTest(step):
                victim, guest = self.away(THREADS, 2, environment=SHORT_LEASE, stderr=subprocess.PIPE)
                command, session = self.stopped_home(step, victim.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                command.communicate(timeout=cli.PATIENCE)
                # All of it was here already.
                if step == "taken_home":
                    self.assertEqual(command.returncode, 0)
                    out, _ = victim.process.communicate(b"go\n", timeout=cli.PATIENCE)
                    self.assertEqual((victim.process.returncode, out), (42, b"pass\n"))
                    continue
                self.assertEqual(command.returncode, 1)
                _, err = victim.process.communicate(b"go\n", timeout=cli.PATIENCE)
                self.assertEqual(victim.process.returncode, 125, err)
                self.assertNotIn(guest, cli.processes())

    def test_it_runs_here_when_the_node_dies_later(self):
        for step in STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                victim, guest = self.away(THREADS, 2, environment=SHORT_LEASE)
                command, session = self.stopped_home(step, victim.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 0, err)
                self.assertNotIn(guest, cli.processes())
                self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_killed_on_the_way_it_ends_there_too(self):
        for step in STEPS_BEFORE + STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                victim, guest = self.away(THREADS, 2)
                command, session = self.stopped_home(step, victim.pid)
                os.kill(victim.pid, signal.SIGKILL)
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertNotEqual(command.returncode, 0, err)
                self.assertIn(b"killed", err)
                self.assertEqual(victim.wait_for_death(), -signal.SIGKILL)
                cli.wait_until(lambda: guest not in cli.processes())

    def test_stopped_on_the_way_it_stays(self):
        victim, guest = self.away(THREADS, 2)
        command, session = self.stopped_home("checked", victim.pid)
        os.kill(victim.pid, signal.SIGSTOP)
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 75, err)
        self.assertIn(b"was stopped on its way home", err)
        cli.wait_until(lambda: cli.processes()[guest] == "T")
        os.kill(victim.pid, signal.SIGCONT)
        cli.wait_until(lambda: cli.is_running(guest))
        self.home(victim.pid)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_ps_says_where_it_is(self):
        victim, _ = self.away(0)
        command, session = self.stopped_home("taken_home", victim.pid)
        self.assertIn("coming home", [e["state"] for e in self.entries(victim.pid)])
        os.kill(session, signal.SIGCONT)
        command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(self.entries(victim.pid), [])
        self.assertEqual(victim.finish(), (42, b"pass\n"))


if __name__ == "__main__":
    cli.main()
