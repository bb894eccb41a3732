#!/usr/bin/env python3
"""telefork move and fork of a process that runs on while its memory goes (--mode live)."""
import json
import os
import pathlib
import re
import signal
import sys

import cli
from cli import call
from departure import ByNarrowCable, CopyTest, DepartureTest, arguments_of, is_deputy, kill, sessions

# Memory of which it knows every byte. It writes to it all the time; at SIGUSR1 it changes where its
# memory lies, at SIGUSR2 it says whether all is as it is to be, and it ends at SIGTERM.
PROGRAM = """
import ctypes, mmap, os, random, signal, sys
PAGE = 4096
NONE, READ, WRITE = 0, 1, 3
libc = ctypes.CDLL(None, use_errno=True)
for name, result, types in (
        ("mmap", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t) + (ctypes.c_int,) * 3 + (ctypes.c_long,)),
        ("mremap", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)),
        ("munmap", ctypes.c_int, (ctypes.c_void_p, ctypes.c_size_t)),
        ("madvise", ctypes.c_int, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)),
        ("mprotect", ctypes.c_int, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int))):
    getattr(libc, name).restype, getattr(libc, name).argtypes = result, types
ANONYMOUS, FIXED, MAYMOVE, DONTNEED = 0x22, 0x10, 1, 4
chance = random.Random(int(sys.argv[2]))
memory = {}  # of each page what it holds

def put(page, content):
    ctypes.memmove(page, content, PAGE)
    memory[page] = content
def fill(start, pages):
    for page in range(start, start + pages * PAGE, PAGE): put(page, chance.randbytes(PAGE))
def forget(start, pages):
    return [memory.pop(page) for page in range(start, start + pages * PAGE, PAGE)]
def mapped(pages, at=None):
    return libc.mmap(at, pages * PAGE, WRITE, ANONYMOUS | (FIXED if at else 0), -1, 0)
def moved(start, pages, to):
    assert libc.mremap(start, pages * PAGE, pages * PAGE, MAYMOVE | 2, to) == to
    for i, content in enumerate(forget(start, pages)): memory[to + i * PAGE] = content

PAGES = int(sys.argv[1]) << 8
big = mapped(PAGES)
fill(big, PAGES)
# Each in a place of its own, with nothing beside it.
room = libc.mmap(None, 4096 * PAGE, NONE, ANONYMOUS, -1, 0)
places = [room + i * 128 * PAGE for i in range(1, 30)]
for place in places[:16]:
    mapped(64, place)
    fill(place, 64)
heap = [chance.randbytes(3000) for i in range(300)]
sums = [sum(one) for one in heap]
writable = big

def change():
    p = iter(places[:16])
    gone = next(p); libc.munmap(gone, 64 * PAGE); forget(gone, 64)
    other = next(p); libc.munmap(other, 64 * PAGE); forget(other, 64); mapped(64, other); fill(other, 40)
    for page in range(other + 40 * PAGE, other + 64 * PAGE, PAGE): memory[page] = bytes(PAGE)
    away = next(p); moved(away, 64, places[16])
    part = next(p); moved(part + 16 * PAGE, 16, places[17])
    over = next(p); forget(over + 8 * PAGE, 8); source = next(p); moved(source, 8, over + 8 * PAGE)
    back = next(p); moved(back, 64, places[18]); moved(places[18], 64, back)
    dropped = next(p); assert libc.madvise(dropped + 4 * PAGE, 20 * PAGE, DONTNEED) == 0
    for page in range(dropped + 4 * PAGE, dropped + 24 * PAGE, PAGE): memory[page] = bytes(PAGE)
    fill(dropped + 8 * PAGE, 4)
    grown = next(p); mapped(32, grown + 64 * PAGE); fill(grown + 64 * PAGE, 32)
    untouched = next(p); mapped(32, untouched + 64 * PAGE)
    for page in range(untouched + 64 * PAGE, untouched + 96 * PAGE, PAGE): memory[page] = bytes(PAGE)
    shrunk = next(p); libc.munmap(shrunk + 40 * PAGE, 24 * PAGE); forget(shrunk + 40 * PAGE, 24)
    only_read = next(p); libc.mprotect(only_read + 8 * PAGE, 8 * PAGE, READ)
    hidden = next(p); libc.mprotect(hidden + 8 * PAGE, 8 * PAGE, NONE)
    zeroed = next(p)
    for page in range(zeroed, zeroed + 32 * PAGE, PAGE): put(page, bytes(PAGE))
    new = places[19]; mapped(64, new); fill(new, 64)
    heap.extend(chance.randbytes(100000) for i in range(40))
    sums.extend(sum(one) for one in heap[len(sums):])
    child = os.fork()
    if child == 0:
        for page in range(big, big + 64 * PAGE, PAGE): ctypes.memmove(page, bytes(PAGE), PAGE)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    global concealed
    concealed = hidden + 8 * PAGE

concealed = None
def is_whole():
    if concealed: libc.mprotect(concealed, 8 * PAGE, READ)
    wrong = [page for page, content in memory.items() if ctypes.string_at(page, PAGE) != content]
    if concealed: libc.mprotect(concealed, 8 * PAGE, NONE)
    if wrong: sys.stderr.write("wrong: " + " ".join(map(hex, wrong[:20])) + "\\n")
    return not wrong and [sum(one) for one in heap] == sums

signals = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
os.write(1, b"ready\\n")
while True:
    for _ in range(50): put(big + chance.randrange(PAGES) * PAGE, chance.randbytes(PAGE))
    info = signal.sigtimedwait(signals, 0.001)
    if info is None: continue
    if info.si_signo == signal.SIGTERM: sys.exit(9)
    if info.si_signo == signal.SIGUSR1: change(); os.write(1, b"changed\\n")
    if info.si_signo == signal.SIGUSR2: os.write(1, b"whole %r\\n" % is_whole())
"""


