"""A process and its child go from alpha to beta, and on from there to gamma, as moved_on_tree.sh has them."""
import os
import re
import signal
import subprocess
import sys
import unittest

import cli
from departure import PAIR

WORDS = iter(os.environ["TELEFORK_MACHINES"].split())
MACHINES = {name: (pid, node) for name, pid, node in zip(WORDS, WORDS, WORDS)}
NODES = {name: node for name, (_, node) in MACHINES.items()}
ENTER = {name: ["nsenter", "--target", pid, "--root", "--mount", "--uts", "--ipc", "--net", "--pid", "--wdns=/", "--"]
         for name, (pid, _) in MACHINES.items()}
NONE = ((0, 0), (0, 0))


def on(name, *command):
    return subprocess.run([*ENTER[name], *map(str, command)], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=cli.PATIENCE)


def telefork(name, *command):
    return on(name, cli.TELEFORK, *command)


def kill(name, number, pid):
    assert on(name, "kill", f"-{int(number)}", pid).returncode == 0


def state(name, pid):
    """As /proc there has it; of nobody "X"."""
    text = on(name, "cat", f"/proc/{pid}/stat").stdout.decode()
    return text[text.rindex(")") + 2] if text else "X"


def is_deputy(name, pid):
    return on(name, "readlink", f"/proc/{pid}/exe").stdout.endswith(b"telefork-deputy\n")


