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
from departure import (SHORT_LEASE, STEPS_AFTER, STEPS_BEFORE, STEPS_WHOLE, HomeTreeTest, Pair,
                       is_deputy, kill, sessions)

IS_ROOT = os.geteuid() == 0


def place_of(pid):
    """Parent, process group, session and terminal."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 4:].split()[:4]


class HomeTree(HomeTreeTest):
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
        self.assertNotIn(pair.pid, [entry["pid"] for entry in sessions()])
        self.assertEqual(pair.finish(), self.passed)

    def test_tells_json(self):
        pair = self.away()
        told = json.loads(self.home(pair.pid, "--json").stdout)
        self.assertEqual((told["pid"], told["processes"], told["node"], told["warnings"]),
                         (pair.pid, 2, self.node, []))
        self.assertEqual(list(told["steps_ms"]),
                         [*STEPS_BEFORE, *STEPS_WHOLE, *STEPS_AFTER, "released"])
        self.assertEqual(pair.finish(), self.passed)

    def test_from_a_node_of_its_own(self):
        pair = Pair(self)
        self.assertEqual(call("move", pair.pid, "local").returncode, 0)
        guests = self.guests_of(pair)
        self.assertIn(b"and 1 more run here again", self.home(pair.pid).stderr)
        self.assertFalse(set(guests) & set(cli.processes()))
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(pair.finish(), self.passed)

    def test_one_that_has_ended_there_has_ended_here(self):
        pair = self.away()
        pair.process.stdin.write(b"end 9\n")
        pair.process.stdin.flush()
        cli.wait_until(lambda: pair.child not in cli.processes())
        # Nobody has waited for it there.
        if IS_ROOT:
            self.home(pair.pid)
        else:
            self.refuses(call("home", pair.pid), 3, f"child's process id {pair.child}")
        self.assertEqual(is_deputy(pair.pid), not IS_ROOT)
        self.assertEqual(pair.finish(), (9, b"-9 True\n"))

    def program(self, code):
        process = self.start(sys.executable, "-c", code)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def say(self, process, line):
        process.stdin.write(line)
        process.stdin.flush()

    def test_names_the_parent_to_who_calls_a_child(self):
        pair = self.away()
        done = call("home", pair.child)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"process %d: it went with process %d to %s: `telefork home %d`"
                      % (pair.child, pair.pid, self.node.encode(), pair.pid), done.stderr)
        self.home(pair.pid)
        self.assertEqual(pair.finish(), self.passed)

    def test_refuses_a_child_whose_id_it_cannot_have(self):
        """Another process has it here, or this user may not choose."""
        process = self.program("""if True:
            import os, sys
            print("ready", flush=True)
            sys.stdin.readline()
            r, w = os.pipe()
            child = os.fork()
            if child == 0: sys.exit(len(os.read(r, 1)))
            print(child, flush=True)
            sys.stdin.readline()
            os.write(w, b"x")
            print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)""")
        self.move(process.pid)
        self.say(process, b"\n")
        child = int(process.stdout.readline())
        taker = None
        if IS_ROOT:
            taker = self.process_with_id(child)
        self.refuses(call("home", process.pid), 3, f"child's process id {child}",
                     "is taken here" if IS_ROOT else "this user")
        self.assertTrue(is_deputy(process.pid))
        if taker:
            kill(taker)
            os.waitpid(taker, 0)
            self.home(process.pid)
        out, _ = process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out), (0, b"1\n"))

    def what_was_begun_there_comes_too_as_root(self):
        """A child of a child, in a session of its own, and one that has ended."""
        process = self.program("""if True:
            import os, signal, sys
            r, w = os.pipe()
            child = os.fork()
            if child == 0:
                os.read(r, 1)
                last = os.fork()
                if last == 0:
                    os.setsid()
                    os.write(1, f"{os.getpid()} begun\\n".encode())
                    os.read(r, 1)
                    os.write(1, f"{os.getpid() == os.getsid(0)} {os.getppid()}\\n".encode())
                    os._exit(3)
                if os.fork() == 0: os._exit(4)
                os.read(r, 1)
                print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)), flush=True)
                os._exit(5)
            print("ready", flush=True)
            for line in sys.stdin: os.write(w, b"x")
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)""")
        child, = cli.children(process.pid)
        self.move(process.pid)
        self.say(process, b"\n")
        begun = int(process.stdout.readline().split()[0])
        self.home(process.pid)
        self.assertEqual(cli.children(process.pid), [child])
        self.assertIn(begun, cli.children(child))
        self.assertEqual(os.getsid(begun), begun)
        out, _ = process.communicate(b"\n\n", timeout=cli.PATIENCE)
        said = out.splitlines()
        self.assertIn(b"True %d" % child, said)
        self.assertEqual(said[-2:], [b"[3, 4]", b"5"])

    def what_another_user_began_there_comes_too_as_root(self):
        """One of root's that has become a user who may not choose ids."""
        process = self.program("""if True:
            import os, sys
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            first = os.fork()
            if first == 0: os._exit(sys.stdin.readline() == "first\\n")
            print("ready", flush=True)
            os.waitpid(first, 0)
            r, w = os.pipe()
            begun = []
            for _ in range(2):
                begun.append(os.fork())
                if begun[-1] == 0:
                    os.read(r, 1)
                    os._exit(7)
            print(*begun, flush=True)
            while sys.stdin.readline() != "end\\n": pass
            os.write(w, b"xx")
            print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in begun],
                  flush=True)""")
        self.move(process.pid)
        self.say(process, b"first\n")
        begun = [int(pid) for pid in process.stdout.readline().split()]
        self.home_when_ids_are_free(process.pid)
        self.assertEqual(sorted(cli.children(process.pid)), sorted(begun))
        out, _ = process.communicate(b"end\n", timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out), (0, b"[7, 7]\n"))

    def refuse_memory_that_a_plain_user_cannot_have_shared_again(self):
        process = self.program("""if True:
            import mmap, os, sys
            memory = mmap.mmap(-1, 4096)
            r, w = os.pipe()
            if os.fork() == 0:
                os.read(r, 1)
                memory[0] = 7
                os._exit(0)
            print("ready", flush=True)
            sys.stdin.readline()
            os.write(w, b"x")
            os.wait()
            print(memory[0], flush=True)""")
        self.move(process.pid)
        self.refuses(call("home", process.pid), 3, "it shares memory with what has come of it")
        out, _ = process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out), (0, b"7\n"))

    # Only root can choose the ids of processes, and open the memory of others by its name.
    if IS_ROOT:
        def test_while_children_come_and_go(self):
            """Who has ended since all were looked at, or has just begun, is in nobody's way."""
            process = self.program("""if True:
                import os, signal, sys
                done = False
                def end(*_): global done; done = True
                signal.signal(signal.SIGTERM, end)
                os.write(1, b"ready\\n")
                while not done:
                    for _ in range(3):
                        if os.fork() == 0: os._exit(7)
                    for _ in range(3):
                        if os.waitstatus_to_exitcode(os.wait()[1]) != 7: sys.exit(1)
                sys.exit(9)
                """)
            for _ in range(12):
                self.move(process.pid)
                self.home(process.pid)
            process.terminate()
            self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

        test_what_was_begun_there_comes_too = what_was_begun_there_comes_too_as_root
        test_what_another_user_began_comes_too = what_another_user_began_there_comes_too_as_root
    else:
        test_refuses_memory = refuse_memory_that_a_plain_user_cannot_have_shared_again

    def test_groups_and_sessions(self):
        """Those of home, and what has changed there."""
        process = self.program("""if True:
            import os, signal, sys
            r, w = os.pipe()
            for place in range(3):
                if os.fork() == 0:
                    if place == 1: os.setpgid(0, 0)
                    if place == 2: os.setsid()
                    os.write(w, b"x")
                    if place == 0:
                        sys.stdin.readline()
                        os.setpgid(0, 0)
                        print("led", flush=True)
                    while True: signal.pause()
            for _ in range(3): os.read(r, 1)
            print("ready", flush=True)
            for _ in range(3): os.wait()
            print("done", flush=True)""")
        children = cli.children(process.pid)
        before = [place_of(pid) for pid in children]
        self.move(process.pid)
        self.home(process.pid)
        self.assertEqual([place_of(pid) for pid in children], before)
        self.move(process.pid)
        self.say(process, b"\n")
        self.assertEqual(process.stdout.readline(), b"led\n")
        self.home(process.pid)
        self.assertEqual([place_of(pid) for pid in children[1:]], before[1:])
        self.assertEqual(os.getpgid(children[0]), children[0])
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out), (0, b"done\n"))

    def test_a_stopped_child_is_stopped_here(self):
        pair = self.away()
        _, guest = self.guests_of(pair)
        os.kill(pair.child, signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes()[guest] in "Tt" and
                       cli.processes()[pair.child] in "Tt")
        self.home(pair.pid)
        cli.wait_until(lambda: cli.processes()[pair.child] == "T")
        os.kill(pair.child, signal.SIGCONT)
        self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
        self.assertEqual(pair.finish(), self.passed)

    def test_the_terminals_signals_reach_each_once_when_they_are_home(self):
        pair = self.away(process_group=0)
        self.home(pair.pid)
        os.killpg(pair.pid, signal.SIGINT)
        said = []
        cli.wait_until(lambda: said.append(pair.ask("word")) or
                       said[-1][0][1] + said[-1][1][1] == 2)
        self.assertEqual(said[-1], ((0, 1), (0, 1)))
        self.assertEqual(pair.finish(), self.passed)

    def test_signals_on_the_way_reach_each_once(self):
        for step in STEPS_BEFORE + STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                pair = self.away()
                command, session = self.stopped_home(step, pair.pid)
                for pid in pair.pids:
                    os.kill(pid, signal.SIGUSR1)
                os.kill(session, signal.SIGCONT)
                self.assertEqual(self.done(command), 0)
                said = []
                cli.wait_until(lambda: said.append(pair.ask("word")) or
                               said[-1][0][0] + said[-1][1][0] == 2)
                self.assertEqual(said[-1], ((1, 0), (1, 0)))
                self.assertEqual(pair.finish(), self.passed)

    def test_a_wish_not_to_have_them_is_heard(self):
        for step in STEPS_BEFORE:
            with self.subTest(step):
                pair = self.away()
                _, guest = self.guests_of(pair)
                os.kill(pair.child, signal.SIGSTOP)
                cli.wait_until(lambda: cli.processes()[guest] in "Tt")
                command, session = self.stopped_home(step, pair.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 75 if step != "checked" else 1, err)
                self.are_away(pair)
                cli.wait_until(lambda: cli.processes()[pair.child] in "Tt")
                os.kill(pair.child, signal.SIGCONT)
                # Each is told how the other end fares, as before.
                self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
                os.kill(guest, signal.SIGSTOP)
                cli.wait_until(lambda: cli.processes()[pair.child] in "Tt")
                os.kill(guest, signal.SIGCONT)
                cli.wait_until(lambda: cli.processes()[pair.child] == "S")
                self.home(pair.pid)
                self.assertEqual(pair.finish(), self.passed)

    def test_a_wish_comes_too_late_when_they_are_whole(self):
        for step in STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                pair = self.away()
                command, session = self.stopped_home(step, pair.pid)
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 0, err)
                self.assertEqual(pair.finish(), self.passed)

    def test_all_end_when_the_session_dies(self):
        for step in STEPS_BEFORE + STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                pair = self.away()
                guests = self.guests_of(pair)
                command, session = self.stopped_home(step, pair.pid)
                os.kill(session, signal.SIGKILL)
                self.assertEqual(self.done(command), 1)
                self.assertIn(b"has ended", self.err)
                self.assertIn(pair.finish(), [(125, b""), (-signal.SIGKILL, b"")])
                cli.wait_until(lambda: not {*guests, pair.child} & set(cli.processes()))

    def test_all_end_when_the_node_dies_before_they_are_whole(self):
        for step in STEPS_BEFORE:
            with self.subTest(step):
                pair = self.away(SHORT_LEASE)
                guests = self.guests_of(pair)
                command, session = self.stopped_home(step, pair.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                # All of it was here already.
                if step == "taken_home":
                    self.assertEqual(self.done(command), 0, self.err)
                    self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
                    self.assertEqual(pair.finish(), self.passed)
                    continue
                self.assertEqual(self.done(command), 1)
                self.assertEqual(pair.finish(), (125, b""))
                cli.wait_until(lambda: not {*guests, pair.child} & set(cli.processes()))

    def test_all_run_here_when_the_node_dies_later(self):
        for step in STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                pair = self.away(SHORT_LEASE)
                guests = self.guests_of(pair)
                command, session = self.stopped_home(step, pair.pid)
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                self.assertEqual(self.done(command), 0, self.err)
                # They end with their keeper, which takes them a moment.
                cli.wait_until(lambda: not set(guests) & set(cli.processes()))
                self.assertEqual(pair.ask("word"), ((0, 0), (0, 0)))
                self.assertEqual(pair.finish(), self.passed)

    def test_one_that_is_killed_on_the_way_is_killed_at_both_ends(self):
        """Until all are whole they stay there."""
        for step in STEPS_BEFORE + STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                pair = self.away()
                _, guest = self.guests_of(pair)
                command, session = self.stopped_home(step, pair.pid)
                os.kill(pair.child, signal.SIGKILL)
                os.kill(session, signal.SIGCONT)
                expected = 75 if step in STEPS_BEFORE else 0
                self.assertEqual(self.done(command), expected, self.err)
                cli.wait_until(lambda: not cli.is_running(guest))
                self.assertEqual(pair.finish(), (9, b"-9 True\n"))

    def test_the_first_that_is_killed_on_the_way_leaves_the_other_one(self):
        for step in STEPS_BEFORE + STEPS_WHOLE + STEPS_AFTER:
            with self.subTest(step):
                pair = self.away()
                first, guest = self.guests_of(pair)
                command, session = self.stopped_home(step, pair.pid)
                os.kill(pair.pid, signal.SIGKILL)
                os.kill(session, signal.SIGCONT)
                self.done(command)
                self.assertIn(b"killed on its way home", self.err)
                self.assertEqual(pair.process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
                cli.wait_until(lambda: first not in cli.processes())
                # It ends by itself: nobody has the other end of its pipe.
                cli.wait_until(lambda: not {guest, pair.child} & set(cli.processes()))



if __name__ == "__main__":
    cli.main()
