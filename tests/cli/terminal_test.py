#!/usr/bin/env python3
"""Pseudo-terminals whose both ends go along: a program that has a shell on one, as script(1) does."""
import os
import re
import select
import sys
import time

import cli
from cli import call
from departure import DepartureTest

# What is typed comes by stdin, what the shell writes goes to stdout.
KEEPER = """
import os, pty, select, sys
pid, master = pty.fork()
if pid == 0:
    os.environ.update(PS1="PROMPT> ", TERM="dumb")
    os.execvp("bash", ["bash", "--norc", "--noediting", "-i"])
os.write(1, b"ready\\n")
inputs = [0, master]
while True:
    for fd in select.select(inputs, [], [])[0]:
        try:
            text = os.read(fd, 4096)
        except OSError:
            text = b""
        if fd == 0 and not text:
            inputs.remove(0)
        elif fd == 0:
            os.write(master, text)
        elif text:
            os.write(1, text)
        else:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


class Talk:
    """With the shell, by two pipes."""

    def __init__(self, program):
        self.there = program.stdin.fileno()
        self.here = program.stdout.fileno()
        self.output = b""

    def type(self, text):
        os.write(self.there, text.encode())

    def expect(self, pattern):
        end = time.monotonic() + cli.PATIENCE
        while not (match := re.search(pattern.encode(), self.output)):
            ready, _, _ = select.select([self.here], [], [], max(0, end - time.monotonic()))
            text = os.read(self.here, 4096) if ready else b""
            if not text:
                raise AssertionError(f"{pattern!r} is not in {self.output!r}")
            self.output += text
        self.output = self.output[match.end():]
        return match


def shell_of(keeper):
    shell, = cli.children(keeper)
    return shell


def terminal_of(pid):
    """-> number of its controlling terminal, its foreground group."""
    fields = cli.pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    device = int(fields[4])
    return (device & 0xff) | (device >> 12 & 0xfff00), int(fields[5])


class Terminal(DepartureTest):
    command = "move"

    def keeper(self):
        program = self.start(sys.executable, "-c", KEEPER)
        talk = Talk(program)
        talk.expect("PROMPT> ")
        return program, talk

    def check_shell(self, talk):
        talk.type("echo $((6 * 7)); [ -t 0 ] && tty\n")
        talk.expect(r"42\r\n/dev/pts/\d+\r\n.*PROMPT> ")
        # A job in the foreground, which only ^C ends, and the shell goes on.
        talk.type("sh -c 'echo be\"\"gun; exec sleep 1000'\n")
        talk.expect(r"begun\r\n")

    def end_shell(self, program, talk):
        talk.type("\x03")
        talk.expect("PROMPT> ")
        talk.type("exit 7\n")
        self.assertEqual(program.wait(timeout=cli.PATIENCE), 7)

    def begin_job(self, program, talk):
        """-> the shell, whose job has the terminal."""
        self.check_shell(talk)
        shell = shell_of(program.pid)
        self.assertEqual([terminal_of(shell)[1]], cli.children(shell))
        return shell

    def test_by_itself(self):
        program, talk = self.keeper()
        self.begin_job(program, talk)
        self.end_shell(program, talk)

    def test_is_saved_and_loaded(self):
        program, talk = self.keeper()
        shell = self.begin_job(program, talk)
        number = terminal_of(shell)[0]
        # What nobody reads now is there later: an answer to a question that comes after the load.
        talk.type("half a line")
        talk.expect("half a line")
        image = self.folder / "shell.tfi"
        self.assertEqual(call("check", program.pid).returncode, 0)
        done = call("save", program.pid, image)
        self.assertEqual(done.returncode, 0, done.stderr)
        program.wait()
        loaded = self.start(cli.TELEFORK, "load", str(image))
        talk = Talk(loaded)
        talk.type("\x03")
        talk.expect("PROMPT> ")
        talk.type("tty\n")
        self.assertEqual(int(talk.expect(r"/dev/pts/(\d+)\r\n").group(1)), number)
        self.check_shell(talk)
        self.end_shell(loaded, talk)
        self.assertEqual(loaded.stderr.read(), b"")

    def test_runs_on_after_it_was_kept(self):
        program, talk = self.keeper()
        self.begin_job(program, talk)
        talk.type("typed")
        talk.expect("typed")
        done = call("save", "--keep", program.pid, self.folder / "kept.tfi")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.end_shell(program, talk)

    def test_moves(self):
        program, talk = self.keeper()
        self.begin_job(program, talk)
        done = call("move", program.pid, self.node)
        self.assertEqual(done.returncode, 0, done.stderr)
        talk.type("\x1a")
        talk.expect("Stopped(.|\n)*PROMPT> ")
        talk.type("fg\n")
        talk.expect(r"exec sleep 1000'\r\n")
        talk.type("\x03")
        talk.expect("PROMPT> ")
        self.check_shell(talk)
        self.end_shell(program, talk)

    def test_what_another_process_has_stays(self):
        program, talk = self.keeper()
        shell = shell_of(program.pid)
        with open(f"/dev/pts/{terminal_of(shell)[0]}", "rb", buffering=0,
                  opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY)):
            done = call("save", program.pid, self.folder / "refused.tfi")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(f"process {os.getpid()} has it too, and stays".encode(), done.stderr)

    def test_a_shell_of_script(self):
        shell = "PS1='PROMPT> ' TERM=dumb exec bash --norc --noediting -i"
        program = self.start("script", "-q", "-c", shell, str(self.folder / "typescript"))
        talk = Talk(program)
        talk.expect("PROMPT> ")
        self.check_shell(talk)
        done = call("move", program.pid, self.node)
        self.assertEqual(done.returncode, 0, done.stderr)
        talk.type("\x03")
        talk.expect("PROMPT> ")
        talk.type("exit\n")
        talk.expect("exit")
        program.wait(timeout=cli.PATIENCE)


if __name__ == "__main__":
    cli.main()
