#!/usr/bin/env python3
"""Settings from flags, the environment and files: who says it first, and what is not understood."""
import os
import re
import subprocess
import unittest

import cli

AGENT = str(cli.BIN.parent / "libexec/telefork/telefork-agent")


class Settings(cli.Test):
    def setUp(self):
        super().setUp()
        self.file = self.folder / "telefork" / "config.toml"
        self.file.parent.mkdir()

    def env(self, **variables):
        return {**os.environ, "XDG_CONFIG_HOME": str(self.folder), **variables}

    def run_local(self, **variables):
        return subprocess.run([cli.TELEFORK, "run", "local", "--", "true"],
                              env=self.env(**variables), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=cli.PATIENCE)

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
        env = self.env()
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
                ("listen = 3\n", 1, "listen is an address, or a list of them"),
                ("listen = ''\n", 1, "listen is an address"),
                ("listen = [\n'127.0.0.1:0',\n3]\n", 3, "listen is an address"),
                ("listen = ['*', 'no.such.address']\n", 1, "listening on no.such.address: "),
                ("\nlisten = '::1:3'\n", 2, "listening on ::1:3: an IPv6 address needs brackets"),
                ("ssh = 'x'\n", 1, "ssh is a table"),
                ("[ssh]\nport = 22\n", 2, "unknown key ssh.port"),
                ("[ssh]\nprogram = 22\n", 2, "not a program"),
                ("link = 'x'\n", 1, "link is a table"),
                ("[link]\nspeed = 22\n", 2, "unknown key link.speed"),
                ("[link]\ncompress = 'gzip'\n", 2, "not one of auto, none, lz4, zstd"),
                ("[link]\ncompress = 1\n", 2, "not one of auto, none, lz4, zstd"),
                ("[keep]\nimages = 'x'\n", 2, "not a number of images"),
                ("[keep]\nmb = 1\n", 2, "unknown key keep.mb"),
                ("[lease]\nstop_ms = -1\n", 2, "not a number of ms"),
                ("[lease]\nstop_ms = 'x'\n", 2, "not a number of ms"),
                ("[lease]\nstop_ms = 99999999999\n", 2, "not a number of ms")):
            with self.subTest(text=text):
                self.file.write_text(text)
                self.says(f"usage: {self.file}:{line}: {why}")

    def test_of_a_telepad_are_read_when_it_starts(self):
        self.file.write_text("leese = 3\n")
        done = subprocess.run([str(cli.BIN / "telepad"), "--socket", str(self.folder / "socket")],
                              env=self.env(), capture_output=True, text=True,
                              timeout=cli.PATIENCE)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"{self.file}:1: unknown key leese", done.stderr)

    def telepad(self, *arguments):
        return [str(cli.BIN / "telepad"), "--keys", str(self.folder / "keys"), *arguments]

    def listens_at(self, *arguments):
        """What a telepad says that it listens on, up to its socket."""
        sock = str(self.folder / "socket")
        telepad = subprocess.Popen(self.telepad("--socket", sock, *arguments), env=self.env(),
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        try:
            for line in telepad.stderr:
                if line == f"telepad: listening on {sock}\n":
                    return said
                said.append(re.sub(r":[1-9]\d*\n$", "", line))
        finally:
            telepad.terminate()
            telepad.communicate(timeout=cli.PATIENCE)
        self.fail(said)

    def test_of_a_telepad_say_where_it_listens(self):
        subprocess.run([cli.TELEFORK, "keygen", "--keys", str(self.folder / "keys")],
                       stdout=subprocess.DEVNULL, check=True, timeout=cli.PATIENCE)
        self.assertEqual(self.listens_at(), [])
        self.file.write_text("listen = '127.0.0.1:0'\n")
        self.assertEqual(self.listens_at(), ["telepad: listening on 127.0.0.1"])
        self.file.write_text("listen = ['127.0.0.1:0', '127.0.0.2:0']\n")
        self.assertEqual(self.listens_at(), ["telepad: listening on 127.0.0.1",
                                             "telepad: listening on 127.0.0.2"])
        self.assertEqual(self.listens_at("--listen", "127.0.0.3:0"),
                         ["telepad: listening on 127.0.0.3"])
        self.file.write_text("listen = []\n")
        self.assertEqual(self.listens_at(), [])

    def test_of_a_telepad_take_a_key_only_where_it_listens(self):
        self.file.write_text("listen = '127.0.0.1:0'\n")
        for arguments, code, why in (
                (["--socket", str(self.folder / "socket")], 2,
                 f"telefork keygen --keys {self.folder}/keys makes one"),
                (["--stdio"], 0, "it closed in the middle of its greeting")):
            done = subprocess.run(self.telepad(*arguments), env=self.env(),
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=cli.PATIENCE)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(why, done.stderr)
            self.assertNotIn("listening on", done.stderr)
        # A private one listens nowhere either.
        self.assertEqual(self.run_local().returncode, 0)


class Log(cli.Test):
    def test_is_of_errors_only_for_who_wants_quiet(self):
        for flags in (["--quiet"], []):
            socket = self.folder / "telepad.sock"
            telepad = subprocess.Popen([cli.BIN / "telepad", *flags, "--socket", socket],
                                       stderr=subprocess.PIPE)
            cli.wait_until(lambda: cli.call("check", f"unix:{socket}").returncode == 0)
            done = cli.call("run", f"unix:{socket}", "--", "true")
            telepad.terminate()
            _, log = telepad.communicate(timeout=cli.PATIENCE)
            self.assertEqual((done.returncode, bool(log)), (0, not flags), log)


if __name__ == "__main__":
    cli.need("ptrace")
    unittest.main()