class Live(DepartureTest):
    command = "move"
    megabytes = 8
    environment = None

    def program(self, seed=1, **options):
        process = self.start(sys.executable, "-c", PROGRAM, str(self.megabytes), str(seed), **options)
        self.expect(process, "ready")
        return process

    def expect(self, process, *words):
        for word in words:
            self.assertEqual(process.stdout.readline().strip(), str(word).encode())

    def go(self, pid, *flags):
        """-> what the command says, as JSON."""
        done = call(self.command, pid, self.node, "--mode", "live", "--json", *flags,
                    env=self.environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.check(json.loads(done.stdout))

    def check(self, told):
        self.assertEqual(told["mode"], "live")
        self.assertGreaterEqual(len(told["rounds"]), 2)
        self.assertGreater(told["rounds"][0]["pages_sent"], self.megabytes << 8)
        self.assertGreaterEqual(told["bytes_sent"], sum(one["bytes_sent"] for one in told["rounds"]))
        self.assertGreaterEqual(told["pages_sent"], sum(one["pages_sent"] for one in told["rounds"]))
        return told

    def is_whole(self, process, pid=None):
        """`pid`: of its copy."""
        os.kill(pid or process.pid, signal.SIGUSR2)
        self.expect(process, "whole True")

    def ends(self, process):
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9, process.stderr.read())

    def copy_ends(self, home):
        os.kill(home, signal.SIGTERM)
        cli.wait_until(lambda: home not in cli.processes())

    def is_not_watched(self, pid):
        smaps = pathlib.Path(f"/proc/{pid}/smaps").read_text()
        self.assertEqual(re.findall(r"^VmFlags:.* uw.*$", smaps, re.M), [])
        links = [os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
        self.assertNotIn("anon_inode:[userfaultfd]", links)

    def has_a_child_after_the_rounds(self):
        """-> (the process, which ends with 3 at the next line; what the command says, as JSON)."""
        process = self.start("sh", "-c", "echo ready; read line; sleep 60 & echo begun; read line; kill $!; exit 3")
        self.expect(process, "ready")
        command, session = self.stopped_at("rounds_sent", process.pid, "--mode", "live", "--json")
        process.stdin.write(b"\n")
        process.stdin.flush()
        self.expect(process, "begun")
        os.kill(session, signal.SIGCONT)
        out, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        return process, json.loads(out)

    def as_it_was(self, process):
        """It runs on here, and nobody has anything to do with it."""
        cli.wait_until(lambda: not self.guests())
        self.is_whole(process)
        self.is_not_watched(process.pid)
        self.assertFalse(is_deputy(process.pid))
        self.assertNotIn(process.pid, [entry["pid"] for entry in sessions()])
        self.ends(process)


class Move(Live):
    def test_goes_while_it_writes(self):
        process = self.program()
        self.go(process.pid)
        self.assertTrue(is_deputy(process.pid))
        self.is_whole(process)
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, "changed")
        self.is_whole(process)
        self.ends(process)

    def test_goes_again_and_comes_home(self):
        process = self.program()
        self.go(process.pid)
        done = call("home", process.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.is_whole(process)
        self.go(process.pid)
        self.is_whole(process)
        self.ends(process)

    def changes_at(self, step):
        process = self.program()
        # It may take its time over that.
        command, session = self.stopped_at(step, process.pid, "--mode", "live", "--json", lease={})
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, "changed")
        self.is_whole(process)
        os.kill(session, signal.SIGCONT)
        out, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.check(json.loads(out))
        self.is_whole(process)
        self.ends(process)

    def test_changes_its_map_after_the_rounds(self):
        self.changes_at("rounds_sent")

    def test_changes_its_map_before_the_rounds(self):
        self.changes_at("watched")

    def test_has_the_map_that_it_had(self):
        process = self.program()
        command, session = self.stopped_at("frozen", process.pid, "--mode", "live")
        def places(pid):
            # Without the stub.
            return [line.split()[:2] for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
                    if "[v" not in line]
        before = places(process.pid)
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        guest = self.guest_of(process.pid)
        self.assertEqual(places(guest), before)
        self.is_not_watched(guest)
        self.ends(process)

    def test_becomes_another_program_after_the_rounds(self):
        code = "import os, signal\n" \
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" \
            "memory = bytearray(os.urandom(8 << 20))\n" \
            "os.write(1, b'ready\\n')\n" \
            "signal.sigwait([signal.SIGUSR1])\n" \
            "os.execlp('sh', 'sh', '-c', 'echo another; read line; exit 6')\n"
        process = self.start(sys.executable, "-c", code)
        self.expect(process, "ready")
        command, session = self.stopped_at("rounds_sent", process.pid, "--mode", "live")
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, "another")
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.assertTrue(is_deputy(process.pid))
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 6)

    def test_has_children_after_the_rounds(self):
        process, _ = self.has_a_child_after_the_rounds()
        self.assertTrue(is_deputy(process.pid))
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 3)

    def test_a_tree_is_refused_by_name(self):
        pair = self.start("sh", "-c", "sleep 60 & echo ready; read line; kill $!; exit 3")
        self.expect(pair, "ready")
        self.refuses(call("move", pair.pid, self.node, "--mode", "live"), 3, "mode live", "several processes")
        self.refuses(call("fork", pair.pid, self.node, "--mode", "live"), 3, "mode live", "several processes")
        pair.communicate(b"\n", timeout=cli.PATIENCE)

    def test_ends_during_the_rounds(self):
        process = self.program()
        command, session = self.stopped_at("watched", process.pid, "--mode", "live")
        process.kill()
        process.wait(timeout=cli.PATIENCE)
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 1, err)
        self.assertIn(f"process {process.pid}", err.decode())
        cli.wait_until(lambda: not self.guests())


