#!/usr/bin/env python3
"""telefork check, save, load and show of a process and its children."""
import ctypes
import json
import os
import signal
import subprocess
import sys

import cli
from cli import call, call_json

# Three processes: the first writes what it reads to a child, that to its own child, and that to stdout.
# The one in the middle leads a process group, and has a child that has ended.
CHAIN = """
import os, sys
def pass_on(here, there):
    for line in os.fdopen(here):
        os.write(there, f"{line.strip()} {os.getpid()}\\n".encode())
first, second = os.pipe(), os.pipe()
middle = os.fork()
if middle == 0:
    os.setpgid(0, 0)
    os.close(first[1])
    dead = os.fork()
    if dead == 0: os._exit(9)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    last = os.fork()
    if last == 0:
        os.close(first[0]); os.close(second[1])
        os.write(1, f"ready {os.getpid()}\\n".encode())
        pass_on(second[0], 1)
        os._exit(0)
    os.close(second[0])
    pass_on(first[0], second[1])
    os.close(second[1])
    ok = os.waitpid(last, 0)[1] == 0 and os.waitstatus_to_exitcode(os.waitpid(dead, 0)[1]) == 9
    os._exit(0 if ok and os.getpgrp() == os.getpid() else 1)
os.close(first[0]); os.close(second[0]); os.close(second[1])
for line in sys.stdin: os.write(first[1], f"{line.strip()} {os.getpid()}\\n".encode())
os.close(first[1])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1]) or 42)
"""


