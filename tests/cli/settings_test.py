#!/usr/bin/env python3
"""Settings from flags, the environment and files: who says it first, and what is not understood."""
import os
import subprocess
import unittest

import cli

AGENT = str(cli.BIN.parent / "libexec/telefork/telefork-agent")


class Settings(cli.Test):
    def setUp(self):
        super().setUp()
        self.file = self.folder / "telefork" / "config.toml"
        self.file.parent.mkdir()

    def run_local(self, **variables):
        env = {**os.environ, "XDG_CONFIG_HOME": str(self.folder), **variables}
        return subprocess.run([cli.TELEFORK, "run", "local", "--", "true"], env=env,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=cli.PATIENCE)

    def says(self, *parts, **variables):
        done = self.run_local(**variables)
        self.assertEqual((done.returncode, done.stdout), (125, ""), done.stderr)
        for part in parts:
            self.assertIn(part, done.stderr)

    def test_of_the_user_are_read(self):
        self.file.write_text("[lease]\nstop_ms = 500\nkill_ms = 2000\nhome_ms = 4000\n")
        self.assertEqual(self.run_local().returncode, 0)
        self.file.write_text("[lease]\nstop_ms = 500\nkill_ms = 400\n")
        self.says("lease")

    def test_give_way_to_the_environment(self):
        self.file.write_text("[lease]\nkill_ms = 1\n")
        self.says("lease")
        self.assertEqual(self.run_local(TELEFORK_LEASE_KILL_MS="60000").returncode, 0)
        self.says("TELEFORK_LEASE_KILL_MS=soon: not a number of ms",
                  TELEFORK_LEASE_KILL_MS="soon")

    def test_name_ssh_and_the_telepad_there(self):
        self.file.write_text("[ssh]\nprogram = '/nowhere/ssh'\ntelepad = '/opt/telepad'\n")
        run = [cli.TELEFORK, "check", "ssh://node7"]
        env = {**os.environ, "XDG_CONFIG_HOME": str(self.folder)}
        done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=cli.PATIENCE)
        self.assertIn("/nowhere/ssh", done.stderr)
        env["TELEFORK_SSH"] = "false"
        done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=cli.PATIENCE)
        self.assertEqual(done.returncode, 4)
        self.assertIn("/opt/telepad ended there with 1", done.stderr)

    def test_that_are_not_understood_name_file_and_line(self):
        for text, line, why in (
                ("\n[lease\n", 2, ""),
                ("lease = 3\n", 1, "lease is a table"),
                ("[lease]\n\nstop = 3\n", 3, "unknown key lease.stop"),
                ("leese = 3\n", 1, "unknown key leese"),
                ("ssh = 'x'\n", 1, "ssh is a table"),
                ("[ssh]\nport = 22\n", 2, "unknown key ssh.port"),
                ("[ssh]\nprogram = 22\n", 2, "not a program"),
                ("[lease]\nstop_ms = -1\n", 2, "not a number of ms"),
                ("[lease]\nstop_ms = 'x'\n", 2, "not a number of ms"),
                ("[lease]\nstop_ms = 99999999999\n", 2, "not a number of ms")):
            with self.subTest(text=text):
                self.file.write_text(text)
                self.says(f"usage: {self.file}:{line}: {why}")

    def test_of_a_telepad_are_read_when_it_starts(self):
        self.file.write_text("leese = 3\n")
        done = subprocess.run([str(cli.BIN / "telepad"), "--socket", str(self.folder / "socket")],
                              env={**os.environ, "XDG_CONFIG_HOME": str(self.folder)},
                              capture_output=True, text=True, timeout=cli.PATIENCE)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"{self.file}:1: unknown key leese", done.stderr)


if __name__ == "__main__":
    cli.need("ptrace")
    unittest.main()
