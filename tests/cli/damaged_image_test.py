#!/usr/bin/env python3
"""An image that is cut short or changed: a clear error, and nothing is left of it."""
import json
import os
import random
import unittest

import cli
from cli import call

SEED = int(os.environ.get("TELEFORK_SEED", random.randrange(2**32)))
FLIPS = 60


class DamagedImage(cli.Test):
    @classmethod
    def setUpClass(cls):
        victim = cli.Victim(2, 1)
        cls.pid = victim.pid
        done = call("save", victim.pid, "/dev/stdout")
        assert done.returncode == 0, done.stderr
        cls.image = done.stdout
        victim.wait_for_death()
        cls.records = cli.records(cls.image)

    def fails(self, data, *texts):
        file = self.folder / "damaged.tfi"
        file.write_bytes(data)
        done = call("load", file, stdin=b"go\n")
        self.refuses(done, 125, "telefork: corrupt: ", str(file), *texts)
        self.assertEqual(done.stdout, b"")
        self.assertFalse(os.path.exists(f"/proc/{self.pid}"), "something is left of the process")
        return file

    def test_the_image_is_sound(self):
        file = self.folder / "sound.tfi"
        file.write_bytes(self.image)
        done = call("load", file, stdin=b"go\n")
        self.assertEqual((done.returncode, done.stdout), (42, b"pass\n"), done.stderr)

    def test_is_cut_at_every_record(self):
        for _, offset, _ in self.records[1:]:
            self.fails(self.image[:offset], "the image is truncated after record")

    def test_is_cut_inside_a_record(self):
        for kind, offset, end in self.records[::5]:
            self.fails(self.image[:(offset + end) // 2], "truncated")

    def test_is_empty(self):
        self.fails(b"")

    def test_has_something_behind_it(self):
        self.fails(self.image + b"x")

    def test_is_something_else(self):
        self.fails(b"#!/bin/sh\necho hello\n" * 100)

    def test_has_flipped_bits(self):
        dice = random.Random(SEED)
        for _ in range(FLIPS):
            data = bytearray(self.image)
            at = dice.randrange(len(data))
            data[at] ^= 1 << dice.randrange(8)
            with self.subTest(seed=SEED, at=at):
                self.fails(bytes(data))

    def test_show_prints_what_is_whole(self):
        cut = self.records[4][1]
        file = self.folder / "cut.tfi"
        file.write_bytes(self.image[:cut])
        done = call("show", file)
        self.refuses(done, 1, "telefork: corrupt: ", str(file), "truncated after record 3")
        self.assertIn(b"0 header\n", done.stdout)
        self.assertIn(b"3 ", done.stdout)
        done = call("show", file, "--json")
        self.assertEqual(done.returncode, 1)
        shown = json.loads(done.stdout)
        self.assertEqual([r["record"] for r in shown["records"]], [0, 1, 2, 3])
        self.assertEqual(shown["error"]["class"], "corrupt")


if __name__ == "__main__":
    cli.need("ptrace", "mm_map", "pid_namespace")
    cli.main()
