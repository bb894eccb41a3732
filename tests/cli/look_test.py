#!/usr/bin/env python3
"""What only looks: show, check, ps, --help, --version, and what is no command."""
import json
import os
import pathlib
import pty
import socket
import subprocess
import sys
import unittest

import cli
from cli import call, call_json


class Help(cli.Test):
    def test_tells_the_version(self):
        done = call("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, rb"^telefork [0-9]+\.[0-9]+\.[0-9]+\n$")

    def test_lists_the_commands(self):
        done = call("--help")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        for command in (b"run", b"move", b"save", b"load", b"show", b"check", b"ps", b"keygen", b"trust"):
            self.assertIn(b"\n  " + command + b" ", done.stdout)
        for command in ("run", "move", "save", "load", "show", "check", "ps", "keygen", "trust"):
            done = call(command, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertIn(b"--json", done.stdout)

    def test_does_not_know_other_commands(self):
        for arguments in (["fly"], [], ["move", "1"], ["--fly"], ["show"], ["save", "1"],
                          ["ps", "--fly"], ["check", "abc", "local"], ["check", "1", "local", "x"]):
            self.refuses(call(*arguments), 2, "telefork: usage: ")


class Output(cli.Test):
    def test_that_cannot_be_written_is_a_failure(self):
        victim = self.victim(0, 1, __file__)
        _, image = self.saved(2, 1, __file__)
        for arguments in (["check"], ["check", "--json"], ["check", "local"], ["check", victim.pid, "local"],
                          ["show", image], ["show", image, "--json"], ["ps"], ["ps", "--json"],
                          ["--help"], ["check", "--help"], ["--version"]):
            command = [cli.TELEFORK, *map(str, arguments)]
            reader, writer = os.pipe()
            os.close(reader)
            with open("/dev/full", "wb") as full, os.fdopen(writer, "wb") as pipe:
                for stdout, options, reason in (
                        (full, {}, "out of resources: writing to stdout: No space left on device"),
                        # As who has SIGPIPE ignored: it would end telefork.
                        (pipe, {"restore_signals": False}, "lost: writing to stdout: Broken pipe"),
                        (None, {"preexec_fn": lambda: os.close(1)},
                         "failed: writing to stdout: Bad file descriptor")):
                    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, **options)
                    self.assertEqual((done.returncode, done.stderr),
                                     (1, f"telefork: {reason}\n".encode()),
                                     arguments)


class Show(cli.Test):
    def test_shows_an_image(self):
        pid, image = self.saved(2, 1, __file__)
        done = call("show", image)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        text = done.stdout.decode()
        self.assertTrue(text.startswith("0 header\n"))
        self.assertIn('  purpose: "save"\n', text)
        self.assertIn(f"  pid: {pid}\n", text)
        self.assertIn(f'"{__file__}"', text)
        self.assertEqual(text.count(" thread\n"), 3)

    def test_shows_an_image_as_json(self):
        pid, image = self.saved(2)
        code, shown = call_json("show", image)
        self.assertEqual(code, 0)
        types = [record["type"] for record in shown["records"]]
        self.assertEqual((types[0], types[1], types[-1]), ("header", "process", "end"))
        self.assertEqual(shown["records"][1]["pid"], pid)
        self.assertEqual(types.count("thread"), 3)
        self.assertEqual([r["record"] for r in shown["records"]], list(range(len(types))))

    def test_shows_no_control_characters(self):
        program = self.folder / "evil\x1b[31m\n\u202e\u00e4"
        program.write_bytes(pathlib.Path(cli.VICTIM).read_bytes())
        program.chmod(0o755)
        victim = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        victim.stdout.readline()
        image = self.folder / "image.tfi"
        self.assertEqual(call("save", victim.pid, image).returncode, 0)
        victim.communicate()
        shown = call("show", image).stdout
        self.assertNotIn(b"\x1b", shown)
        self.assertNotIn("\u202e".encode(), shown)
        self.assertIn("evil\\x1b[31m\\n\\xe2\\x80\\xae\u00e4".encode(), shown)

    def test_tells_as_json_what_it_never_came_to(self):
        for arguments, code in ((("show", "/nowhere"), 1), (("save", "x", "y"), 2), (("load", "/nowhere"), 125),
                                (("show",), 2)):
            done = call(*arguments, "--json")
            text = done.stderr.split(b"\n")[0] if arguments[0] == "load" else done.stdout
            self.assertEqual(json.loads(text)["error"]["exit_code"], code)
            self.assertEqual(done.returncode, code)

    def test_says_which_file_is_missing(self):
        self.refuses(call("show", self.folder / "no.tfi"), 1, "no.tfi", "No such file")


class Check(cli.Test):
    def test_names_every_kernel_feature(self):
        done = call("check")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        code, answer = call_json("check")
        self.assertEqual((code, answer["ok"], answer["exit_code"]), (0, True, 0))
        self.assertEqual(answer["machine"]["kernel"], os.uname().release)
        for feature in answer["features"]:
            self.assertIn(feature["name"].encode(), done.stdout)
            self.assertEqual(bool(feature["what_is_lost"]), not feature["present"])
        names = [feature["name"] for feature in answer["features"]]
        for name in ("ptrace", "set_tid", "pagemap_scan", "uffd", "tcp_repair"):
            self.assertIn(name, names)

    def test_lets_a_process_pass_and_does_not_disturb_it(self):
        victim = self.victim(2)
        done = call("check", victim.pid)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        code, answer = call_json("check", victim.pid)
        self.assertEqual((code, answer["ok"], answer["pid"]), (0, True, victim.pid))
        self.assertEqual((answer["command"], answer["threads"]), ("cli_victim", 3))
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_names_all_that_is_in_the_way(self):
        ends = os.pipe()
        victim = subprocess.Popen([cli.VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  pass_fds=ends)
        victim.stdout.readline()
        for node in ([], ["local"]):
            done = call("check", victim.pid, *node)
            self.assertEqual(done.returncode, 3)
            for fd in ends:
                self.assertIn(f"refused: fd {fd} -> pipe:".encode(), done.stdout)
        code, answer = call_json("check", victim.pid)
        self.assertEqual((code, answer["ok"], answer["exit_code"]), (3, False, 3))
        self.assertEqual(len(answer["refused"]), 2)
        victim.communicate(b"go\n")
        for fd in ends:
            os.close(fd)

    def test_asks_a_node(self):
        done = call("check", "local")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        code, answer = call_json("check", "local")
        self.assertEqual(code, 0, answer)
        self.assertEqual(answer["node"]["name"], "local")
        self.assertEqual(answer["node"]["hostname"], os.uname().nodename)
        libc = os.confstr("CS_GNU_LIBC_VERSION")
        self.assertEqual(answer["node"]["libc"], libc)
        self.assertIn(f", pages of {os.sysconf('SC_PAGESIZE')} bytes, {libc} ", done.stdout.decode())
        victim = self.victim(1)
        code, answer = call_json("check", victim.pid, "local")
        self.assertEqual((code, answer["ok"], answer["file_bytes_to_carry"]), (0, True, 0))

    def test_asks_for_what_it_is_told(self):
        ends = os.pipe()
        victim = subprocess.Popen([cli.VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  pass_fds=ends)
        victim.stdout.readline()
        for what in ("fork", "run_on", "move", "save"):
            done = call("check", victim.pid, "local", "--for", what)
            self.assertEqual(done.returncode, 3, what)
            self.assertIn(b"refused: fd ", done.stdout)
        for what, can in (("fork", b" can fork"), ("run_on", b" can go for a call to local")):
            done = call("check", victim.pid, "local", "--for", what, "--leave-fds")
            self.assertEqual(done.returncode, 0, what)
            self.assertIn(can, done.stdout)
        self.refuses(call("check", victim.pid, "--for", "save", "--leave-fds"), 2, "telefork: ")
        self.refuses(call("check", "--for", "fork"), 2, "telefork: ")
        self.refuses(call("check", ""), 2, "telefork: usage: ")
        self.refuses(call("check", victim.pid, ""), 2, "telefork: usage: ")
        victim.communicate(b"go\n")
        for fd in ends:
            os.close(fd)

    def test_knows_a_directory_that_is_only_named_as_if_it_were_gone(self):
        folder = self.folder / "project (deleted)"
        folder.mkdir()
        victim = self.victim(1, cwd=folder)
        for node in ([], ["local"]):
            done = call("check", victim.pid, *node)
            self.assertEqual((done.returncode, done.stderr), (0, b""), done.stdout)
        image = self.folder / "image.tfi"
        self.assertEqual(call("save", victim.pid, image).returncode, 0)
        self.assertIn(f'cwd: "{folder}"'.encode(), call("show", image).stdout)
        # Another one of the name that the kernel gives to this one, which is gone.
        gone = self.folder / "gone"
        gone.mkdir()
        victim = self.victim(1, cwd=gone)
        gone.rmdir()
        (self.folder / "gone (deleted)").mkdir()
        self.assertEqual(call("save", victim.pid, image).returncode, 0)
        self.assertIn(f'cwd: "{gone} (deleted)"'.encode(), call("show", image).stdout)
        self.assertIn(b"cwd_mode: 16", call("show", image).stdout)

    def test_in_a_user_namespace_says_what_a_call_from_there_is_told(self):
        """By an agent of its own, which has lost the capabilities that the program has in there."""
        program = """if 1:
            import ctypes, os, sys
            libc = ctypes.CDLL(None, use_errno=True)
            CLONE_NEWUSER = 0x10000000
            if libc.unshare(CLONE_NEWUSER) != 0:
                sys.exit(77)
            library = ctypes.CDLL(sys.argv[1])
            library.telefork_error.restype = ctypes.c_char_p
            if library.telefork_fork(b"local") == 0:
                os._exit(0)
            print(library.telefork_error().decode(), flush=True)
            sys.stdin.read()
            """
        library = str(cli.BIN.parent / "lib" / "libtelefork.so")
        caller = subprocess.Popen([sys.executable, "-c", program, library], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, env={**os.environ, "TELEFORK_SOCKET": "",
                                       # Its user, seen from in there, is nobody.
                                       "XDG_RUNTIME_DIR": str(self.folder)})
        self.addCleanup(caller.communicate)
        told = caller.stdout.readline()
        if not told and caller.wait(timeout=cli.PATIENCE) == 77:
            self.skipTest("needs: user namespaces")
        self.assertTrue(told.startswith(b"refused: process "), told)
        done = subprocess.run(["nsenter", "--user", "--preserve-credentials", "-t", str(caller.pid),
                               cli.TELEFORK, "check", "--for", "fork", str(caller.pid)],
                              env={**os.environ, "XDG_RUNTIME_DIR": str(self.folder)},
                              capture_output=True, timeout=cli.PATIENCE)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(told, done.stdout)

    def test_foretells_a_node_that_hangs_up(self):
        path = self.folder / "other.sock"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            asking = subprocess.Popen([cli.TELEFORK, "check", f"unix:{path}"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            other.accept()[0].close()
            _, said = asking.communicate(timeout=cli.PATIENCE)
        self.assertEqual((asking.returncode, said.startswith(b"telefork: unreachable: ")), (4, True), said)

    def test_foretells_a_node_that_cannot_be_reached(self):
        self.refuses(call("check", "unix:/nowhere/telepad.sock"), 4, "telefork: unreachable: ")
        code, answer = call_json("check", os.getpid(), "unix:/nowhere/telepad.sock")
        self.assertEqual((code, answer["error"]["class"]), (4, "unreachable"))

    def test_refuses_a_process_that_is_none(self):
        done = call("check", 2**22 + 1)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"refused: process ", done.stdout)

    def test_has_colours_on_a_terminal_only_and_not_with_no_color(self):
        def on_terminal(**environment):
            pid, terminal = pty.fork()
            if pid == 0:
                os.execve(cli.TELEFORK, ["telefork", "check"], {**os.environ, **environment})
            output = b""
            try:
                while piece := os.read(terminal, 10000):
                    output += piece
            except OSError:
                pass
            os.waitpid(pid, 0)
            os.close(terminal)
            return output
        self.assertNotIn(b"\x1b", call("check").stdout)
        self.assertNotIn(b"\x1b", on_terminal(NO_COLOR="1"))
        if b"  no   " in call("check").stdout:
            self.assertIn(b"\x1b", on_terminal(NO_COLOR=""))


@unittest.skipIf(os.geteuid() != 0, "told of root")
class InAPidNamespace(cli.Test):
    def test_says_that_proc_is_of_another_one(self):
        for command in ("check", "1"), ("save", "1", self.folder / "image.tfi"):
            done = subprocess.run(["unshare", "-pf", cli.TELEFORK, *command], capture_output=True,
                                  timeout=cli.PATIENCE)
            self.assertEqual(done.returncode, 3)
            self.assertEqual((done.stdout + done.stderr).decode(),
                             "refused: process 1: /proc here is that of another pid namespace, which "
                             "does not know it by this number; mount the right one (mount -t proc "
                             "proc /proc, or unshare --mount-proc)\n")


class Ps(cli.Test):
    def test_lists_nothing_as_an_empty_list(self):
        code, answer = call_json("ps")
        self.assertEqual((code, list(answer)), (0, ["sessions"]))
        done = call("ps")
        self.assertTrue(done.stdout.startswith(b"PID "))


if __name__ == "__main__":
    cli.need("ptrace")
    cli.main()