class Tree(cli.Test):
    def chain(self):
        """-> the first process; its pids, from the first to the last, are in `self.pids`."""
        first = subprocess.Popen([sys.executable, "-c", CHAIN], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
        self.addCleanup(first.stdout.close)
        self.addCleanup(first.stdin.close)
        self.addCleanup(first.wait)
        self.addCleanup(first.kill)
        last = int(first.stdout.readline().split()[1])
        middle = next(pid for pid in cli.children(first.pid))
        self.pids = [first.pid, middle, last]
        return first

    def said(self):
        return " ".join(["word", *map(str, self.pids)]).encode() + b"\n"

    def load(self, image, *flags):
        return subprocess.run([cli.TELEFORK, "load", *flags, str(image)], input=b"word\n",
                              capture_output=True, timeout=cli.PATIENCE)

    def saved(self):
        first = self.chain()
        dead, = set(cli.children(self.pids[1])) - {self.pids[2]}
        image = self.folder / "tree.tfi"
        code, report = call_json("save", first.pid, image)
        self.assertEqual((code, report["processes"]), (0, 3), report)
        self.assertEqual(first.wait(timeout=cli.PATIENCE), -signal.SIGKILL)
        # The others are this process's by now, since their parents have ended.
        ends = [os.waitpid(pid, 0)[1] for pid in (*self.pids[1:], dead)]
        self.assertEqual(ends, [signal.SIGKILL, signal.SIGKILL, 9 << 8])
        return image

    def lives(self, pid):
        return cli.processes().get(pid, "Z") != "Z"

    def test_the_chain_passes_by_itself(self):
        out, _ = self.chain().communicate(b"word\n", timeout=cli.PATIENCE)
        self.assertEqual(out, self.said())

    def test_check_tells_of_all_of_them(self):
        code, report = call_json("check", self.chain().pid)
        self.assertEqual((code, report["processes"], report["threads"]), (0, 3, 3), report)

    def test_goes_to_a_file_and_back(self):
        done = self.load(self.saved())
        self.assertEqual((done.returncode, done.stdout, done.stderr), (42, self.said(), b""))

    def test_is_loaded_beside_the_original_in_a_pid_namespace(self):
        first = self.chain()
        image = self.folder / "kept.tfi"
        self.assertEqual(call("save", "--keep", first.pid, image).returncode, 0)
        for _ in range(2):
            done = self.load(image)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (42, self.said(), b""))
        out, _ = first.communicate(b"word\n", timeout=cli.PATIENCE)
        self.assertEqual((first.returncode, out), (42, self.said()))

    if os.geteuid() == 0:  # to choose an id
        def test_gets_a_pid_namespace_where_one_of_the_ids_is_taken(self):
            image = self.saved()
            done = self.load(image, "--json")
            report = json.loads(done.stderr)
            self.assertEqual((report["pid"], report["guest_pid"]), (self.pids[0], self.pids[0]))
            holder = self.hold(self.pids[2])
            done = self.load(image, "--json")
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)
            report = json.loads(done.stderr)
            self.assertEqual((done.returncode, done.stdout), (42, self.said()))
            self.assertNotEqual(report["pid"], self.pids[0])
            self.assertEqual(report["guest_pid"], self.pids[0])

    def hold(self, number):
        """A process of that id."""
        tid = ctypes.c_int(number)
        arguments = (ctypes.c_uint64 * 11)()  # struct clone_args (clone(2))
        arguments[4], arguments[8], arguments[9] = signal.SIGCHLD, ctypes.addressof(tid), 1
        pid = ctypes.CDLL(None, use_errno=True).syscall(435, arguments, ctypes.sizeof(arguments))
        if pid == 0:
            os.closerange(0, 1024)
            while True:
                signal.pause()
        self.assertEqual(pid, number, os.strerror(ctypes.get_errno()))
        return pid

    def test_a_refusal_tells_whose_it_is(self):
        there, here = os.pipe()
        code = """if True:
            import os, sys
            if os.fork() == 0: os.read(int(sys.argv[1]), 1); os._exit(0)
            os.close(int(sys.argv[1])); os.write(1, b"ready\\n"); os.wait()"""
        first = subprocess.Popen([sys.executable, "-c", code, str(there)], stdout=subprocess.PIPE,
                                 pass_fds=[there])
        self.addCleanup(first.stdout.close)
        self.addCleanup(first.wait)
        self.addCleanup(os.close, here)
        self.assertEqual(first.stdout.readline(), b"ready\n")
        child, = cli.children(first.pid)
        done = call("check", first.pid)
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stdout.decode(), rf"^refused: process {child} \(python3[^)]*\), fd {there} "
                                               r"-> pipe:\[\d+\]: a pipe whose other end stays")
        self.assertEqual(len(done.stdout.splitlines()), 1, done.stdout)
        self.refuses(call("save", first.pid, self.folder / "refused.tfi"), 3, done.stdout)

    def test_children_may_come_and_go_meanwhile(self):
        """What is said then is of one of them, that has just begun, or ends."""
        loop = subprocess.Popen(["bash", "-c", "while :; do /bin/true; done"],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        self.addCleanup(loop.wait)
        self.addCleanup(loop.kill)
        movable = 0
        for _ in range(100):
            done = call("check", loop.pid)
            self.assertIn(done.returncode, (0, 3), (done.stdout, done.stderr))
            self.assertNotIn(f"refused: process {loop.pid}".encode(), done.stdout)
            movable += done.returncode == 0
        self.assertGreater(movable, 50)

    def test_a_member_may_be_ending(self):
        # So much memory takes the kernel a while; what the two share is the last that it lets go of.
        program = (
            "import ctypes, mmap, os, sys\n"
            "libc = ctypes.CDLL(None)\n"
            "libc.shmat.restype = ctypes.c_void_p\n"
            "segment = libc.shmget(0, 4096, 0o600)\n"
            "address = libc.shmat(segment, None, 0)\n"
            "libc.shmctl(segment, 0, None)\n"
            "if os.fork() == 0: memory = b'x' * (1 << 29); print(os.getpid(), flush=True)\n"
            "sys.stdin.readline()\n")
        for _ in range(3):
            first = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
            self.addCleanup(first.communicate)
            self.addCleanup(first.kill)
            os.kill(int(first.stdout.readline()), signal.SIGKILL)
            done = call("check", first.pid)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_refuses_who_has_begun_it(self):
        shell = subprocess.run(["sh", "-c", f'"{cli.TELEFORK}" save $$ "{self.folder}/own.tfi"; exit $?'],
                               capture_output=True, timeout=cli.PATIENCE)
        self.refuses(shell, 3, "telefork itself is among its children; ask from elsewhere")
        self.assertEqual(len(shell.stderr.splitlines()), 1, shell.stderr)

    def test_a_save_that_fails_leaves_all_of_them(self):
        first = self.chain()
        os.mkdir(self.folder / "in_the_way")
        self.refuses(call("save", first.pid, self.folder / "in_the_way"), 1)
        out, _ = first.communicate(b"word\n", timeout=cli.PATIENCE)
        self.assertEqual((first.returncode, out), (42, self.said()))

    def test_one_that_is_damaged_leaves_nothing(self):
        image = self.saved().read_bytes()
        file = self.folder / "damaged.tfi"
        for _, at, end in cli.records(image)[1::4]:
            for cut in at, (at + end) // 2:
                file.write_bytes(image[:cut])
                self.refuses(self.load(file), 125, "telefork: corrupt: ", "truncated")
                self.assertFalse(any(self.lives(pid) for pid in self.pids))

    def test_show_tells_who_is_whose_child(self):
        image = self.saved()
        shown = json.loads(call("show", image, "--json").stdout)["records"]
        tree = next(record for record in shown if record["type"] == "tree")
        members = {member["pid"]: member for member in tree["members"]}
        first, middle, last = self.pids
        self.assertEqual([members[pid]["ppid"] for pid in self.pids[1:]], [first, middle])
        self.assertEqual(members[last]["pgid"], middle)
        dead, = (member for member in tree["members"] if member["state"] == "ended")
        self.assertEqual((dead["ppid"], dead["status"]), (middle, 9 << 8))
        self.assertEqual([record["pid"] for record in shown if record["type"] == "process"],
                         self.pids)
        self.assertIn(b"tree\n", call("show", image).stdout)


if __name__ == "__main__":
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    cli.need("ptrace", "mm_map", "pid_namespace")
    cli.main()