# Memory that it does not write to any more.
QUIET = """
import os, signal, sys, zlib
signals = (signal.SIGUSR2, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
memory = os.urandom(8 << 20)
known = zlib.crc32(memory)
os.write(1, b"ready\\n")
while signal.sigwait(signals) == signal.SIGUSR2:
    os.write(1, b"whole %r\\n" % (zlib.crc32(memory) == known))
sys.exit(9)
"""


class Copy(Live, CopyTest):
    command = "fork"

    def go(self, pid, *flags):
        told = super().go(pid, *flags)
        self.homes.append(told["home_pid"])
        return told

    def quiet(self):
        process = self.start(sys.executable, "-c", QUIET)
        self.expect(process, "ready")
        return process

    def both_are_whole(self, process, home):
        self.is_not_watched(process.pid)
        self.is_whole(process)
        self.is_whole(process, home)
        self.is_not_watched(self.guest_of(home))

    def test_goes_while_the_original_writes(self):
        process = self.program()
        home = self.go(process.pid)["home_pid"]
        self.both_are_whole(process, home)
        for pid in process.pid, home:
            os.kill(pid, signal.SIGUSR1)
            self.expect(process, "changed")
        self.both_are_whole(process, home)
        self.copy_ends(home)
        self.ends(process)

    def test_takes_no_snapshot_of_what_is_quiet(self):
        process = self.quiet()
        command, session = self.stopped_at("forked", process.pid, "--mode", "live", "--json")
        self.assertEqual(cli.children(process.pid), [])
        self.is_whole(process)
        os.kill(session, signal.SIGCONT)
        out, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        told = self.check(json.loads(out))
        self.assertTrue(told["converged"])
        self.homes.append(told["home_pid"])
        self.both_are_whole(process, told["home_pid"])
        self.copy_ends(told["home_pid"])
        self.ends(process)

    def changes_at(self, step):
        process = self.program()
        # It may take its time over that.
        command, session = self.stopped_at(step, process.pid, "--mode", "live", "--json", lease={})
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, "changed")
        os.kill(session, signal.SIGCONT)
        out, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        home = self.check(json.loads(out))["home_pid"]
        self.homes.append(home)
        self.both_are_whole(process, home)
        self.copy_ends(home)
        self.ends(process)

    def test_changes_its_map_before_the_rounds(self):
        self.changes_at("watched")

    def test_changes_its_map_after_the_rounds(self):
        self.changes_at("rounds_sent")

    def test_has_children_after_the_rounds(self):
        process, told = self.has_a_child_after_the_rounds()
        self.homes.append(told["home_pid"])
        self.assertEqual(told["processes"], 2)
        kill(told["home_pid"])
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 3)

    def test_nothing_is_left_in_the_original_whatever_ends(self):
        for step in (*Undone.STEPS[:-1], "forked", "sent"):
            for ends in "wish", "session", "keeper":
                with self.subTest(step, ends=ends):
                    process = self.program()
                    command, session = self.stopped_at(step, process.pid, "--mode", "live")
                    if ends == "wish":
                        err = self.interrupt(command, session)
                        self.assertEqual(command.returncode, 75, err)
                        self.assertIn("interrupted", err.decode())
                    elif ends == "session":
                        kill(session)
                        command.communicate(timeout=cli.PATIENCE)
                    else:
                        self.kill_keepers()
                        os.kill(session, signal.SIGCONT)
                        _, err = command.communicate(timeout=cli.PATIENCE)
                        self.assertEqual(command.returncode, 75, err)
                    cli.wait_until(lambda pid=process.pid: cli.children(pid) == [])
                    self.as_it_was(process)