class Pair:
    """departure.PAIR, with its pids as alpha has them."""

    def __init__(self):
        self.process = subprocess.Popen([*ENTER["alpha"], sys.executable, "-c", PAIR], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.child = int(self.process.stdout.readline().split()[1])
        self.parent = None
        self.ask("first")

    def ask(self, word):
        """-> what both have counted of SIGUSR1 and SIGINT, parent first."""
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().split()
        assert said[0] == word.encode() and int(said[4]) == self.child and said[1] == said[7], said
        assert self.parent in (None, int(said[1])), said
        self.parent = int(said[1])
        return tuple(tuple(map(int, counts)) for counts in (said[2:4], said[5:7]))

    def asked_until(self, wanted):
        """What is sent by kill and what is written take two ways."""
        said = []
        cli.wait_until(lambda: said.append(self.ask("word")) or said[-1] == wanted)

    def finish(self):
        out, err = self.process.communicate(timeout=cli.PATIENCE)
        return self.process.returncode, out, err


class MovedOn(unittest.TestCase):
    maxDiff = None

    def pair(self):
        pair = Pair()
        self.addCleanup(self.end, pair)
        return pair

    def end(self, pair):
        if pair.process.poll() is None:
            on("alpha", "kill", "-9", pair.parent, pair.child)
        pair.process.communicate(timeout=cli.PATIENCE)

    def done(self, name, *command):
        result = telefork(name, *command)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def refuses(self, text, name, *command):
        result = telefork(name, *command)
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn(text, result.stderr.decode() + result.stdout.decode())

    def on_beta(self):
        pair = self.pair()
        self.done("alpha", "move", pair.parent, NODES["beta"])
        return pair

    def on_gamma(self):
        pair = self.on_beta()
        self.done("beta", "check", pair.parent, NODES["gamma"], "--for", "move")
        self.done("beta", "move", pair.parent, NODES["gamma"])
        for name in ("alpha", "beta"):
            self.assertEqual([is_deputy(name, pid) for pid in (pair.parent, pair.child)], [True, True])
        return pair

    def stops_at_both_ends(self, pair, names):
        """The child, by a signal at the first machine and by one at the last."""
        for name in (names[0], names[-1]):
            kill(name, signal.SIGSTOP, pair.child)
            cli.wait_until(lambda: all(state(one, pair.child) in "Tt" for one in names))
            kill(name, signal.SIGCONT, pair.child)
            cli.wait_until(lambda: all(state(one, pair.child) == "S" for one in names))

    def test_signals_and_stops_pass_all_three_machines(self):
        pair = self.on_gamma()
        self.assertEqual(pair.ask("word"), NONE)
        kill("alpha", signal.SIGUSR1, pair.child)
        pair.asked_until(((0, 0), (1, 0)))
        kill("alpha", signal.SIGUSR1, pair.parent)
        pair.asked_until(((1, 0), (1, 0)))
        self.stops_at_both_ends(pair, ("alpha", "beta", "gamma"))
        self.assertEqual(pair.ask("word"), ((1, 0), (1, 0)))
        self.assertEqual(pair.finish()[:2], (9, b"7 True\n"))
        for name in MACHINES:
            cli.wait_until(lambda: [state(name, pid) for pid in (pair.parent, pair.child)] == ["X", "X"])

    def test_comes_back_by_the_way_that_it_went(self):
        pair = self.on_gamma()
        self.refuses(f"it has gone on from there to {NODES['gamma']}: `telefork home {pair.parent}` there", "alpha",
                     "home", pair.parent)
        for _ in range(2):
            self.done("beta", "home", pair.parent)
            self.assertEqual(pair.ask("word"), NONE)
            self.stops_at_both_ends(pair, ("alpha", "beta"))
            self.done("beta", "move", pair.parent, NODES["gamma"])
        self.done("beta", "home", pair.parent)
        self.done("alpha", "home", pair.parent)
        self.assertEqual([is_deputy("alpha", pid) for pid in (pair.parent, pair.child)], [False, False])
        self.assertEqual(pair.ask("word"), NONE)
        self.assertEqual(pair.finish()[:2], (9, b"7 True\n"))

    def test_an_end_there_is_an_end_everywhere(self):
        pair = self.on_gamma()
        kill("gamma", signal.SIGKILL, pair.child)
        for name in ("beta", "alpha"):
            cli.wait_until(lambda: state(name, pair.child) == "X")
        self.assertEqual(pair.finish()[:2], (9, b"-9 True\n"))

    def test_a_kill_at_home_is_one_there(self):
        pair = self.on_gamma()
        kill("alpha", signal.SIGKILL, pair.child)
        cli.wait_until(lambda: state("gamma", pair.child) in "ZX")
        self.assertEqual(pair.finish()[:2], (9, b"-9 True\n"))

    def test_all_end_when_the_session_between_two_of_them_dies(self):
        pair = self.on_gamma()
        os.kill(self.session_of(pair), signal.SIGKILL)
        self.assertEqual(pair.finish()[0], 125)
        for name in MACHINES:
            cli.wait_until(lambda: state(name, pair.child) == "X")

    def session_of(self, pair):
        """Of the move from beta, as this machine sees it."""
        found = [pid for pid in cli.processes() if self.is_session(pid, pair)]
        self.assertEqual(len(found), 1)
        return found[0]

    def is_session(self, pid, pair):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            return words[1:4] == [b"move", b"%d" % pair.parent, NODES["gamma"].encode()] and \
                words[0] == cli.TELEFORK.encode() and os.getsid(pid) == pid
        except OSError:
            return False

    def stopped_at(self, step, pair):
        """A move on from beta whose session process stands still at `step` -> (the command, that)."""
        command = subprocess.Popen([*ENTER["beta"], cli.TELEFORK, "move", str(pair.parent), NODES["gamma"],
                                    "--stop-at", step], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(command.communicate)
        found = []

        def is_there():
            found[:] = [pid for pid, state in cli.processes().items() if state == "T" and self.is_session(pid, pair)]
            return found
        cli.wait_until(is_there)
        return command, found[0]

    def test_beta_watches_them_again_when_the_move_dies(self):
        for step in ("frozen", "sent"):
            with self.subTest(step):
                pair = self.on_beta()
                command, session = self.stopped_at(step, pair)
                os.kill(session, signal.SIGKILL)
                self.assertNotEqual(command.wait(timeout=cli.PATIENCE), 0)
                self.assertEqual(pair.ask("word"), NONE)
                self.stops_at_both_ends(pair, ("alpha", "beta"))
                self.assertEqual(pair.finish()[:2], (9, b"7 True\n"))

    def test_beta_watches_them_again_when_they_are_taken_up(self):
        """The move dies when they may run on gamma: they are held."""
        pair = self.on_beta()
        _, session = self.stopped_at("given_up", pair)
        os.kill(session, signal.SIGKILL)
        cli.wait_until(lambda: telefork("beta", "resume", pair.parent).returncode == 0)
        self.assertEqual(pair.ask("word"), NONE)
        self.stops_at_both_ends(pair, ("alpha", "beta"))
        self.done("alpha", "home", pair.parent)
        self.assertEqual(pair.finish()[:2], (9, b"7 True\n"))

    def test_a_child_goes_on_alone(self):
        process = subprocess.Popen([*ENTER["alpha"], "sh", "-c", "sleep 1000 & echo $$ $!; wait $!"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        parent, child = map(int, process.stdout.readline().split())
        self.addCleanup(lambda: (on("alpha", "kill", "-9", parent, child), process.communicate()))
        self.done("alpha", "move", parent, NODES["beta"])
        self.done("beta", "move", child, NODES["gamma"])
        self.assertEqual([is_deputy("beta", pid) for pid in (parent, child)], [False, True])
        self.refuses(f"process {child}: it has gone on from there", "alpha", "home", parent)
        self.done("beta", "home", child)
        self.done("beta", "move", child, NODES["gamma"])
        kill("alpha", signal.SIGTERM, child)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 128 + signal.SIGTERM)


if __name__ == "__main__":
    cli.main()
