#!/usr/bin/env python3
"""ssh://HOST, by a program in ssh's place that starts the telepad on this machine. The real one is in
tests/links."""
import os
import re
import signal
import subprocess
import unittest

import cli

TELEPAD = str(cli.BIN / "telepad")
# What ssh does with its arguments: options, --, host, command.
FAKE = """#!/bin/sh
echo "$@" >>{folder}/arguments
while [ "$1" != -- ]; do shift; done
[ "$2" = loud ] && echo "Authorized uses only." >&2
[ "$2" = denied ] && {{ printf 'eve@denied: Permission denied (publickey).\\r\\n' >&2; exit 255; }}
[ "$2" = away ] && {{ echo "ssh: connect to host away port 22: No route to host" >&2; exit 255; }}
[ "$2" = closed ] && {{ echo "This account is currently not available."; exit 1; }}
[ "$2" = chatty ] && echo "Welcome to this machine"
shift 2
{how}
"""


class Ssh(cli.Test):
    def setUp(self):
        super().setUp()
        self.use('exec sh -c "$*"')

    def use(self, how):
        program = self.folder / "fake ssh"
        program.write_text(FAKE.format(folder=self.folder, how=how))
        program.chmod(0o755)
        self.env = {**os.environ, "TELEFORK_SSH": str(program), "TELEFORK_SSH_TELEPAD": TELEPAD}

    def call(self, *arguments, **options):
        return cli.call(*arguments, env=self.env, **options)

    def test_runs_a_command(self):
        done = self.call("run", "ssh://loud", "--", "sh", "-c", "cat; echo e >&2; exit 7",
                         stdin=b"x" * 3_000_000)
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (7, b"x" * 3_000_000, b"e\n"))
        self.assertEqual(self.call("check", "ssh://eve@node7").returncode, 0)
        self.assertRegex((self.folder / "arguments").read_text(),
                         rf" -oBatchMode=yes .* -l eve -- node7 {re.escape(TELEPAD)} --stdio --quiet\n$")

    def test_runs_a_command_through_two_pipes(self):
        self.use('cat | sh -c "$*" | cat')
        done = self.call("run", "ssh://node7", "--", "sh", "-c", "cat; exit 7",
                         stdin=b"x" * 1_000_000)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (7, b"x" * 1_000_000, b""))

    def test_quotes_the_telepad_for_the_shell_there(self):
        telepad = self.folder / "it's a telepad"
        telepad.symlink_to(TELEPAD)
        self.env["TELEFORK_SSH_TELEPAD"] = str(telepad)
        self.assertEqual(self.call("check", "ssh://node7").returncode, 0)

    def test_tells_what_ssh_says(self):
        self.refuses(self.call("check", "ssh://denied"), 5,
                     "telefork: not authorised: ssh://denied: ssh failed: eve@denied: Permission denied")
        self.refuses(self.call("run", "ssh://denied", "--", "true"), 125, "not authorised")
        self.refuses(self.call("check", "ssh://away"), 4,
                     "telefork: unreachable: ssh://away: ssh failed: ssh: connect to host away")
        self.env["TELEFORK_SSH_TELEPAD"] = "no-such-telepad"
        self.refuses(self.call("check", "ssh://node7"), 4,
                     "no-such-telepad is not to be found there; install telefork there, or have "
                     "TELEFORK_SSH_TELEPAD")
        no_program = self.folder / "no-program"
        no_program.write_text("")
        self.env["TELEFORK_SSH_TELEPAD"] = str(no_program)
        self.refuses(self.call("check", "ssh://node7"), 4,
                     f"{no_program} cannot be executed there; make it a program, or have "
                     "TELEFORK_SSH_TELEPAD")
        self.env["TELEFORK_SSH_TELEPAD"] = "false"
        self.refuses(self.call("check", "ssh://node7"), 4, "false ended there with 1")
        code, told = cli.call_json("check", "ssh://denied", env=self.env)
        self.assertEqual((code, told["error"]["class"]), (5, "not authorised"))

    def test_finds_a_node_whose_shell_talks_unreachable_and_tells_what_it_says(self):
        for node in ("ssh://chatty", "ssh://closed"):
            why = f"unreachable: {node}: what answers is no telepad; have the shell there print nothing"
            self.refuses(self.call("check", node), 4, why, "it says: ")
            self.refuses(self.call("run", node, "--", "true"), 125, why)
        self.refuses(self.call("check", "ssh://closed"), 4,
                     "it says: This account is currently not available.\n")
        code, told = cli.call_json("check", "ssh://closed", env=self.env)
        self.assertEqual((code, told["error"]["class"]), (4, "unreachable"))

    def test_checks_the_version_first(self):
        old = self.folder / "old"
        old.write_text("#!/bin/sh\nprintf TFLINK99xxxx\ncat >/dev/null\n")
        old.chmod(0o755)
        self.env["TELEFORK_SSH_TELEPAD"] = str(old)
        done = self.call("check", "ssh://node7")
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"refused: ssh://node7: the link format is 99 there", done.stdout)

    def test_leaves_nothing_behind(self):
        for arguments in (["check", "ssh://node7"], ["run", "ssh://node7", "--", "true"]):
            # The group of the fake, whose telepad and keeper have sessions of their own.
            self.assertEqual(self.call(*arguments).returncode, 0)
        cli.wait_until(lambda: not self.with_stdio())

    def with_stdio(self):
        """The telepads that serve one connection; of nobody else's test."""
        done = subprocess.run(["pgrep", "-f", f"^{re.escape(self.telepad())} --stdio"],
                              capture_output=True, text=True)
        return done.stdout.split()

    def telepad(self):
        return self.env["TELEFORK_SSH_TELEPAD"]

    def test_ends_with_ssh(self):
        telepad = self.folder / "telepad"
        telepad.symlink_to(TELEPAD)
        # It is /proc/self/exe that tells a telepad where the other programs are.
        self.env["TELEFORK_SSH_TELEPAD"] = str(telepad)
        self.use_with_pipes_kept(telepad)
        session = subprocess.Popen(
            [cli.TELEFORK, "run", "ssh://node7", "--", "sh", "-c", "echo $$; exec sleep 1000"],
            env={**self.env, "TELEFORK_LEASE_STOP_MS": "500", "TELEFORK_LEASE_KILL_MS": "1000",
                 "TELEFORK_LEASE_HOME_MS": "2000"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        guest = int(session.stdout.readline())
        ended = os.pidfd_open(guest)
        os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)
        self.assertTrue(cli.wait_readable(ended))
        os.close(ended)
        _, said = session.communicate(timeout=cli.PATIENCE)
        self.assertEqual(session.returncode, 125)
        self.assertIn(b"telefork: lost: ssh://node7: ssh was killed by signal 9; nobody there can "
                      b"be asked, and its lease is over\n", said)
        cli.wait_until(lambda: not self.with_stdio())

    def use_with_pipes_kept(self, telepad):
        """As ssh: what is in between dies, and the telepad finds its stdin at an end."""
        self.use(f"""echo $$ >{self.folder}/pid
exec python3 -c '
import subprocess, sys, threading, os
there = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, shell=True)
def carry(a, b):
    while piece := os.read(a, 65536):
        os.write(b, piece)
    os.close(b)
threading.Thread(target=carry, args=(0, there.stdin.fileno()), daemon=True).start()
carry(there.stdout.fileno(), 1)
sys.exit(there.wait())
' "$*" """)
        self.env["TELEFORK_SSH_TELEPAD"] = str(telepad)

    def test_the_telepad_does_not_wait_for_ever_for_a_greeting(self):
        for said in (b"", b"nonsense", b"TFLINK01"):
            done = subprocess.run([TELEPAD, "--stdio", "--quiet"], input=said, capture_output=True,
                                  timeout=cli.PATIENCE)
            self.assertEqual((done.returncode, done.stdout), (0, b""), done.stderr)


if __name__ == "__main__":
    cli.need("ptrace")
    cli.main()
