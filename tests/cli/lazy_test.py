#!/usr/bin/env python3
"""telefork move and fork of a process whose memory follows it (--mode lazy), by a cable through which
that takes its time."""
import ctypes
import json
import os
import pty
import re
import signal
import socket
import stat
import struct
import subprocess
import sys

import cli
from cable import Cable
from cli import call
from departure import ByNarrowCable, DepartureTest, arguments_of, is_deputy, kill, large_program, sessions

MEGABYTES = 24
LIBC = ctypes.CDLL(None)

PROGRAM = large_program(MEGABYTES, signal.SIGUSR1, signal.SIGCONT)


class Narrow(ByNarrowCable, DepartureTest):
    def program(self, **options):
        process = self.start(sys.executable, "-c", PROGRAM, **options)
        self.assertEqual(process.stdout.readline(), b"ready %d\n" % process.pid)
        return process

    def go(self, pid, *flags):
        """-> what the command says, as JSON."""
        done = self.call(self.command, pid, self.node, "--mode", "lazy", "--json", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        self.assertEqual((told["mode"], told["mode_reason"]), ("lazy", ""))
        self.assertLess(told["bytes_sent"], MEGABYTES << 19)
        return told

    def expect(self, process, *words):
        for word in words:
            self.assertEqual(process.stdout.readline().strip(), str(word).encode())

    def is_whole(self, process):
        os.kill(process.pid, signal.SIGUSR2)
        self.expect(process, "all True")

    def ends(self, process):
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

    def entry(self, pid, role="away"):
        found = [entry for entry in sessions() if (entry["pid"], entry["role"]) == (pid, role)]
        return found[0] if found else None

    def session_of(self, pid):
        found, = [other for other in cli.processes()
                  if arguments_of(other)[1:3] == [b"move", b"%d" % pid]]
        return found

    def is_held(self, process):
        cli.wait_until(lambda: (self.entry(process.pid) or {"remedy": ""})["remedy"] ==
                       f"telefork resume {process.pid}")
        self.refuses(self.call("move", process.pid, self.node), 3, "it is held here")


class Terminal(Narrow):
    def test_shows_how_far_it_has_come(self):
        process = self.program()
        terminal, theirs = pty.openpty()
        self.addCleanup(os.close, terminal)
        command = subprocess.Popen(
            [cli.TELEFORK, "move", str(process.pid), self.node, "--mode", "eager"],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
        os.close(theirs)
        said = b""
        while b" of about " not in said:
            said += os.read(terminal, 4096)
        self.assertIn(f"process {process.pid} to {self.node}: ".encode(), said)
        self.cable.widen()
        self.assertEqual(command.wait(timeout=cli.PATIENCE), 0)
        while b" sent, " not in said:
            said += os.read(terminal, 4096)
        # What stood there is away.
        self.assertRegex(said.split(b"\r\x1b[K")[-1], b"^telefork: process %d runs on " % process.pid)
        self.is_whole(process)
        self.ends(process)


SO_MAX_PACING_RATE = 47  # asm-generic/socket.h


def tcp_sockets(pid):
    """Of another process, pidfd_getfd(2)."""
    process = os.pidfd_open(pid)
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            fd = LIBC.syscall(438, process, int(number), 0)
            if fd < 0:
                continue
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.close(fd)
                continue
            with socket.socket(fileno=fd) as its:
                if its.family == socket.AF_INET:
                    yield its
    finally:
        os.close(process)


class Move(Narrow):
    command = "move"

    def away(self):
        process = self.program()
        self.go(process.pid)
        self.follows(process.pid)
        return process

    def follows(self, pid):
        """It is elsewhere, and whole here."""
        self.assertFalse(is_deputy(pid))
        entry = self.entry(pid)
        self.assertEqual((entry["mode"], entry["state"], entry["remedy"], entry["memory_follows"]),
                         ("lazy", "away", "", True))
        self.assertIn(b" away, memory follows ", call("ps").stdout)
        self.assertGreater(self.entry(entry["guest_pid"], "guest")["pages_missing"], 0)

    def test_sends_no_more_than_it_may(self):
        process = self.program()
        self.go(process.pid, "--bwlimit", "100000K")
        session = self.session_of(process.pid)
        rates = [struct.unpack("Q", its.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0]
                 for its in tcp_sockets(session)]
        self.assertEqual(rates, [102_400_000] * 3)  # of control, bulk and pages
        self.all_comes(process)
        self.ends(process)

    def test_is_refused_a_limit_that_nobody_keeps(self):
        process = self.program()
        for node in ("local", f"unix:{self.folder}/telepad.sock", "ssh://nowhere.invalid"):
            done = self.call("move", process.pid, node, "--bwlimit", "20M")
            self.assertEqual(done.returncode, 3)
            self.assertIn(b"only of what goes by TCP and TLS can the bandwidth be limited",
                          done.stderr)
        self.is_whole(process)

    def all_comes(self, process):
        self.cable.widen()
        # It becomes a deputy first.
        cli.wait_until(lambda: not self.entry(process.pid)["memory_follows"])
        self.assertTrue(is_deputy(process.pid))
        self.is_whole(process)
        # Home knows it first.
        guest = self.guest_of(process.pid)
        cli.wait_until(lambda: self.entry(guest, "guest")["pages_missing"] == 0)

    def goes_on_here(self, process):
        done = self.call("resume", process.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIsNone(self.entry(process.pid))
        self.is_whole(process)
        self.ends(process)

    def test_runs_there_before_its_memory_has_come(self):
        process = self.away()
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, int(signal.SIGUSR1))
        self.follows(process.pid)
        self.refuses(self.call("move", process.pid, self.node), 3, "its memory still follows it")
        self.all_comes(process)
        self.ends(process)

    def test_what_was_sent_to_it_before_it_gets_once(self):
        process = self.program()
        os.kill(process.pid, signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes()[process.pid] == "T")
        os.kill(process.pid, signal.SIGUSR1)
        os.kill(process.pid, signal.SIGCONT)
        self.go(process.pid)
        told = [process.stdout.readline().strip() for _ in range(2)]
        self.assertEqual(sorted(told), sorted(b"%d" % number for number in
                                              (signal.SIGUSR1, signal.SIGCONT)))
        self.all_comes(process)
        self.ends(process)

    def test_stops_and_continues(self):
        process = self.away()
        os.kill(process.pid, signal.SIGSTOP)
        self.assertTrue(os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1]))
        guest = self.guest_of(process.pid)
        cli.wait_until(lambda: cli.processes()[guest] == "T")
        os.kill(process.pid, signal.SIGCONT)
        self.assertTrue(os.WIFCONTINUED(os.waitpid(process.pid, os.WCONTINUED)[1]))
        self.expect(process, int(signal.SIGCONT))
        # And as it is done there.
        os.kill(guest, signal.SIGSTOP)
        self.assertTrue(os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1]))
        os.kill(guest, signal.SIGCONT)
        self.assertTrue(os.WIFCONTINUED(os.waitpid(process.pid, os.WCONTINUED)[1]))
        self.expect(process, int(signal.SIGCONT))
        # While it stands still all may come.
        os.kill(process.pid, signal.SIGSTOP)
        self.assertTrue(os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1]))
        self.cable.widen()
        cli.wait_until(lambda: self.entry(guest, "guest")["pages_missing"] == 0)
        os.kill(process.pid, signal.SIGCONT)
        self.expect(process, int(signal.SIGCONT))
        self.all_comes(process)
        self.ends(process)

    def test_its_end_there_is_its_end_here(self):
        process = self.away()
        self.ends(process)

    def test_its_death_there_is_its_death_here(self):
        process = self.away()
        guest = self.guest_of(process.pid)
        os.kill(guest, signal.SIGSTOP)
        self.assertTrue(os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1]))
        os.kill(guest, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)

    def test_is_killed_here(self):
        process = self.away()
        guest = self.guest_of(process.pid)
        process.kill()
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        cli.wait_until(lambda: guest not in cli.processes())
        cli.wait_until(lambda: not self.guests())

    def test_comes_home_when_all_has_gone(self):
        process = self.away()
        command = self.start(cli.TELEFORK, "home", str(process.pid))
        # Whoever does not want it at home need not wait.
        self.assertIn(b"waiting for its memory", command.stderr.readline())
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 1, err)
        self.follows(process.pid)
        command = self.start(cli.TELEFORK, "home", str(process.pid))
        self.assertIn(b"waiting for its memory", command.stderr.readline())
        self.cable.widen()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.assertFalse(is_deputy(process.pid))
        self.assertIsNone(self.entry(process.pid))
        self.is_whole(process)
        self.ends(process)

    def test_is_held_when_its_node_is_lost(self):
        process = self.away()
        self.kill_keepers()
        self.is_held(process)
        self.goes_on_here(process)
        said = process.stderr.read().decode()
        self.assertIn(f"`telefork resume {process.pid}` takes it up", said)
        self.assertIn("as it was", said)

    def test_is_held_when_the_cable_is_cut(self):
        process = self.away()
        self.cable.cut()
        self.is_held(process)
        cli.wait_until(lambda: not self.guests())
        self.cable = Cable(re.search(r"listening on (\S+)\n",
                                     (self.folder / "telepad.log").read_text())[1])
        self.addCleanup(self.cable.cut)
        # Nobody answers at the address that it went to, and its lease is over.
        done = self.call("resume", process.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"its lease is over", done.stdout + done.stderr)
        self.is_whole(process)
        self.ends(process)

    def test_is_held_when_nobody_is_left_here(self):
        process = self.away()
        os.kill(self.session_of(process.pid), signal.SIGKILL)
        self.is_held(process)
        self.goes_on_here(process)

    def test_may_become_another_program_before_all_has_come(self):
        code = "import array, os, signal\n" \
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" \
            f"memory = array.array('Q', range({MEGABYTES} << 17))\n" \
            "os.write(1, b'ready\\n')\n" \
            "signal.sigwaitinfo([signal.SIGUSR1])\n" \
            "os.execlp('sh', 'sh', '-c', 'echo another; read line; exit 6')\n"
        process = self.start(sys.executable, "-c", code)
        self.expect(process, "ready")
        self.go(process.pid)
        self.follows(process.pid)
        os.kill(process.pid, signal.SIGUSR1)
        self.expect(process, "another")
        cli.wait_until(lambda: is_deputy(process.pid))
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 6)

    def test_goes_for_good_when_all_has_gone(self):
        output = self.folder / "output"
        with open(output, "wb") as file:
            process = self.start(sys.executable, "-c", PROGRAM, stdin=subprocess.DEVNULL, stdout=file,
                                 stderr=file)
        cli.wait_until(lambda: output.read_bytes().startswith(b"ready"))
        command = self.start(cli.TELEFORK, "move", "--detach", "--mode", "lazy", str(process.pid),
                             self.node, env=self.environment)
        cli.wait_until(lambda: self.entry(process.pid) and self.entry(process.pid)["state"] == "away")
        self.follows(process.pid)
        guest = self.guest_of(process.pid)
        self.cable.widen()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        self.addCleanup(os.kill, guest, signal.SIGKILL)
        os.kill(guest, signal.SIGUSR2)
        cli.wait_until(lambda: output.read_bytes().endswith(b"all True\n"))