class Undone(Live):
    """It runs on as if nothing had been."""

    command = "move"
    STEPS = ("announced", "watched", "rounds_sent", "frozen", "described", "sent")

    def test_is_not_wanted_any_more(self):
        for step in self.STEPS:
            with self.subTest(step):
                process = self.program()
                command, session = self.stopped_at(step, process.pid, "--mode", "live")
                err = self.interrupt(command, session)
                self.assertEqual(command.returncode, 75, err)
                self.assertIn("interrupted", err.decode())
                self.as_it_was(process)

    def test_who_moves_it_is_killed(self):
        for step in self.STEPS:
            with self.subTest(step):
                process = self.program()
                command, session = self.stopped_at(step, process.pid, "--mode", "live")
                kill(session)
                command.communicate(timeout=cli.PATIENCE)
                self.as_it_was(process)

    def test_its_keeper_is_killed(self):
        for step in self.STEPS:
            with self.subTest(step):
                process = self.program()
                command, session = self.stopped_at(step, process.pid, "--mode", "live")
                self.kill_keepers()
                os.kill(session, signal.SIGCONT)
                _, err = command.communicate(timeout=cli.PATIENCE)
                self.assertEqual(command.returncode, 75, err)
                self.as_it_was(process)


class Narrow(ByNarrowCable, Live):
    command = "move"
    megabytes = 4

    def begins(self, process, *flags):
        """-> the command, while the first round is on its way."""
        command = self.start(cli.TELEFORK, self.command, str(process.pid), self.node, "--mode", "live",
                             *flags, env=self.environment)
        smaps = pathlib.Path(f"/proc/{process.pid}/smaps")
        cli.wait_until(lambda: re.search(r"^VmFlags:.* uw", smaps.read_text(), re.M))
        return command

    def test_goes_and_changes_meanwhile(self):
        process = self.program()
        command = self.begins(process)
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, "changed")
        self.cable.widen()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.assertTrue(is_deputy(process.pid))
        self.is_whole(process)
        self.ends(process)

    def test_is_interrupted(self):
        process = self.program()
        command = self.begins(process)
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 75, err)
        self.assertIn("interrupted", err.decode())
        self.as_it_was(process)

    def test_its_cable_is_cut(self):
        process = self.program()
        command = self.begins(process)
        self.cable.cut()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 75, err)
        self.as_it_was(process)

    def test_its_cable_is_silent(self):
        process = self.program()
        command = self.begins(process)
        self.cable.silence()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 75, err)
        self.is_whole(process)
        self.is_not_watched(process.pid)
        self.ends(process)

    def test_who_moves_it_is_killed(self):
        process = self.program()
        command = self.begins(process)
        session, = [pid for pid in cli.processes()
                    if arguments_of(pid)[1:3] == [self.command.encode(), b"%d" % process.pid]
                    and pid != command.pid]
        kill(session)
        command.communicate(timeout=cli.PATIENCE)
        self.as_it_was(process)


class NarrowCopy(Narrow, CopyTest):
    command = "fork"
    megabytes = 2

    def test_goes_and_changes_meanwhile(self):
        process = self.program()
        command = self.begins(process, "--json")
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, "changed")
        out, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        told = self.check(json.loads(out))
        self.homes.append(told["home_pid"])
        self.assertFalse(told["converged"])  # so that a snapshot was taken
        self.assertEqual(cli.children(process.pid), [])
        self.is_whole(process)
        self.is_whole(process, told["home_pid"])
        self.copy_ends(told["home_pid"])
        self.ends(process)


if __name__ == "__main__":
    cli.main()
