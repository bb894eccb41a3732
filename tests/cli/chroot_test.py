#!/usr/bin/env python3
"""A process that has another root directory (chroot(2)): who may give it that, and who comes home
with one."""
import os
import pathlib
import subprocess
import sys
import unittest

import cli
import departure
from cli import call, call_json

# Takes on each root that it is told.
CHANGING = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    os.chroot(line.strip())
    print(os.path.exists("/mark"), os.path.exists("/usr"), flush=True)
sys.exit(6)
"""
# Root's, but for that one thing.
BOUND = ["setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-sys_chroot"]


class ChrootTest(departure.HomeTreeTest):
    def setUp(self):
        super().setUp()
        self.root = self.folder / "root"
        self.root.mkdir()
        (self.root / "mark").touch()

    def changing(self):
        process = self.start(sys.executable, "-c", CHANGING)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def change(self, process):
        process.stdin.write(f"{self.root}\n".encode())
        process.stdin.flush()
        self.assertEqual(process.stdout.readline(), b"True False\n")

    def changed(self):
        process = self.changing()
        self.change(process)
        return process

    def ends(self, process):
        out, err = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out, err), (6, b"", b""))

    def root_of(self, pid):
        return pathlib.Path(os.readlink(f"/proc/{pid}/root"))


@unittest.skipUnless(os.geteuid() == 0, "needs: root")
class Chroot(ChrootTest):
    def test_is_refused_by_a_load_that_may_not_give_it(self):
        process = self.changed()
        image = self.folder / "image.tfi"
        self.assertEqual(call("save", process.pid, image).returncode, 0)
        process.wait(timeout=cli.PATIENCE)
        done = subprocess.run([*BOUND, cli.TELEFORK, "load", image], capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=cli.PATIENCE)
        self.refuses(done, 125, f"its root directory is {self.root} (chroot), and to restore that "
                                "takes CAP_SYS_CHROOT")
        (self.root / "mark").unlink()
        self.root.rmdir()
        self.refuses(call("load", image), 125, f"opening directory {self.root}: No such file")

    def test_is_taken_on_there_and_brought_home(self):
        process = self.changing()
        self.move(process.pid)
        self.change(process)
        self.assertEqual(self.root_of(process.pid), pathlib.Path("/"))
        self.assertEqual(self.root_of(self.guest_of(process.pid)), self.root)
        self.home(process.pid)
        self.assertEqual(self.root_of(process.pid), self.root)
        self.ends(process)

    def test_is_none_for_a_call(self):
        process = self.changed()
        for purpose in "fork", "run_on":
            code, answer = call_json("check", process.pid, "--for", purpose)
            self.assertEqual(code, 3)
            self.assertIn("its root directory is not this machine's (chroot)",
                          "\n".join(answer["refused"]))
        self.ends(process)

    def test_is_refused_where_telefork_does_not_see_it(self):
        process = self.changed()
        script = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && exec \"$2\" check \"$3\""
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", self.root, cli.TELEFORK,
                               str(process.pid)], capture_output=True, timeout=cli.PATIENCE)
        self.refuses(done, 3)
        self.assertIn(b"its root directory is not this machine's (chroot)", done.stdout)
        self.ends(process)


@unittest.skipUnless(os.geteuid() == 0, "needs: root")
class WhereNobodyMayHaveOne(ChrootTest):
    """A telepad that is root's, and lacks CAP_SYS_CHROOT."""

    def start_telepad(self):
        self.telepad = subprocess.Popen([*BOUND, cli.BIN / "telepad", "--quiet", "--socket",
                                         self.folder / "telepad.sock"])
        cli.wait_until(lambda: call("check", self.node).returncode == 0)

    def test_is_refused(self):
        process = self.changed()
        for command in "check", "move":
            done = call(command, process.pid, self.node)
            self.assertEqual(done.returncode, 3)
            self.assertIn(f"process {process.pid} has {self.root} as its root directory (chroot)",
                          (done.stdout + done.stderr).decode())
            self.assertIn(b"may not give it that (it takes CAP_SYS_CHROOT)",
                          done.stdout + done.stderr)
        self.assertEqual(self.root_of(process.pid), self.root)
        self.ends(process)


if __name__ == "__main__":
    cli.main()
