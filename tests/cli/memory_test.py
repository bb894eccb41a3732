#!/usr/bin/env python3
"""Memory of which a node has only so much, or only one by that name: `check`, `move` and `home` look
for it while the process runs."""
import contextlib
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

import cli
from cli import call
from departure import DepartureTest, is_deputy

LIBC = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result in (-1, 2**64 - 1): sys.exit(str(ctypes.get_errno()))
    return result
libc.shmat.restype = libc.mmap.restype = ctypes.c_void_p
libc.shmat.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_int
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
def make(key, size): return checked(libc.shmget(key, size, 0o1600))
"""

# Says the id of a segment of the key that it is told, and in the end what is in it.
HOLDER = LIBC + """
id = make(int(sys.argv[1]), 8192)
memory = checked(libc.shmat(id, None, 0))
ctypes.memmove(memory, b"segment", 8)
print(id, flush=True)
sys.stdin.readline()
print(ctypes.string_at(memory).decode(), flush=True)
"""

# Has another one made with this id, or this key, in the ipc namespace of a process.
TAKER = LIBC + """
pid, id, key = map(int, sys.argv[1:])
with open(f"/proc/{pid}/ns/ipc") as namespace: checked(libc.setns(namespace.fileno(), 0))
with open("/proc/sys/kernel/shm_next_id", "w") as next_id: next_id.write(str(id))
print(make(key, 4096))
"""

HUGE = LIBC + """
memory = checked(libc.mmap(None, 2 << 21, 3, 0x40022, -1, 0))
ctypes.memmove(memory, b"large", 6)
print("ready", flush=True)
sys.stdin.readline()
print(ctypes.string_at(memory).decode(), flush=True)
"""


class MemoryTest(DepartureTest):
    command = "move"

    def python(self, program, *arguments):
        return self.start(sys.executable, "-c", program, *map(str, arguments))

    def refused_by_check_and_move(self, process, *texts):
        checked = call("check", process.pid, self.node)
        self.assertEqual(checked.returncode, 3, checked.stderr)
        for text in texts:
            self.assertIn(text, checked.stdout.decode())
        self.refuses(call("move", process.pid, self.node), 3, *texts)
        return checked.stdout.decode()

    def goes(self, process):
        checked = call("check", process.pid, self.node)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        moved = call("move", process.pid, self.node)
        self.assertEqual(moved.returncode, 0, moved.stderr)
        self.assertTrue(is_deputy(process.pid))

    def has(self, process, content):
        self.assertEqual(process.communicate(b"\n", timeout=cli.PATIENCE), (content, b""))
        self.assertEqual(process.returncode, 0)


@unittest.skipUnless(os.geteuid() == 0, "needs: root")
class SystemV(MemoryTest):
    def start_telepad(self):
        """A machine of its own as far as System V's memory goes."""
        self.telepad = subprocess.Popen(["unshare", "--ipc", cli.BIN / "telepad", "--quiet",
                                         "--socket", self.folder / "telepad.sock"])
        cli.wait_until(lambda: call("check", self.node).returncode == 0)

    def holder(self, key=0):
        process = self.python(HOLDER, key)
        number = int(process.stdout.readline())
        self.addCleanup(call_ipcrm, number)
        return process, number

    def take(self, number, key=0):
        """-> the id that it has there."""
        command = [sys.executable, "-c", TAKER, *map(str, (self.telepad.pid, number, key))]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    def do_as_told(self, text):
        """Removes it by the command that the text names."""
        remedy = re.search(r"`(ipcrm -m \d+)` there, if nobody needs that", text)[1].split()
        subprocess.run(["nsenter", "-t", str(self.telepad.pid), "-i", *remedy], check=True)

    def test_an_id_that_is_taken_there_is_named(self):
        process, number = self.holder()
        self.assertEqual(self.take(number), number)
        told = self.refused_by_check_and_move(
            process, f"System V memory (id {number}, key 0x0): its id is taken there, by id "
                     f"{number} (4096 bytes, made by process ")
        self.do_as_told(told)
        self.goes(process)
        self.has(process, b"segment\n")

    def test_an_id_in_the_place_of_another_one_is_named(self):
        process, number = self.holder()
        other = number ^ 1 << 15
        self.assertEqual(self.take(other), other)
        told = self.refused_by_check_and_move(process, f"its id is taken there, by id {other} (")
        self.do_as_told(told)
        self.goes(process)
        self.has(process, b"segment\n")

    def test_a_key_that_is_taken_there_is_named(self):
        key = 0x7e1ef000 | os.getpid() & 0xfff
        process, number = self.holder(key)
        other = self.take(number + 1, key)
        told = self.refused_by_check_and_move(process, f"(id {number}, key {key:#x}): its key is "
                                                       f"taken there, by id {other} (")
        self.do_as_told(told)
        self.goes(process)
        self.has(process, b"segment\n")

    def test_what_is_taken_meanwhile_is_named_too(self):
        process, number = self.holder()
        command, session = self.stopped_at("checked", process.pid)
        self.take(number)
        os.kill(session, signal.SIGCONT)
        _, said = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 75, said)
        self.assertIn(f"its id is taken, by id {number} (4096 bytes".encode(), said)
        self.assertIn(f"`ipcrm -m {number}`, if nobody needs that".encode(), said)
        self.assertFalse(is_deputy(process.pid))
        self.has(process, b"segment\n")

    def test_what_has_stayed_at_home_is_named_before_it_stops_there(self):
        process, number = self.holder()
        self.goes(process)
        home = call("home", process.pid)
        self.refuses(home, 3, f"System V memory (id {number}, key 0x0): its id is taken here, by "
                              f"id {number} (8192 bytes", f"`ipcrm -m {number}` here")
        call_ipcrm(number)
        home = call("home", process.pid)
        self.assertEqual(home.returncode, 0, home.stderr)
        self.assertFalse(is_deputy(process.pid))
        self.has(process, b"segment\n")


class SystemVBeside(MemoryTest):
    def test_the_process_itself_is_in_its_way(self):
        process = self.python(HOLDER, 0)
        number = int(process.stdout.readline())
        self.addCleanup(call_ipcrm, number)
        told = self.refused_by_check_and_move(
            process, f"System V memory (id {number}, key 0x0): the process itself has it until it "
                     "has gone, and the destination is this machine; move it to another one")
        # That would take it from the process.
        self.assertNotIn("ipcrm", told)
        self.has(process, b"segment\n")


@unittest.skipUnless(os.geteuid() == 0, "needs: root")
class HugePages(MemoryTest):
    SETTING = pathlib.Path("/proc/sys/vm/nr_overcommit_hugepages")

    @contextlib.contextmanager
    def more(self):
        """Nobody else has any meanwhile -> sets how many more there may be."""
        with open(self.SETTING, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = int(file.read())
            try:
                yield lambda count: self.SETTING.write_text(str(before + count))
            finally:
                self.SETTING.write_text(str(before))

    def test_too_few_there_are_counted(self):
        with self.more() as more:
            more(3)
            process = self.python(HUGE)
            self.assertEqual(process.stdout.readline(), b"ready\n")
            # For it alone.
            more(2)
            self.refused_by_check_and_move(
                process, "hugetlb memory: it takes 2 pages of 2048 kB, and ",
                " are free there; have root raise vm.nr_hugepages or vm.nr_overcommit_hugepages there")
            more(4)
            self.goes(process)
            self.has(process, b"large\n")


def call_ipcrm(number):
    subprocess.run(["ipcrm", "-m", str(number)], stderr=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    cli.main()
