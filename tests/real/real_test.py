#!/usr/bin/env python3
"""Programs that nobody here wrote are moved in the middle of their work: what they then say, and how
they end, is what they say and how they end when they are left alone."""
import array
import fcntl
import os
import pathlib
import random
import subprocess
import sys
import termios
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cli"))
import cli  # noqa: E402
from cli import call  # noqa: E402

PYTHON = """
import collections, queue, sys, threading
lines, counted = queue.Queue(100), collections.Counter()
lock = threading.Lock()
def count():
    while (line := lines.get()) is not None:
        with lock:
            counted.update(line.split())
threads = [threading.Thread(target=count) for _ in range(4)]
for thread in threads: thread.start()
for line in sys.stdin: lines.put(line)
for thread in threads: lines.put(None)
for thread in threads: thread.join()
print(sorted(counted.items()), threading.active_count())
sys.exit(3)
"""
PERL = """
my (%count, $last);
while (<STDIN>) { $count{$_}++ for split; $last = $_; }
print map { "$_ $count{$_}\\n" } sort keys %count;
print $last; exit 5;
"""
BASH = """
declare -A count
while read -r -a words; do for word in "${words[@]}"; do ((++count[$word])); done; done
for word in "${!count[@]}"; do echo "$word ${count[$word]}"; done
exit 7
"""
AWK = "{ for (i = 1; i <= NF; ++i) ++n[$i] } END { for (w in n) s += n[w] * length(w); print NR, s; exit 9 }"

# What each is given is text; the size in lines is one that each takes a moment for.
PROGRAMS = {
    "xz": (["xz", "-T2", "-3", "--block-size=256KiB", "-c"], 60000),
    "gzip": (["gzip", "-c"], 60000),
    "sort": (["sort", "-S", "8M"], 60000),
    "sha256sum": (["sha256sum"], 60000),
    "python3": ([sys.executable, "-c", PYTHON], 20000),
    "perl": (["perl", "-e", PERL], 60000),
    "bash": (["bash", "-c", BASH], 3000),
    "awk": (["awk", AWK], 60000),
}


def text_of(lines):
    words = [f"word{i}" for i in range(500)]
    seed = random.Random(17)
    return "".join(" ".join(seed.choices(words, k=10)) + "\n" for _ in range(lines)).encode()


def unread(pipe):
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


class Real(cli.Test):
    def setUp(self):
        super().setUp()
        self.node = f"unix:{self.folder}/telepad.sock"
        self.telepad = subprocess.Popen(
            [str(cli.BIN / "telepad"), "--quiet", "--socket", str(self.folder / "telepad.sock")])
        self.addCleanup(self.end_telepad)
        cli.wait_until(lambda: call("check", self.node).returncode == 0)

    def end_telepad(self):
        self.telepad.terminate()
        self.telepad.wait(timeout=cli.PATIENCE)

    def run_moved(self, command, text):
        """Moved when it has read half of it -> (exit code, stdout, stderr)."""
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        said = {}
        readers = [threading.Thread(target=lambda name, pipe: said.update({name: pipe.read()}),
                                    args=(name, pipe))
                   for name, pipe in (("out", process.stdout), ("err", process.stderr))]
        for reader in readers:
            reader.start()
        try:
            process.stdin.write(text[:len(text) // 2])
            process.stdin.flush()
            cli.wait_until(lambda: unread(process.stdin) == 0)
            moved = call("move", process.pid, self.node)
            self.assertEqual(moved.returncode, 0, moved.stderr)
            self.assertIn("telefork-deputy", os.readlink(f"/proc/{process.pid}/exe"))
            process.stdin.write(text[len(text) // 2:])
            process.stdin.close()
            code = process.wait(timeout=cli.PATIENCE)
        finally:
            process.kill()
            process.wait()
            for reader in readers:
                reader.join()
            process.stdout.close()
            process.stderr.close()
        return code, said["out"], said["err"]

    def compare(self, name):
        command, lines = PROGRAMS[name]
        text = text_of(lines)
        alone = subprocess.run(command, input=text, capture_output=True, timeout=cli.PATIENCE)
        self.assertEqual(self.run_moved(command, text), (alone.returncode, alone.stdout,
                                                         alone.stderr))


for program in PROGRAMS:
    setattr(Real, f"test_{program}",
            lambda self, program=program: self.compare(program))

if __name__ == "__main__":
    cli.main()
