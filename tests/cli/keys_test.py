#!/usr/bin/env python3
"""HOST[:PORT]: keygen, trust, and a telepad that listens on TCP for those whose key it trusts."""
import os
import pathlib
import re
import select
import shlex
import signal
import socket
import ssl
import stat
import subprocess
import unittest

import cli
from departure import SHORT_LEASE

TELEPAD = str(cli.BIN / "telepad")
KEY = r"tf1:[A-Za-z0-9+/]{43}="


class Telepad:
    """One that listens on a port of the kernel's choice; what it says is in its log."""

    def __init__(self, folder, keys, *arguments, where="127.0.0.1:0", env=None):
        self.log = folder / "telepad.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [TELEPAD, "--socket", folder / "telepad.sock", "--listen", where, "--keys", keys,
                 *arguments], stdin=subprocess.DEVNULL, stderr=log, env=env)
        self.pid = self.process.pid
        cli.wait_until(lambda: "telepad.sock" in self.said() or self.process.poll() is not None)
        found = re.search(r"listening on (\S+:(\d+))\n", self.said())
        assert found, self.said()
        self.node, self.port = found[1], int(found[2])

    def said(self):
        return self.log.read_text()

    def descriptors(self):
        found = []
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{self.pid}/fd/{fd}"))
            except FileNotFoundError:
                pass
        return sorted(found)

    def children(self):
        return pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=cli.PATIENCE)


