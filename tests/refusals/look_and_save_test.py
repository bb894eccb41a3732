#!/usr/bin/env python3
"""What cannot move is named by `check` and `save` before anything is frozen: one offence a test,
named by the environment's TELEFORK_OFFENCE, or all that are of no single one."""
import os
import pathlib
import struct
import subprocess
import unittest

import cli
from cli import call, call_json

OFFENCE = os.environ.get("TELEFORK_OFFENCE")
OFFENDER = os.environ["TELEFORK_OFFENDER"]


class Offender:
    def __init__(self, *offences):
        self.process = subprocess.Popen([OFFENDER, *offences],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline().decode()
        if line.startswith("needs: "):
            print("\n" + line, end="", flush=True)
            os._exit(77)
        assert line.startswith("ready "), line
        self.pid = int(line.split()[1])

    def is_undisturbed(self):
        """It runs on as if nobody had looked at it."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        assert "TracerPid:\t0\n" in status and "(stopped)" not in status, status
        out, _ = self.process.communicate(timeout=cli.PATIENCE)
        return self.process.returncode == 42 and out == b""


class Refusal(cli.Test):
    def offender(self, *offences):
        offender = Offender(*offences)
        self.addCleanup(offender.process.kill)
        return offender

    def refusals(self, offender, *flags):
        """check and save say the same, and change nothing -> the lines."""
        checked = call("check", offender.pid, *flags)
        self.assertEqual((checked.returncode, checked.stderr), (3, b""))
        if "fork" not in flags:
            image = self.folder / "image.tfi"
            saved = call("save", offender.pid, image, *flags)
            self.refuses(saved, 3)
            self.assertEqual((saved.stdout, saved.stderr), (b"", checked.stdout))
            self.assertFalse(image.exists())
        code, answer = call_json("check", offender.pid, *flags)
        self.assertEqual((code, answer["ok"]), (3, False))
        lines = checked.stdout.decode().splitlines()
        self.assertEqual(["refused: " + line for line in answer["refused"]], lines)
        return lines


@unittest.skipUnless(OFFENCE, "told without one")
class OfOneOffence(Refusal):
    def test_is_told_before_anything_is_frozen(self):
        offender = self.offender(OFFENCE)
        subject, why, of = subprocess.check_output([OFFENDER, "--refusal", OFFENCE],
                                                   text=True).split("|")
        flags = ["--for", "fork"] if of == "fork" else []
        found = [line for line in self.refusals(offender, *flags)
                 if line.startswith("refused: " + subject) and ": " + why in line]
        self.assertEqual(len(found), 1)
        self.assertTrue(offender.is_undisturbed())


@unittest.skipIf(OFFENCE, "told of one")
class OfSeveral(Refusal):
    def test_is_told_of_all_at_once(self):
        offences = ["namespace", "folder_of_the_dead", "descriptors_of_a_thread", "long_directory"]
        offender = self.offender(*offences)
        self.assertEqual(len(self.refusals(offender)), len(offences))
        self.assertTrue(offender.is_undisturbed())

    def test_of_a_32_bit_program(self):
        program = self.folder / "program32"
        program.write_bytes(PAUSING_ELF32)
        program.chmod(0o755)
        try:
            process = subprocess.Popen([program], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE)
        except OSError:
            print("\nneeds: ia32", flush=True)
            os._exit(77)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.read(1), b"\x7f")
        done = call("save", process.pid, self.folder / "image.tfi")
        self.refuses(done, 3, f"refused: process {process.pid} (program32): "
                              "it is a 32-bit program\n")


    def test_of_a_program_that_cannot_return_from_a_signal_handler(self):
        program = self.folder / "bare"
        program.write_bytes(PAUSING_ELF64)
        program.chmod(0o755)
        process = subprocess.Popen([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.read(1), b"\x7f")
        for done in call("save", process.pid, self.folder / "i.tfi"), call("check", process.pid):
            self.assertEqual(done.returncode, 3)
            self.assertEqual((done.stdout + done.stderr).decode(),
                             f"refused: process {process.pid} (bare): process {process.pid} has "
                             "no code that returns from a signal handler\n")


@unittest.skipIf(OFFENCE, "told of one")
class LeftAtHome(Refusal):
    def test_is_listed_where_a_fork_would_leave_it(self):
        offender = self.offender("eventfd", "pidfd")
        done = call("check", offender.pid, "--leave-fds")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        lines = done.stdout.decode().splitlines()
        self.assertRegex(lines[0], r"^left at home: fd \d+ -> anon_inode:\[eventfd\]$")
        self.assertRegex(lines[1], r"^left at home: fd \d+ -> anon_inode:\[pidfd\]$")
        self.assertEqual(lines[2:], [f"process {offender.pid} can fork"])
        code, answer = call_json("check", offender.pid, "--leave-fds")
        self.assertEqual((code, answer["ok"]), (0, True))
        self.assertEqual(["left at home: " + line for line in answer["left_home"]], lines[:2])
        code, answer = call_json("check", offender.pid, "--for", "fork")
        self.assertEqual((code, answer["left_home"], len(answer["refused"])), (3, [], 2))
        self.assertTrue(offender.is_undisturbed())

    def test_is_no_memory(self):
        offender = self.offender("eventfd", "memfd_mapping")
        code, answer = call_json("check", offender.pid, "--leave-fds")
        self.assertEqual((code, len(answer["left_home"]), len(answer["refused"])), (3, 1, 1))
        self.assertTrue(offender.is_undisturbed())

    def test_needs_a_process(self):
        self.refuses(call("check", "--leave-fds"), 2, "telefork: usage: ")


def elf32(code):
    """An i386 program of nothing but this code."""
    base, head = 0x08048000, 52 + 32
    size = head + len(code)
    return (b"\x7fELF\x01\x01\x01" + bytes(9) +
            struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + head, 52, 0, 0, 52, 32, 1, 0, 0, 0) +
            struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x1000) + code)


# write(1, "\x7f" of its own header, 1), then pause() for ever.
PAUSING_ELF32 = elf32(b"\xb8\x04\0\0\0\xbb\x01\0\0\0\xb9\0\x80\x04\x08\xba\x01\0\0\0\xcd\x80"
                      b"\xb8\x1d\0\0\0\xcd\x80\xeb\xf7")



def elf64(code):
    """As above, for x86-64."""
    base, head = 0x400000, 64 + 56
    size = head + len(code)
    return (b"\x7fELF\x02\x01\x01" + bytes(9) +
            struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0) +
            struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code)


# Behind it no room is left in its page.
PAUSING_ELF64 = elf64((b"\xb8\x01\0\0\0\xbf\x01\0\0\0\xbe\0\0\x40\0\xba\x01\0\0\0\x0f\x05"
                       b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7").ljust(4096 - 64 - 56, b"\x90"))

if __name__ == "__main__":
    cli.need("ptrace")
    unittest.main()