class Refused(DepartureTest):
    command = "move"

    def test_of_a_mode_that_there_is_not_it_says_so(self):
        victim = self.victim(0)
        self.assertEqual(call("move", victim.pid, self.node, "--mode", "other").returncode, 2)
        self.assertEqual(victim.finish(), (42, b"pass\n"))


class Fork(Narrow):
    command = "fork"

    def test_a_copy_finds_what_was(self):
        process = self.program()
        told = self.go(process.pid)
        home, guest = told["home_pid"], told["pid"]
        self.addCleanup(lambda: home in cli.processes() and os.kill(home, signal.SIGKILL))
        self.assertGreater(self.entry(guest, "guest")["pages_missing"], 0)
        self.assertTrue(self.entry(home)["memory_follows"])
        snapshots = cli.children(process.pid)
        self.assertEqual(len(snapshots), 1)
        # The original runs on, and both write to one place.
        self.is_whole(process)
        self.cable.widen()
        cli.wait_until(lambda: self.entry(guest, "guest")["pages_missing"] == 0)
        os.kill(home, signal.SIGUSR2)
        self.expect(process, "all True")
        # Nothing of the copy is left in it.
        cli.wait_until(lambda: not cli.children(process.pid))
        cli.wait_until(lambda: not self.entry(home)["memory_follows"])
        os.kill(home, signal.SIGTERM)
        cli.wait_until(lambda: home not in cli.processes())
        self.is_whole(process)
        self.ends(process)

    def test_a_copy_that_is_lost_leaves_nothing(self):
        process = self.program()
        told = self.go(process.pid)
        self.kill_keepers()
        cli.wait_until(lambda: told["home_pid"] not in cli.processes())
        cli.wait_until(lambda: not cli.children(process.pid))
        self.is_whole(process)
        self.ends(process)


