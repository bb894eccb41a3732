#!/usr/bin/env python3
"""Programs that nobody here wrote are moved in the middle of their work: what they then say, and how
they end, is what they say and how they end when they are left alone."""
import array
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import termios
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cli"))
import cli  # noqa: E402
import programs  # noqa: E402
from cli import call  # noqa: E402


def unread(pipe):
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def waits_to_write(pid):
    """Whether it is in write(1, ...)."""
    return pathlib.Path(f"/proc/{pid}/syscall").read_text().startswith("1 0x1 ")


def name_of(pid):
    return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()


class Real(cli.NodeTest):
    def start(self, program):
        process = subprocess.Popen(program.command, cwd=self.folder, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

    def move(self, process):
        moved = call("move", process.pid, self.node)
        self.assertEqual(moved.returncode, 0, moved.stderr)
        self.assertIn("telefork-deputy", os.readlink(f"/proc/{process.pid}/exe"))

    def home(self, process):
        came = call("home", process.pid)
        self.assertEqual(came.returncode, 0, came.stderr)
        self.assertNotIn("telefork-deputy", os.readlink(f"/proc/{process.pid}/exe"))

    def begin(self, program):
        """-> (the process, what it will have said, who reads that)."""
        process = self.start(program)
        said = {}
        readers = [threading.Thread(target=lambda name: said.update(
                       {name: getattr(process, name).read()}), args=(name,))
                   for name in ("stdout", "stderr")]
        return process, said, readers

    def finish(self, process, said, readers):
        """-> (exit code, stdout, stderr)."""
        code = process.wait(timeout=cli.PATIENCE)
        for reader in readers:
            reader.join()
        return code, said["stdout"], said["stderr"]

    def run_moved(self, program, text):
        process, said, readers = self.begin(program)
        half = len(text) if program.full else len(text) // 2
        if not program.full:
            for reader in readers:
                reader.start()
        process.stdin.write(text[:half])
        process.stdin.flush()
        if program.full:
            process.stdin.close()
            cli.wait_until(lambda: waits_to_write(process.pid))
        else:
            cli.wait_until(lambda: unread(process.stdin) == 0)
        self.move(process)
        if program.full:
            for reader in readers:
                reader.start()
        else:
            process.stdin.write(text[half:])
            process.stdin.close()
        return self.finish(process, said, readers)

    def run_there_and_back(self, program, text, times=5):
        """Its input comes in pieces, one before each way."""
        process, said, readers = self.begin(program)
        for reader in readers:
            reader.start()
        piece = len(text) // (2 * times + 1)
        for i in range(2 * times):
            process.stdin.write(text[i * piece:(i + 1) * piece])
            process.stdin.flush()
            (self.home if i % 2 else self.move)(process)
        process.stdin.write(text[2 * times * piece:])
        process.stdin.close()
        return self.finish(process, said, readers)

    def compare(self, program):
        for name, content in program.files.items():
            (self.folder / name).write_text(content)
        if program.build:
            subprocess.run(program.build, cwd=self.folder, check=True)
        text = program.text(program.lines)
        alone = subprocess.run(program.command, cwd=self.folder, input=text, capture_output=True,
                               timeout=cli.PATIENCE)
        expected = (alone.returncode, alone.stdout, alone.stderr)
        self.assertEqual(self.run_moved(program, text), expected)
        # One that is full has read all of its input before it is moved.
        if not program.full:
            self.assertEqual(self.run_there_and_back(program, text), expected)


class Small(Real):
    """Those that CI has."""

    def test_sqlite3_with_a_file_that_it_has_locked(self):
        """Its file is the same one only on one kernel, where a lock cannot be had twice: saved."""
        program = programs.Program(["sqlite3", "words.db"])
        text = programs.statements(3000)
        alone = subprocess.run(program.command, cwd=self.folder, input=text, capture_output=True,
                               timeout=cli.PATIENCE)
        (self.folder / "words.db").unlink()
        process = self.start_half(program, text)
        self.assertTrue((self.folder / "words.db-journal").exists())
        self.assertEqual(self.save_and_load(process, text),
                         (alone.returncode, alone.stdout, alone.stderr))
        self.assertFalse((self.folder / "words.db-journal").exists())

    def test_a_pipeline_of_a_shell(self):
        program = programs.Program(["bash", "-c", "set -o pipefail; tr a-z A-Z | (grep -v 7; exit 3) |"
                                    " sort -S 8M | uniq -c; exit $?"])
        self.compare_trees(program, programs.text_of(30000), ["bash", "sort", "tr", "uniq"])

    def test_a_compiler_and_its_assembler(self):
        program = programs.Program(["gcc", "-pipe", "-O1", "-c", "-x", "c", "-", "-o", "made.o"])
        self.compare_trees(program, programs.functions(300), ["as", "cc1"], "made.o")

    def compare_trees(self, program, text, children, file=None):
        """Saved and loaded, moved, and moved and called home five times."""
        alone = subprocess.run(program.command, cwd=self.folder, input=text, capture_output=True,
                               timeout=cli.PATIENCE)
        made_alone = self.take(file)
        for go_on in (self.save_and_load, self.move_and_finish, self.come_home_and_finish):
            process = self.start_half(program, text)
            # They may be begun one after the other, and be the parent's copies first.
            cli.wait_until(lambda: sorted(map(name_of, cli.children(process.pid))) == children)
            self.assertEqual(go_on(process, text), (alone.returncode, alone.stdout, alone.stderr))
            self.assertEqual(self.take(file), made_alone)

    def take(self, file):
        """-> what is in it; it is there no more."""
        if file is None:
            return None
        content = (self.folder / file).read_bytes()
        (self.folder / file).unlink()
        return content

    def move_and_finish(self, process, text):
        children = cli.children(process.pid)
        self.move(process)
        for child in children:
            self.assertIn("telefork-deputy", os.readlink(f"/proc/{child}/exe"))
        out, err = process.communicate(text[len(text) // 2:], timeout=cli.PATIENCE)
        return process.returncode, out, err

    def come_home_and_finish(self, process, text, times=5):
        text = text[len(text) // 2:]
        piece = len(text) // (2 * times + 1)
        children = cli.children(process.pid)
        for i in range(2 * times):
            process.stdin.write(text[i * piece:(i + 1) * piece])
            process.stdin.flush()
            (self.home if i % 2 else self.move)(process)
            self.assertEqual(cli.children(process.pid), children)
        out, err = process.communicate(text[2 * times * piece:], timeout=cli.PATIENCE)
        return process.returncode, out, err

    def start_half(self, program, text):
        process = self.start(program)
        process.stdin.write(text[:len(text) // 2])
        process.stdin.flush()
        cli.wait_until(lambda: unread(process.stdin) == 0)
        return process

    def save_and_load(self, process, text):
        image = self.folder / "image"
        saved = call("save", process.pid, image)
        self.assertEqual(saved.returncode, 0, saved.stderr)
        process.wait(timeout=cli.PATIENCE)
        loaded = call("load", image, stdin=text[len(text) // 2:], cwd=self.folder)
        return loaded.returncode, process.stdout.read() + loaded.stdout, loaded.stderr


class Large(Real):
    """Those of the long run, where they are installed."""

    def compare(self, program):
        if not shutil.which(program.command[0]):
            self.skipTest(f"needs: {program.command[0]}")
        super().compare(program)


for group, found in ((Small, programs.SMALL), (Large, programs.LARGE)):
    for name, program in found.items():
        setattr(group, f"test_{name}", lambda self, program=program: self.compare(program))

if __name__ == "__main__":
    cli.main()
