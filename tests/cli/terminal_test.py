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
        self.move(program.pid)
        talk.type("\x1a")
        talk.expect("Stopped(.|\n)*PROMPT> ")
        talk.type("fg\n")
        talk.expect(r"exec sleep 1000'\r\n")
        # The shell says that before it gives its job the terminal.
        shell = shell_of(self.guest_of(program.pid))
        cli.wait_until(lambda: [terminal_of(shell)[1]] == cli.children(shell))
        talk.type("\x03")
        talk.expect("PROMPT> ")
        self.check_shell(talk)
        self.end_shell(program, talk)

    def come_home_to(self, program, number):
        done = call("home", program.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(terminal_of(shell_of(program.pid))[0], number)
        self.assertNotIn(b"terminal", done.stderr)

    def test_comes_home_three_times(self):
        program, talk = self.keeper()
        shell = self.begin_job(program, talk)
        number = terminal_of(shell)[0]
        for _ in range(3):
            self.move(program.pid)
            talk.type("\x1a")
            talk.expect("Stopped(.|\n)*PROMPT> ")
            talk.type("half a li")
            talk.expect("half a li")
            self.come_home_to(program, number)
            talk.type("ne\n")
            talk.expect("half: command not found(.|\n)*PROMPT> ")
            talk.type("tty\n")
            self.assertEqual(int(talk.expect(r"/dev/pts/(\d+)\r\n")[1]), number)
            talk.type("fg\n")
            talk.expect(r"exec sleep 1000'\r\n")
            cli.wait_until(lambda: [terminal_of(shell)[1]] == cli.children(shell))
        self.end_shell(program, talk)

    def move(self, pid):
        done = call("move", pid, self.node)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_stays_there_and_comes_home_later(self):
        """What lay in it meanwhile is there once, and nobody is hung up on."""
        program, talk = self.keeper()
        number = terminal_of(self.begin_job(program, talk))[0]
        self.move(program.pid)
        for step in ("return_seen", "taken_home"):
            talk.type("typed")
            talk.expect("typed")
            command, session = self.stopped_home(step, program.pid)
            self.interrupt(command, session)
            self.assertEqual(command.returncode, 75)
        self.come_home_to(program, number)
        talk.type("\n")
        talk.expect("\r\n")
        self.end_shell(program, talk)

    # A child leads a session, and a child of that is born into it. Each tells whether it has a
    # terminal, how often it was hung up on and told of another size.
    LEADER = """
import fcntl, os, pty, signal, struct, sys, termios
master, members = -1, []
counts = {signal.SIGHUP: 0, signal.SIGWINCH: 0, signal.SIGCONT: 0}
def count(number, frame): counts[number] += 1
for number in counts: signal.signal(number, count)
def begin(tell, work):
    r, w = os.pipe()
    pid = os.fork()
    if pid: os.close(r); return w
    os.close(w)
    if master >= 0: os.close(master)
    for line in os.fdopen(r):
        if not work(line.strip()): tell(line)
    os._exit(0)
def tell(line):
    try: os.close(os.open("/dev/tty", os.O_RDWR)); has = "terminal"
    except OSError: has = "none"
    os.write(1, f"{line.strip()} {has} {' '.join(map(str, counts.values()))}\\n".encode())
def size(fd, rows): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, 80, 0, 0))
def lead(line):
    global master, members
    if line == "begin": os.setsid()
    elif line == "open":
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        os.close(slave)
    elif line == "size":
        s = os.open("/dev/tty", os.O_RDWR); size(s, 50); os.close(s)
    elif line == "close": os.close(master)
    elif line == "fork":
        member = begin(tell, lambda line: line == "end" and os._exit(0))
        members.append(member)
    elif line == "members":
        for member in members: os.write(member, b"member\\n")
        return True
    elif line == "end": os._exit(0)
    return False
leader = begin(tell, lead)
os.write(1, b"ready\\n")
for line in sys.stdin: os.write(leader, line.encode())
os.write(leader, b"end\\n")
os.wait()
"""

    def leader(self):
        program = self.start(sys.executable, "-c", self.LEADER)
        self.assertEqual(program.stdout.readline(), b"ready\n")
        return program

    def ask(self, program, line, *answers):
        program.stdin.write(line.encode() + b"\n")
        program.stdin.flush()
        for answer in answers:
            self.assertEqual(program.stdout.readline().decode().strip(), answer)

    def home(self, program):
        done = call("home", program.pid)
        self.assertEqual(done.returncode, 0, done.stderr)

    def finish(self, program):
        out, err = program.communicate(timeout=cli.PATIENCE)
        self.assertEqual((program.returncode, out), (0, b""), err)

    def test_another_size_is_told_once(self):
        program = self.leader()
        for line in ("begin", "open"):
            self.ask(program, line, f"{line} {'terminal' if line == 'open' else 'none'} 0 0 0")
        self.move(program.pid)
        self.ask(program, "size", "size terminal 0 1 0")
        self.home(program)
        self.ask(program, "look", "look terminal 0 1 0")
        self.finish(program)

    def test_what_a_session_of_home_got_there_it_has_here(self):
        program = self.leader()
        self.ask(program, "begin", "begin none 0 0 0")
        self.ask(program, "fork", "fork none 0 0 0")
        self.move(program.pid)
        self.ask(program, "open", "open terminal 0 0 0")
        command, session = self.stopped_home("taken_home", program.pid)
        self.interrupt(command, session)
        self.assertEqual(command.returncode, 75)
        self.ask(program, "look", "look terminal 0 0 0")
        self.home(program)
        self.ask(program, "look", "look terminal 0 0 0")
        self.ask(program, "members", "member none 0 0 0")
        self.move(program.pid)
        self.home(program)
        self.ask(program, "look", "look terminal 0 0 0")
        self.finish(program)

    def test_what_was_hung_up_there_is_hung_up_here(self):
        """Its leader is told once."""
        program = self.leader()
        self.ask(program, "begin", "begin none 0 0 0")
        self.ask(program, "open", "open terminal 0 0 0")
        self.ask(program, "fork", "fork terminal 0 0 0")
        self.move(program.pid)
        self.ask(program, "close", "close none 1 0 1")
        self.ask(program, "members", "member none 0 0 0")
        self.home(program)
        self.ask(program, "look", "look none 1 0 1")
        self.ask(program, "members", "member none 0 0 0")
        self.finish(program)

    def sessions_begun_there_come_home_as_root(self):
        program = self.leader()
        self.move(program.pid)
        self.ask(program, "begin", "begin none 0 0 0")
        self.ask(program, "open", "open terminal 0 0 0")
        self.ask(program, "fork", "fork terminal 0 0 0")
        self.home(program)
        self.ask(program, "look", "look terminal 0 0 0")
        self.ask(program, "members", "member terminal 0 0 0")
        self.move(program.pid)
        self.home(program)
        self.ask(program, "look", "look terminal 0 0 0")
        self.ask(program, "members", "member terminal 0 0 0")
        self.finish(program)

    # Only root can choose the ids of processes.
    if os.geteuid() == 0:
        test_sessions_begun_there_come_home = sessions_begun_there_come_home_as_root

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
        self.move(program.pid)
        talk.type("\x03")
        talk.expect("PROMPT> ")
        talk.type("exit\n")
        talk.expect("exit")
        program.wait(timeout=cli.PATIENCE)


if __name__ == "__main__":
    cli.main()
