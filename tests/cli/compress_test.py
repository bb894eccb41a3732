#!/usr/bin/env python3
"""--compress: memory that goes by TCP in fewer bytes."""
import json
import os
import signal
import subprocess
import sys

import cli
from cli import call
from departure import ByNarrowCable, DepartureTest, is_deputy

# At SIGUSR1 it says what its memory is; the half of that has an order.
PROGRAM = """
import hashlib, random, signal, sys
data = bytearray(b"".join(b"line %d of what a program holds\\n" % i for i in range(400000)))
data += random.Random(5).randbytes(len(data))
signal.signal(signal.SIGUSR1, lambda *_: print(hashlib.sha256(data).hexdigest(), flush=True))
print(hashlib.sha256(data).hexdigest(), len(data), flush=True)
while True: signal.pause()
"""


class Compressed(ByNarrowCable, DepartureTest):
    command = "move"

    def setUp(self):
        super().setUp()
        self.process = self.start(sys.executable, "-c", PROGRAM, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE)
        digest, size = self.process.stdout.readline().split()
        self.digest, self.size = digest, int(size)

    def moved(self, *flags, narrow=False):
        if not narrow:
            self.cable.widen()
        done = self.call("move", self.process.pid, self.node, "--json", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def is_whole(self):
        os.kill(self.process.pid, signal.SIGUSR1)
        self.assertEqual(self.process.stdout.readline().strip(), self.digest)
        os.kill(self.process.pid, signal.SIGTERM)
        self.assertEqual(self.process.wait(timeout=cli.PATIENCE), -signal.SIGTERM)

    def test_sends_fewer_bytes(self):
        for codec, at_least in (("lz4", 0.25), ("zstd", 0.4)):
            with self.subTest(codec):
                told = self.moved("--mode", "eager", "--compress", codec)
                self.assertGreater(told["bytes_saved"], self.size * at_least)
                self.assertLess(told["bytes_saved"], told["bytes_sent"])
                done = self.call("home", self.process.pid)
                self.assertEqual(done.returncode, 0, done.stderr)
        self.is_whole()

    def test_a_slow_link_is_reason_enough(self):
        told = self.moved("--mode", "eager", narrow=True)
        self.assertGreater(told["bytes_saved"], self.size * 0.1)
        self.is_whole()

    def test_none_is_none(self):
        told = self.moved("--mode", "eager", "--compress", "none")
        self.assertEqual(told["bytes_saved"], 0)
        self.is_whole()

    def test_memory_that_follows_is_compressed(self):
        told = self.moved("--mode", "lazy", "--compress", "zstd")
        self.assertEqual(told["mode"], "lazy")
        self.is_whole()

    def test_memory_that_goes_ahead_is_compressed(self):
        told = self.moved("--mode", "live", "--compress", "lz4")
        self.assertEqual(told["mode"], "live")
        self.assertGreater(told["bytes_saved"], self.size * 0.25)
        self.is_whole()

    def test_is_refused_where_it_is_no_use(self):
        for node, why in (("local", b"takes longer than sending"),
                          (f"unix:{self.folder}/telepad.sock", b"takes longer than sending")):
            done = self.call("move", self.process.pid, node, "--compress", "lz4")
            self.assertEqual(done.returncode, 3)
            self.assertIn(why, done.stderr)
            self.assertIn(node.encode(), done.stderr)
        self.assertFalse(is_deputy(self.process.pid))
        # What the settings say is a wish.
        self.environment["TELEFORK_COMPRESS"] = "zstd"
        self.node = f"unix:{self.folder}/telepad.sock"
        self.assertEqual(self.moved("--mode", "eager")["bytes_saved"], 0)
        self.is_whole()

    def test_the_settings_may_say_it(self):
        self.environment["TELEFORK_COMPRESS"] = "zstd"
        self.assertGreater(self.moved("--mode", "eager")["bytes_saved"], self.size * 0.4)
        self.is_whole()

    def test_an_unknown_word_is_refused(self):
        for flags, environment in ((("--compress", "gzip"), {}), ((), {"TELEFORK_COMPRESS": "gzip"})):
            done = call("move", self.process.pid, self.node, *flags,
                        env={**self.environment, **environment})
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"gzip", done.stderr)


if __name__ == "__main__":
    cli.main()