class KeysTest(cli.Test):
    def setUp(self):
        super().setUp()
        os.chmod(self.folder, 0o755)
        self.served = self.folder / "served"
        self.env = {**os.environ, "XDG_CONFIG_HOME": str(self.folder / "config")}
        self.own = self.folder / "config" / "telefork"

    def call(self, *arguments, **options):
        return cli.call(*arguments, env=self.env, **options)

    def call_json(self, *arguments, **options):
        return cli.call_json(*arguments, env=self.env, **options)

    def keygen(self, *arguments):
        done = self.call("keygen", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        return done.stdout.decode().strip()

    def trust(self, *arguments):
        done = self.call("trust", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def as_this_user(self):
        return ["--as", "root"] if os.geteuid() == 0 else []

    def start(self, *arguments, **options):
        telepad = Telepad(self.folder, self.served, *arguments, **options)
        self.addCleanup(telepad.stop)
        return telepad

    def introduce(self, *arguments, **options):
        """A telepad and this user, who know each other."""
        key = self.keygen("--keys", self.served)
        self.own_key = self.keygen()
        telepad = self.start(*arguments, **options)
        self.trust(telepad.node, key)
        self.trust(self.own_key, *self.as_this_user(), "--keys", self.served)
        return telepad


class Keygen(KeysTest):
    def test_makes_a_key_that_is_nobody_elses_to_read(self):
        key = self.keygen()
        self.assertRegex(key, f"^{KEY}$")
        self.assertEqual(stat.S_IMODE(self.own.stat().st_mode), 0o700)
        for name in ("key.pem", "cert.pem"):
            self.assertEqual(stat.S_IMODE((self.own / name).stat().st_mode), 0o600)

    def test_makes_the_folders_that_lead_there(self):
        folder = self.own / "some" / "where" / "keys"
        self.assertRegex(self.keygen("--keys", folder), f"^{KEY}$")
        for made in (folder, folder.parent, folder.parent.parent):
            self.assertEqual(stat.S_IMODE(made.stat().st_mode), 0o700)
        (self.folder / "file").write_bytes(b"")
        self.refuses(self.call("keygen", "--keys", self.folder / "file" / "keys"), 1,
                     str(self.folder / "file" / "keys"), "Not a directory")

    def test_replaces_none_unless_told_to(self):
        key = self.keygen()
        before = (self.own / "key.pem").read_bytes()
        self.refuses(self.call("keygen"), 2, "--force", key)
        self.assertEqual((self.own / "key.pem").read_bytes(), before)
        self.assertNotEqual(self.keygen("--force"), key)

    def test_makes_one_whoever_asks_at_once(self):
        asking = [subprocess.Popen([cli.TELEFORK, "keygen"], env=self.env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True) for _ in range(8)]
        told = [one.communicate(timeout=cli.PATIENCE) for one in asking]
        made = [out.strip() for out, _ in told if out]
        self.assertEqual(len(made), 1, told)
        for (_, err), one in zip(told, asking):
            self.assertTrue(one.returncode == 0 or made[0] in err, err)

    def test_gives_a_key_that_came_alone_its_certificate(self):
        key = self.keygen()
        before = (self.own / "key.pem").read_bytes()
        certificate = (self.own / "cert.pem").read_bytes()
        for spoil in (lambda file: file.unlink(), lambda file: file.write_bytes(b"")):
            spoil(self.own / "cert.pem")
            self.assertEqual(self.keygen(), key)
            self.assertEqual((self.own / "key.pem").read_bytes(), before)
            self.assertEqual((self.own / "cert.pem").read_bytes(), certificate)
        self.refuses(self.call("keygen"), 2, "is there already", key)

    def test_gives_no_certificate_to_what_is_no_key(self):
        self.keygen()
        for name in ("key.pem", "cert.pem"):
            (self.own / name).write_bytes(b"")
        self.refuses(self.call("keygen"), 5, "holds no Ed25519 key", "telefork keygen --force")
        self.assertEqual((self.own / "key.pem").read_bytes(), b"")

    def test_tells_it_as_json(self):
        code, told = self.call_json("keygen", "--keys", self.served)
        self.assertEqual((code, told["file"]), (0, str(self.served / "key.pem")))
        self.assertRegex(told["key"], f"^{KEY}$")


class Trust(KeysTest):
    def test_lists_what_was_added_and_not_what_was_removed(self):
        keys = [self.keygen("--force") for _ in range(3)]
        serving = ["--keys", self.own]
        self.trust(keys[0], *self.as_this_user(), *serving)
        self.trust(keys[1], *self.as_this_user(), *serving)
        self.trust("node7", keys[2])
        self.trust("[::1]:81", keys[2])
        code, told = self.call_json("trust", "--list", *serving)
        self.assertEqual(code, 0)
        self.assertEqual([one["key"] for one in told["trusted_keys"]], keys[:2])
        self.assertEqual([(one["node"], one["key"]) for one in told["known_nodes"]],
                         [("node7", keys[2]), ("[::1]:81", keys[2])])
        self.trust("--remove", keys[0], *serving)
        self.trust("--remove", "node7:7335", *serving)
        listed = self.call("trust", "--list", *serving).stdout.decode()
        self.assertNotIn(keys[0], listed)
        self.assertNotIn("node7", listed)
        self.refuses(self.call("trust", "--remove", keys[0], *serving), 2, "is not in")

    def test_says_which_key_it_replaces(self):
        one, other = self.keygen(), self.keygen("--force")
        self.trust("node7", one)
        code, told = self.call_json("trust", "node7", other)
        self.assertEqual((code, told["replaced"], told["key"]), (0, one, other))

    def test_does_not_take_what_it_does_not_understand(self):
        key = self.keygen()
        for arguments in ([], [key, "node7"], ["node7"], ["node7", "tf1:x"], ["local", key],
                          ["ssh://node7", key], ["unix:/x", key], ["--list", key], [key, key],
                          ["--remove", "tf1:x"], ["node7", key, "--as", "root"],
                          [key, "--as", "no such user", "--keys", self.own]):
            self.refuses(self.call("trust", *arguments), 2, "telefork: usage: ")

    def test_is_for_root_only_with_a_user(self):
        if os.geteuid() != 0:
            self.skipTest("needs: root")
        key = self.keygen()
        self.refuses(self.call("trust", key, "--keys", self.own), 2,
                     f"telefork trust {key} --as USER")


class Listening(KeysTest):
    def refuses_to_start(self, code, text, *arguments):
        done = subprocess.run([TELEPAD, "--socket", self.folder / "s", "--keys", self.served,
                               *arguments], capture_output=True, timeout=cli.PATIENCE)
        self.refuses(done, code, text)

    def test_takes_a_key(self):
        self.refuses_to_start(2, f"telefork keygen --keys {self.served} makes one",
                              "--listen", "127.0.0.1:0")

    def test_takes_an_address(self):
        self.keygen("--keys", self.served)
        for where in ("127.0.0.1:x", "127.0.0.1:99999", "::1:3", "[::1", "a.b.c:1", "[::1]x"):
            self.refuses_to_start(2, f"listening on {where}: ", "--listen", where)

    def test_takes_files_that_are_understood(self):
        self.keygen("--keys", self.served)
        (self.served / "trusted_keys").write_text("\ntf1:x\n")
        os.chmod(self.served / "trusted_keys", 0o600)
        self.refuses_to_start(5, f"{self.served}/trusted_keys:2: ", "--listen", "127.0.0.1:0")

    def test_is_not_for_stdio(self):
        self.refuses_to_start(2, "--stdio", "--stdio", "--listen", "127.0.0.1:0")

    def test_works_on_ipv6_and_on_all_addresses(self):
        key = self.keygen("--keys", self.served)
        self.trust(self.keygen(), *self.as_this_user(), "--keys", self.served)
        for where, host in (("[::1]:0", "[::1]"), ("*:0", "127.0.0.1"), (":0", "[::1]")):
            telepad = Telepad(self.folder, self.served, where=where)
            try:
                node = f"{host}:{telepad.port}"
                self.trust(node, key)
                self.assertEqual(self.call("check", node).returncode, 0, where)
            finally:
                telepad.stop()
            telepad.log.unlink()


class Asking(KeysTest):
    def setUp(self):
        super().setUp()
        # The commands that messages name are pasted into a shell.
        self.served = self.folder / "it's served"

    def mend(self, done):
        """Runs the command that the message names, and nothing else of it: where the asker's keys
        are is in it, since HOME may be another by then."""
        command = re.search(r"telefork (keygen( --keys \S+)?(?= makes)|"
                            r"trust [^`\n]*tf1:[^`\n]*)",
                            done.stderr.decode())
        self.assertTrue(command, done.stderr)
        words = shlex.split(command[0])[1:]
        words = ["root" if word == "USER" else word for word in words]
        done = cli.call(*words, env={**os.environ, "XDG_CONFIG_HOME": str(self.folder / "other")})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_is_told_how_to_mend_whatever_is_missing(self):
        self.keygen("--keys", self.served)
        telepad = self.start()
        for why in ("no key of yours", "not trusted yet", "does not trust the key"):
            done = self.call("run", telepad.node, "--", "true")
            self.refuses(done, 125, "telefork: not authorised: ", why)
            done = self.call("check", telepad.node)
            self.refuses(done, 5, "telefork: not authorised: ", why)
            code, told = self.call_json("check", telepad.node)
            self.assertEqual((code, told["error"]["class"]), (5, "not authorised"))
            self.mend(done)
        done = self.call("check", telepad.node)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_with_a_key_that_has_no_certificate_is_told_how_to_mend_it(self):
        telepad = self.introduce()
        (self.own / "cert.pem").unlink()
        done = self.call("check", telepad.node)
        self.refuses(done, 5, "telefork: not authorised: ", "cert.pem is missing")
        self.mend(done)
        # It is the same key, and so trusted.
        self.assertEqual(self.call("check", telepad.node).returncode, 0)

    def test_finds_another_key_than_the_trusted_one(self):
        telepad = self.introduce()
        self.assertEqual(self.call("check", telepad.node).returncode, 0)
        self.keygen("--force", "--keys", self.served)
        done = self.call("check", telepad.node)
        self.refuses(done, 5, "another key than the one that is trusted")
        self.mend(done)
        self.assertEqual(self.call("check", telepad.node).returncode, 0)

    def test_with_a_key_that_is_trusted_no_more_is_refused(self):
        telepad = self.introduce()
        session = subprocess.Popen([cli.TELEFORK, "run", telepad.node, "--", "cat"], env=self.env,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        session.stdin.write(b"a line\n")
        session.stdin.flush()
        self.assertEqual(session.stdout.readline(), b"a line\n")
        self.trust("--remove", self.own_key, "--keys", self.served)
        self.refuses(self.call("check", telepad.node), 5, "does not trust the key",
                     f"telefork trust {self.own_key}")
        # What runs is not cut off.
        out, _ = session.communicate(b"another\n", timeout=cli.PATIENCE)
        self.assertEqual((session.returncode, out), (0, b"another\n"))

    def test_with_files_that_others_could_have_written_is_refused_by_name(self):
        telepad = self.introduce()
        for path, code in ((self.own / "key.pem", 0o640), (self.own / "known_nodes", 0o620)):
            os.chmod(path, code)
            self.refuses(self.call("check", telepad.node), 5, str(path), "chmod")
            os.chmod(path, 0o600)
        os.chmod(self.served / "trusted_keys", 0o666)
        self.refuses(self.call("check", telepad.node), 5, "cannot read which keys")
        self.assertIn("can be written by others: chmod go-rwx "
                      + shlex.quote(f"{self.served}/trusted_keys"), telepad.said())

    def test_at_a_telepad_that_may_not_use_its_key_is_told_where_the_reason_is(self):
        telepad = self.introduce()
        key = self.served / "key.pem"
        why = f"{key} (mode 0644) can be read by others: chmod go-rwx {shlex.quote(str(key))}\n"
        os.chmod(key, 0o644)
        self.refuses(self.call("check", telepad.node), 5, telepad.node, "its log says why")
        # Its greeter tells the other end first.
        cli.wait_until(lambda: why in telepad.said())
        self.refuses(self.call("run", telepad.node, "true"), 125, "not authorised", telepad.node)
        os.chmod(key, 0o600)
        self.assertEqual(self.call("check", telepad.node).returncode, 0)

    def without_privilege(self, *arguments):
        """To root no file is unreadable, unless it gives up what makes it so."""
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * (os.geteuid() == 0)
        return subprocess.run([*drop, cli.TELEFORK, *arguments], capture_output=True, env=self.env,
                              timeout=cli.PATIENCE)

    def test_with_files_that_cannot_be_read_is_refused_with_the_remedy(self):
        telepad = self.introduce()
        user = os.geteuid()
        for name in ("key.pem", "cert.pem", "known_nodes"):
            path = self.own / name
            os.chmod(path, 0)
            self.refuses(self.without_privilege("check", telepad.node), 5,
                         f"not authorised: {path} may not be read by its own user: chmod u+r {path}")
            self.refuses(self.without_privilege("run", telepad.node, "--", "true"), 125,
                         f"not authorised: {path} ")
            os.chmod(path, 0o600)
            if user == 0:
                os.chown(path, 54321, 54321)
                self.refuses(self.without_privilege("check", telepad.node), 5,
                             f"{path} belongs to user 54321, and user 0 may not read it: "
                             f"chown 0 {path}\n")
                os.chown(path, 0, 0)
        self.assertEqual(self.without_privilege("check", telepad.node).returncode, 0)

    def test_with_lines_that_are_not_understood_is_told_what_takes_them_out(self):
        telepad = self.introduce()
        nodes = self.own / "known_nodes"
        good = nodes.read_text()
        nodes.write_text(good + "node7 garbage\n\x01\n")
        for number in (2, 2):
            done = self.call("check", telepad.node)
            self.refuses(done, 5, f"{nodes}:{number}: ", f"telefork trust NODE KEY --keys {self.own}")
            command = re.search(r"sed -i .*(?= takes the line out)", done.stderr.decode())[0]
            subprocess.run(shlex.split(command), check=True)
        self.assertEqual(nodes.read_text(), good)
        self.assertEqual(self.call("check", telepad.node).returncode, 0)
        keys = self.served / "trusted_keys"
        good = keys.read_text()
        keys.write_text("garbage\n" + good)
        self.refuses(self.call("check", telepad.node), 5, "cannot read which keys")
        command = re.search(r"sed -i .*(?= takes the line out)", telepad.said())[0]
        subprocess.run(shlex.split(command), check=True)
        self.assertEqual(self.call("check", telepad.node).returncode, 0)

    def test_a_node_where_nobody_is_finds_it_unreachable(self):
        telepad = self.introduce()
        telepad.stop()
        self.refuses(self.call("check", telepad.node), 4, "telefork: unreachable: ", telepad.node)
        self.refuses(self.call("run", telepad.node, "--", "true"), 125, "unreachable: ")
        self.refuses(self.call("check", "no-such-host.invalid"), 4, "no-such-host.invalid")

    def ask_server(self, answer, key=None):
        """What a check is told of a server that has answered so; with the node."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            node = "127.0.0.1:%d" % server.getsockname()[1]
            if key:
                self.trust(node, key)
            asking = subprocess.Popen([cli.TELEFORK, "check", node], env=self.env,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            connection, _ = server.accept()
            with connection:
                answer(connection)
                out, said = asking.communicate(timeout=cli.PATIENCE)
        return subprocess.CompletedProcess([], asking.returncode, out, said), node

    def test_another_server_finds_it_unreachable(self):
        self.keygen()
        done, node = self.ask_server(lambda c: c.sendall(b"220 mail.example.org ESMTP\r\n"))
        self.refuses(done, 4, f"telefork: unreachable: {node}: it answers, but is no telepad: ",
                     "; name where a telepad listens")

    def test_a_server_that_hangs_up_finds_it_unreachable(self):
        self.keygen()
        done, node = self.ask_server(lambda c: c.shutdown(socket.SHUT_WR))
        self.refuses(done, 4, f"unreachable: {node}: the other end closed the connection (in the TLS "
                              "handshake); if it is a telepad its log says why, else name where")

    def test_another_tls_server_finds_it_unreachable_unless_its_key_might_be_a_telepads(self):
        self.keygen()

        def serve(kind, trusts=None, *words):
            key, certificate = self.folder / f"{kind}.key", self.folder / f"{kind}.pem"
            if not key.exists():
                subprocess.run(["openssl", "req", "-x509", "-newkey", kind, "-nodes", "-subj", "/CN=x",
                                "-keyout", key, "-out", certificate], check=True, capture_output=True)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            if trusts:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(trusts)

            def answer(connection):
                # Nothing that it has not read takes along what it has sent.
                with connection.dup() as kept:
                    try:
                        with context.wrap_socket(connection, server_side=True) as secure:
                            secure.sendall(*words)
                    except ssl.SSLError:
                        pass
                    kept.shutdown(socket.SHUT_WR)
                    while kept.recv(4096):
                        pass
            return answer

        done, node = self.ask_server(serve("rsa:2048"))
        self.refuses(done, 4, f"unreachable: {node}: it answers, but is no telepad: ", "handshake",
                     "; name where a telepad listens")
        done, node = self.ask_server(serve("ed25519"))
        self.refuses(done, 5, f"not authorised: {node}: its key is not trusted yet")
        key = re.search(r"tf1:\S+", done.stderr.decode())[0]
        for says, answer in (("it answers, but is no telepad; name", serve("ed25519", None, b"220 mail")),
                             ("it has closed the connection without an answer; if it is a telepad its "
                              "log says why, else name", serve("ed25519", None, b"")),
                             ("it answers, but is no telepad: it refuses this end's key",
                              serve("ed25519", self.folder / "rsa:2048.pem"))):
            done, node = self.ask_server(answer, key)
            self.refuses(done, 4, f"unreachable: {node}: {says}")

    def test_a_telepad_that_is_stopped_is_told_so_whatever_is_asked(self):
        telepad = self.introduce()
        sleeping = subprocess.Popen(["sleep", "600"])
        self.addCleanup(sleeping.wait)
        self.addCleanup(sleeping.kill)
        telepad.process.send_signal(signal.SIGSTOP)
        try:
            for node, words in (
                    (telepad.node, "it accepts connections and does not answer, as a telepad that is "
                                   "stopped (kill -CONT lets it go on): waiting for the TLS handshake"),
                    (f"unix:{self.folder}/telepad.sock",
                     "it was reached and does not answer, as a telepad that is stopped (kill -CONT "
                     "lets it go on): waiting for its greeting")):
                asking = [subprocess.Popen([cli.TELEFORK, *map(str, words)], env=self.env,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                          for words in (("check", sleeping.pid, node), ("fork", sleeping.pid, node),
                                        ("move", sleeping.pid, node), ("run", node, "true"))]
                for one in asking:
                    _, said = one.communicate(timeout=cli.PATIENCE)
                    self.assertIn(f"telefork: unreachable: {node}: {words}: Connection timed out\n"
                                  .encode(), said, one.args)
        finally:
            telepad.process.send_signal(signal.SIGCONT)


class Serving(KeysTest):
    def test_runs_commands_with_their_streams_and_status(self):
        telepad = self.introduce()
        done = self.call("run", telepad.node, "--", "sh", "-c", "cat; echo e >&2; exit 7",
                         stdin=b"x" * 3_000_000)
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (7, b"x" * 3_000_000, b"e\n"))

    def test_leaves_nothing_behind(self):
        telepad = self.introduce()
        before = telepad.descriptors()
        for arguments in (["run", telepad.node, "--", "true"], ["check", telepad.node]):
            self.assertEqual(self.call(*arguments).returncode, 0)
        with socket.create_connection(("127.0.0.1", telepad.port)) as lost:
            lost.sendall(b"\x16\x03\x01\x02\x00\x01")
        cli.wait_until(lambda: not telepad.children() and telepad.descriptors() == before)

    def run_cat(self, telepad, lease=None):
        session = subprocess.Popen([cli.TELEFORK, "run", telepad.node, "--", "cat"],
                                   env={**self.env, **(lease or {})},
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        session.stdin.write(b"\n")
        session.stdin.flush()
        self.assertEqual(session.stdout.readline(), b"\n")
        return session

    def named(self, telepad, name):
        names = cli.names_of_processes()
        return [int(pid) for pid in telepad.children() if names.get(int(pid)) == name]

    def kill_named(self, telepad, name):
        pid, = self.named(telepad, name[:15])  # /proc keeps so many characters
        os.kill(pid, signal.SIGKILL)

    def test_ends_with_its_keeper(self):
        telepad = self.introduce()
        session = self.run_cat(telepad)
        self.kill_named(telepad, "telefork-keeper")
        _, said = session.communicate(timeout=cli.PATIENCE)
        self.assertEqual(session.returncode, 125, said)
        self.assertIn(b"telefork: lost: ", said)
        cli.wait_until(lambda: not telepad.children())

    def test_has_another_greeter_when_one_dies(self):
        telepad = self.introduce()
        session = self.run_cat(telepad)
        self.kill_named(telepad, "telefork-greeter")
        self.assertEqual(session.communicate(b"more\n", timeout=cli.PATIENCE), (b"more\n", b""))
        self.assertEqual(session.returncode, 0)
        cli.wait_until(lambda: not telepad.children())

    def test_home_that_dies_takes_all_of_it_along_when_the_lease_is_over(self):
        telepad = self.introduce()
        session = self.run_cat(telepad, SHORT_LEASE)
        tracer = int(re.search(r"TracerPid:\t(\d+)",
                               pathlib.Path(f"/proc/{session.pid}/status").read_text())[1])
        os.kill(tracer, signal.SIGKILL)
        session.communicate(timeout=cli.PATIENCE)
        cli.wait_until(lambda: not telepad.children())

    def test_greeters_are_nobody_and_know_no_secret(self):
        if os.geteuid() != 0:
            self.skipTest("needs: root")
        telepad = self.introduce()
        pem = (self.served / "key.pem").read_bytes()
        seed = subprocess.run(["openssl", "pkey", "-outform", "DER"], input=pem,
                              capture_output=True, check=True).stdout[-32:]
        session = self.run_cat(telepad)
        greeter, = self.named(telepad, "telefork-greeter"[:15])
        status = pathlib.Path(f"/proc/{greeter}/status").read_text()
        self.assertIn("Uid:\t65534\t65534\t65534\t65534\n", status)
        self.assertIn("Gid:\t65534\t65534\t65534\t65534\n", status)
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            self.assertIn(f"{name}:\t{0:016x}\n", status)
        self.assertIn("NoNewPrivs:\t1\n", status)
        # A process that is not dumpable has its /proc owned by root.
        self.assertEqual(os.stat(f"/proc/{greeter}/mem").st_uid, 0)
        seen = 0
        with open(f"/proc/{greeter}/mem", "rb", buffering=0) as memory:
            for line in pathlib.Path(f"/proc/{greeter}/maps").read_text().splitlines():
                begin, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
                # A sanitizer's shadow is larger than any memory.
                if "w" not in mode or int(end, 16) - int(begin, 16) > 1 << 26:
                    continue
                memory.seek(int(begin, 16))
                content = memory.read(int(end, 16) - int(begin, 16))
                seen += len(content)
                self.assertNotIn(seed, content)
                self.assertNotIn(pem.split(b"\n")[1], content)
        self.assertGreater(seen, 100_000)
        session.communicate(timeout=cli.PATIENCE)
        self.assertEqual(session.returncode, 0)

    def test_strangers_do_not_disturb_it(self):
        telepad = self.introduce()
        before = telepad.descriptors()
        session = self.run_cat(telepad)
        strangers = []
        # Silence, half a handshake, garbage, joins of no session: more than there is room for.
        for number in range(400):
            stranger = socket.create_connection(("127.0.0.1", telepad.port))
            strangers.append(stranger)
            try:
                stranger.sendall((b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.0\r\n\r\n",
                                  b"TFBULK01" + os.urandom(16), b"TFB", os.urandom(100))[number % 6])
            except OSError:
                pass  # it was dropped already
        for _ in range(2):
            self.assertEqual(self.call("check", telepad.node).returncode, 0)
        out, _ = session.communicate(b"still here\n", timeout=cli.PATIENCE)
        self.assertEqual((session.returncode, out), (0, b"still here\n"))
        for stranger in strangers:
            stranger.close()
        cli.wait_until(lambda: not telepad.children() and telepad.descriptors() == before)

    def test_a_hundred_at_once(self):
        telepad = self.introduce()
        before = telepad.descriptors()
        sessions = [subprocess.Popen([cli.TELEFORK, "run", telepad.node, "--", "cat"], env=self.env,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE) for _ in range(100)]
        for number, session in enumerate(sessions):
            try:
                session.stdin.write(b"%d\n" % number)
                session.stdin.flush()
            except BrokenPipeError:
                self.fail((session.communicate(timeout=cli.PATIENCE)[1], telepad.said()))
        for number, session in enumerate(sessions):
            self.assertTrue(select.select([session.stdout], [], [], cli.PATIENCE)[0])
            line = session.stdout.readline()
            if line != b"%d\n" % number:
                self.fail((line, session.communicate(timeout=cli.PATIENCE)[1], telepad.said()))
        for session in sessions:
            _, said = session.communicate(timeout=cli.PATIENCE)
            self.assertEqual((session.returncode, said), (0, b""))
        cli.wait_until(lambda: not telepad.children() and telepad.descriptors() == before)


if __name__ == "__main__":
    cli.need("ptrace")
    cli.main()
