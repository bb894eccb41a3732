"""What the tests of the commands share."""
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

BIN = pathlib.Path(os.environ["TELEFORK_BIN"])
TELEFORK = str(BIN / "telefork")
VICTIM = os.environ["TELEFORK_VICTIM"]
PATIENCE = 180


def call(*arguments, stdin=b"", **options):
    """telefork with these arguments -> CompletedProcess, output as bytes."""
    return subprocess.run([TELEFORK, *map(str, arguments)], input=stdin, capture_output=True,
                          timeout=PATIENCE, **options)


def call_json(*arguments, **options):
    """-> (exit code, the one object on stdout)."""
    done = call(*arguments, "--json", **options)
    return done.returncode, json.loads(done.stdout)


def features():
    return {f["name"]: f["present"] for f in call_json("check")[1]["features"]}


def need(*names):
    """Ends the program as skipped where this machine lacks one of them."""
    have = features()
    for name in names:
        if not have[name]:
            print(f"needs: {name}")
            sys.exit(77)


def libc_of_this_process():
    maps = pathlib.Path("/proc/self/maps").read_text()
    return re.search(r"/\S*/libc\.so\.6$", maps, re.M).group()


def processes():
    """{pid: state} of all processes."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path(f"/proc/{entry}/stat").read_text()
                found[int(entry)] = text[text.rindex(")") + 2]
            except OSError:
                pass
    return found


def is_running(pid):
    return processes().get(pid, "Z") not in "ZTt"


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def names_of_processes():
    names = {}
    for pid in processes():
        try:
            names[pid] = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            pass
    return names


def has_variable(pid, text):
    """Whether process `pid` was started with the environment variable NAME=VALUE."""
    try:
        return text.encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def records(image):
    """[(type, offset, end of the record)] of an image's bytes; see docs/image-format.md."""
    found, at = [], 0
    while at < len(image):
        magic, kind, flags, metadata, _, payload, _ = struct.unpack_from("<4sHHIIQQ", image, at)
        assert magic == b"TFRK"
        end = at + 32 + metadata + (payload + 8 if flags & 1 else 0)
        found.append((kind, at, end))
        at = end
    return found


class Victim:
    """tests/cli/victim.cc, with pipes for its stdin and stdout."""

    def __init__(self, threads=0, megabytes=1, *files, **options):
        self.process = subprocess.Popen([VICTIM, str(threads), str(megabytes), *map(str, files)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        self.pid = self.process.pid
        line = self.process.stdout.readline()
        assert line == b"ready %d\n" % self.pid, line

    def finish(self):
        """Lets it look at itself -> (exit code, what it printed)."""
        out, _ = self.process.communicate(b"go\n", timeout=PATIENCE)
        return self.process.returncode, out

    def wait_for_death(self):
        code = self.process.wait(timeout=PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        if not self.process.stdin.closed:
            self.wait_for_death()


class Shell:
    """An interactive bash on a terminal."""

    def __init__(self):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.closerange(3, 1024)
            os.environ["PS1"] = "PROMPT> "
            os.execvp("bash", ["bash", "--norc", "--noediting", "-i"])
        self.output = b""
        self.expect("PROMPT> ")

    def type(self, text):
        os.write(self.terminal, text.encode())

    def expect(self, pattern):
        """Reads up to what matches -> the match."""
        end = time.monotonic() + PATIENCE
        while not (match := re.search(pattern.encode(), self.output)):
            left = max(0, end - time.monotonic())
            assert select.select([self.terminal], [], [], left)[0], (pattern, self.output)
            self.output += os.read(self.terminal, 4096)
        self.output = self.output[match.end():]
        return match

    def command(self, line):
        """A line that ends, and its status."""
        self.type(f"{line}; echo status=$?\n")
        status = int(self.expect(r"[\n\r]status=(\d+)")[1])
        self.expect("PROMPT> ")
        return status

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


class Test(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="telefork-cli-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def victim(self, *arguments, **options):
        victim = Victim(*arguments, **options)
        self.addCleanup(victim.close)
        return victim

    def saved(self, *arguments, flags=()):
        """A victim that was saved and has ended -> (pid, image path)."""
        victim = self.victim(*arguments)
        image = self.folder / f"{victim.pid}.tfi"
        done = call("save", victim.pid, image, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(victim.wait_for_death(), -signal.SIGKILL)
        return victim.pid, image

    def refuses(self, done, code, *texts):
        """It failed with this code, and its stderr says all of these."""
        self.assertEqual(done.returncode, code, done.stderr)
        for text in texts:
            self.assertIn(text if isinstance(text, bytes) else text.encode(), done.stderr)


class NodeTest(Test):
    """With a telepad of this machine, `self.node`."""

    def setUp(self):
        super().setUp()
        self.node = f"unix:{self.folder}/telepad.sock"
        self.start_telepad()
        self.addCleanup(self.end_telepad)

    def start_telepad(self):
        self.telepad = subprocess.Popen(
            [str(BIN / "telepad"), "--quiet", "--socket", str(self.folder / "telepad.sock")])
        wait_until(lambda: call("check", self.node).returncode == 0)

    def end_telepad(self):
        self.telepad.terminate()
        self.telepad.wait(timeout=PATIENCE)


def wait_readable(fd):
    """For a pidfd: whether that process ends."""
    return bool(select.select([fd], [], [], PATIENCE)[0])


def wait_until(condition):
    """For what no event tells."""
    end = time.monotonic() + PATIENCE
    pause = 0.01
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(pause)
        # What is awaited needs the processor too.
        pause = min(1.5 * pause, 0.1)


def main():
    """unittest.main() by the rule on skips (tools/run_tests): a file of which anything was skipped
    is a skipped test, and says what it needs."""
    result = unittest.main(module="__main__", exit=False).result
    if result.wasSuccessful() and result.skipped:
        for test, reason in result.skipped:
            print(f"{test.id()} was skipped: {reason}")
        sys.exit(77)
    sys.exit(not result.wasSuccessful())
