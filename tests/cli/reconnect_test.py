#!/usr/bin/env python3
"""What runs at a node, and whose connections by TLS are lost: they are made anew, and nothing is lost,
as long as the lease lasts."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading

import cli
from cli import call
from departure import ByNarrowCable, DepartureTest, arguments_of, has_taken_signals, is_deputy, kill, large_program, sessions

PROGRAM = large_program(24, signal.SIGUSR1)


class ByCable(ByNarrowCable, DepartureTest):
    command = "move"

    def setUp(self):
        super().setUp()
        # Long enough for what is done here; who loses a connection is to have another one before.
        for name in list(self.environment):
            if name.startswith("TELEFORK_LEASE_"):
                del self.environment[name]

    def program(self, **options):
        process = self.start(sys.executable, "-c", PROGRAM, **options)
        self.assertEqual(process.stdout.readline(), b"ready %d\n" % process.pid)
        return process

    def go(self, pid, mode="eager"):
        done = self.call("move", pid, self.node, "--mode", mode, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["mode"], mode)

    def break_off(self):
        """All connections are lost; others may be made."""
        self.cable.cut()
        self.cable.mend()

    def hears(self, process):
        os.kill(process.pid, signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), b"%d\n" % signal.SIGUSR1)

    def is_whole(self, process):
        os.kill(process.pid, signal.SIGUSR2)
        self.assertEqual(process.stdout.readline(), b"all True\n")

    def ends(self, process):
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 9)

    def entry(self, pid):
        found = [entry for entry in sessions() if (entry["pid"], entry["role"]) == (pid, "away")]
        return found[0] if found else None


class OfAMove(ByCable):
    def test_goes_on_however_often_they_are_lost(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        for _ in range(3):
            self.break_off()
            self.hears(process)
        self.is_whole(process)
        self.ends(process)

    def test_goes_on_though_nothing_passes_and_nobody_is_told(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        self.cable.stall()
        self.hears(process)
        self.ends(process)

    def test_goes_on_though_nothing_passes_that_way(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        self.cable.stall_from_home()
        self.hears(process)
        self.ends(process)

    def test_what_is_said_while_there_is_no_connection_is_heard_once_there_is(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        self.cable.cut()
        cli.wait_until(lambda: self.entry(process.pid)["connection_lost"])
        self.assertIn(b"away, connection lost", call("ps").stdout)
        for number in signal.SIGUSR1, signal.SIGTERM:
            os.kill(process.pid, number)
            cli.wait_until(lambda: has_taken_signals(process.pid))
        self.cable.mend()
        cli.wait_until(lambda: not (self.entry(process.pid) or {"connection_lost": False})["connection_lost"])
        out, _ = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out), (9, b"%d\n" % signal.SIGUSR1))

    def test_comes_home_by_another_connection(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        self.break_off()
        self.done("home", process.pid)
        self.assertFalse(is_deputy(process.pid))
        self.is_whole(process)
        self.ends(process)

    def test_goes_on_coming_home_where_it_is_lost_on_the_way(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        command, session = self.stopped_home("taken_home", process.pid)
        self.break_off()
        os.kill(session, signal.SIGCONT)
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.is_whole(process)
        self.ends(process)

    def test_comes_home_though_nothing_passes_on_the_way(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        self.cable.cut()
        self.cable.mend(narrow=True)
        guest = self.guest_of(process.pid)
        command = self.start(cli.TELEFORK, "home", str(process.pid))
        cli.wait_until(lambda: cli.processes()[guest] == "t")
        self.cable.stall()
        self.cable.widen()
        _, err = command.communicate(timeout=cli.PATIENCE)
        self.assertEqual(command.returncode, 0, err)
        self.is_whole(process)
        self.ends(process)

    def test_ends_at_once_where_the_keeper_has_ended(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        self.kill_keepers()
        _, err = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual(process.returncode, 125)
        self.assertIn(f"{self.node}: ".encode(), err)

    def test_is_given_up_at_once_where_the_telepad_was_started_since(self):
        self.cable.widen()
        process = self.program()
        self.go(process.pid)
        keepers = self.keepers()
        guest = self.guest_of(process.pid)
        self.assertTrue(cli.is_running(guest))
        self.telepad.kill()
        self.telepad.wait()
        for keeper in keepers:
            kill(keeper)
        # Nobody else would end it.
        cli.wait_until(lambda: guest not in cli.processes())
        self.telepad = subprocess.Popen(
            [cli.BIN / "telepad", "--quiet", "--socket", self.folder / "telepad.sock",
             "--listen", self.cable.to, "--keys", self.folder / "served"])
        # It knows nothing of the session, and nobody else can say what has become of it.
        cli.wait_until(lambda: (self.entry(process.pid) or {"state": ""})["state"] == "unknown")
        process.kill()
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)


    def test_the_guest_ends_with_its_connection_where_the_telepad_has_ended(self):
        self.cable.widen()
        # Not by that.
        self.environment.update(TELEFORK_LEASE_KILL_MS="400000", TELEFORK_LEASE_HOME_MS="420000")
        process = self.program()
        self.go(process.pid)
        session, = [pid for pid in cli.processes()
                    if arguments_of(pid)[1:3] == [b"move", b"%d" % process.pid]]
        self.addCleanup(kill, session)
        guest = self.guest_of(process.pid)
        self.telepad.kill()
        self.telepad.wait()
        self.hears(process)
        self.cable.cut()
        cli.wait_until(lambda: guest not in cli.processes())


class OfLazyMemory(ByCable):
    def test_goes_on_following(self):
        process = self.program()
        self.go(process.pid, "lazy")
        self.assertTrue(self.entry(process.pid)["memory_follows"])
        self.cable.cut()
        self.cable.mend(narrow=True)
        self.hears(process)
        self.assertTrue(self.entry(process.pid)["memory_follows"])
        self.break_off()
        self.is_whole(process)
        cli.wait_until(lambda: is_deputy(process.pid))
        self.ends(process)

    def test_goes_on_though_nothing_passes_and_nobody_is_told(self):
        process = self.program()
        self.go(process.pid, "lazy")
        self.cable.stall()
        self.cable.widen()
        self.is_whole(process)
        self.ends(process)


class OfACopy(ByCable):
    def test_goes_on_and_its_output_comes(self):
        output = self.folder / "output"
        with open(output, "wb") as file:
            process = self.start(sys.executable, "-c", PROGRAM, stdin=subprocess.DEVNULL, stdout=file,
                                 stderr=file)
        cli.wait_until(lambda: output.read_bytes().startswith(b"ready"))
        done = self.call("fork", process.pid, self.node, "--mode", "lazy", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        home = json.loads(done.stdout)["home_pid"]
        self.addCleanup(lambda: cli.wait_until(lambda: home not in cli.processes()))
        self.addCleanup(kill, home)
        self.break_off()
        os.kill(home, signal.SIGUSR2)
        cli.wait_until(lambda: output.read_bytes().endswith(b"all True\n"))
        os.kill(home, signal.SIGTERM)
        cli.wait_until(lambda: home not in cli.processes())
        self.ends(process)


# Waits there for a file, and changes every other page.
CALLER = """
import ctypes, os, sys, time
telefork = ctypes.CDLL(sys.argv[1])
telefork.telefork_error.restype = ctypes.c_char_p
memory = bytearray(range(256)) * (16 << 12)
def f(_):
    print("there", flush=True)
    while not os.path.exists(sys.argv[3]): time.sleep(0.02)
    for at in range(0, len(memory), 8192): memory[at] = 77
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(f)
failed = telefork.telefork_run_on(sys.argv[2].encode(), function, None)
expected = bytearray(range(256)) * (16 << 12)
for at in range(0, len(expected), 8192): expected[at] = 77
print(failed, memory == expected, telefork.telefork_error() if failed else "", flush=True)
"""


class OfACall(ByCable):
    def test_comes_home_by_the_one_connection_that_there_is(self):
        self.cable.widen()
        self.environment["TELEFORK_SOCKET"] = ""
        process = self.start(sys.executable, "-c", CALLER, cli.BIN.parent / "lib" / "libtelefork.so",
                             self.node, self.folder / "go", env=self.environment)
        self.assertEqual(process.stdout.readline(), b"there\n")
        self.break_off()
        (self.folder / "go").touch()
        out, err = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, out, err), (0, b"0 True \n", b""))


class OfACommand(ByCable):
    # What comes out is what went in, by many pieces.
    COUNT = 40

    def test_its_streams_lose_nothing(self):
        self.cable.widen()
        command = subprocess.Popen([cli.TELEFORK, "run", self.node, "--", "cat"], env=self.environment,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(command.kill)
        self.addCleanup(command.stdout.close)
        sent, came = hashlib.sha256(), hashlib.sha256()
        size = 0

        def read():
            nonlocal size
            while data := command.stdout.read1(1 << 16):
                came.update(data)
                size += len(data)
        reader = threading.Thread(target=read)
        reader.start()
        for turn in range(self.COUNT):
            data = os.urandom(1 << 18)
            sent.update(data)
            command.stdin.write(data)
            if turn % 8 == 4:
                self.break_off()
        command.stdin.close()
        reader.join()
        self.assertEqual(command.wait(timeout=cli.PATIENCE), 0)
        self.assertEqual((size, came.digest()), (self.COUNT << 18, sent.digest()))


if __name__ == "__main__":
    cli.need("uffd_kernel_faults")
    cli.main()