LIBRARY = cli.BIN.parent / "lib" / "libtelefork.so"
PAGE = os.sysconf("SC_PAGESIZE")
PASSES = 40 << 20  # less than its memory
# What of that is not dropped by then, or is no part of the array: what is too little for a request,
# parts of huge pages, and what else the program has.
NOT_YET = 20 << 20

# Says where its memory is, writes to all pages of it when it is told to, and says of how many it has
# another one now. What was made of it, by the process itself where it has a node to go to, says
# whether it has what was there before.
WRITER = """
import array, ctypes, os, signal, sys
library, node = sys.argv[1:]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
memory = array.array("Q", range(64 << 17))
start, words = memory.buffer_info()
def say(*words): os.write(1, " ".join(map(str, words)).encode() + b"\\n")
def entries():
    with open("/proc/self/pagemap", "rb") as map:
        map.seek(start // 4096 * 8)
        found = array.array("Q", map.read(words * 8 // 4096 * 8))
    return [entry & (1 << 55) - 1 for entry in found]
pid = None
if node:
    options = (ctypes.c_int * 16)(64, 0, 2)  # telefork_options: its size, TELEFORK_MODE_LAZY
    pid = ctypes.CDLL(library).telefork_fork_with(node.encode(), ctypes.byref(options))
if pid != 0: say("ready", start, pid or 0)
if pid != 0 and sys.stdin.readline():
    before = entries()
    for at in range(0, words, 512): memory[at] = 1
    say("copied", sum(old != new for old, new in zip(before, entries())))
    sys.stdin.readline()
else:
    signal.sigwait([signal.SIGUSR2])
    say("all", memory == array.array("Q", range(64 << 17)))
"""


class Dropped(ByNarrowCable, DepartureTest):
    """What the other end has is no more in the copy that the memory is read from."""
    most = PASSES

    def writer(self, node=""):
        process = self.start(sys.executable, "-c", WRITER, LIBRARY, node, env=self.environment)
        said = process.stdout.readline().split()
        self.assertEqual(said[0], b"ready")
        return process, int(said[1]), int(said[2])

    def test_of_a_copy(self):
        process, start, _ = self.writer()
        told = json.loads(self.done("fork", process.pid, self.node, "--mode", "lazy", "--json"))
        self.addCleanup(kill, told["home_pid"])
        self.drops(process, start, *cli.children(process.pid))
        cli.wait_until(lambda: not cli.children(process.pid))
        os.kill(told["home_pid"], signal.SIGUSR2)
        self.ends_whole(process)

    def test_of_a_forked_child(self):
        process, start, child = self.writer(self.node)
        self.addCleanup(kill, child)
        cli.wait_until(lambda: is_deputy(child))
        self.drops(process, start, *cli.children(child))
        os.kill(child, signal.SIGUSR2)
        self.ends_whole(process)

    def test_of_what_was_moved_nothing(self):
        process, _, _ = self.writer()
        held = anonymous(process.pid)
        told = json.loads(self.done("move", process.pid, self.node, "--mode", "lazy", "--json"))

        def has_come():
            missing, = [entry["pages_missing"] for entry in sessions()
                        if (entry["pid"], entry["role"]) == (told["pid"], "guest")]
            return missing * PAGE < (64 << 20) - PASSES + NOT_YET
        cli.wait_until(has_come)
        self.assertGreaterEqual(anonymous(process.pid), held)
        self.cable.widen()
        process.stdin.write(b"write\n")
        process.stdin.flush()
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 0)

    def drops(self, process, start, snapshot):
        held = anonymous(process.pid)
        cli.wait_until(lambda: anonymous(snapshot) <= held - PASSES + NOT_YET)
        self.assertGreater(anonymous(snapshot), held - PASSES)
        alone = len([entry for entry in page_entries(process.pid, start, 64 << 20)
                     if entry & PRESENT and entry & EXCLUSIVE])
        self.assertGreater(alone, PASSES // 4 // PAGE)
        self.assertLess(alone, PASSES // PAGE)
        process.stdin.write(b"write\n")
        process.stdin.flush()
        # What it is alone with is written to where it is. More may have been dropped meanwhile.
        copied = int(process.stdout.readline().split()[1])
        self.assertLessEqual(copied, (64 << 20) // PAGE - alone)
        self.assertGreater(copied, ((64 << 20) - PASSES) // PAGE)
        self.cable.widen()

    def ends_whole(self, process):
        self.assertEqual(process.stdout.readline(), b"all True\n")
        process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 0)


# Of pagemap (Documentation/admin-guide/mm/pagemap.rst).
PRESENT, EXCLUSIVE = 1 << 63, 1 << 56


def page_entries(pid, start, size):
    with open(f"/proc/{pid}/pagemap", "rb") as entries:
        entries.seek(start // PAGE * 8)
        return struct.unpack(f"{size // PAGE}Q", entries.read(size // PAGE * 8))


def anonymous(pid):
    """Bytes of such memory that it has."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"^RssAnon:\s+(\d+) kB$", status.read(), re.M)[1]) << 10


if __name__ == "__main__":
    cli.need("uffd_kernel_faults")
    cli.main()
