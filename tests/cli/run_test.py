#!/usr/bin/env python3
"""telefork run: streams, status, signals, its own failures."""
import ctypes
import hashlib
import json
import os
import pty
import signal
import socket
import subprocess
import unittest

import cli
from cli import call


def start(*arguments, **options):
    return subprocess.Popen([cli.TELEFORK, "run", *map(str, arguments)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def telepad(test):
    """A telepad of its own -> the NODE."""
    socket = test.folder / "telepad.sock"
    daemon = subprocess.Popen([cli.BIN / "telepad", "--socket", socket], stderr=subprocess.PIPE)

    def stop():
        daemon.terminate()
        daemon.wait()
        daemon.stderr.close()
    test.addCleanup(stop)
    assert b"listening" in daemon.stderr.readline()
    return f"unix:{socket}"


class Run(cli.Test):
    def finish(self, process, stdin=None):
        out, err = process.communicate(stdin, timeout=cli.PATIENCE)
        return process.returncode, out, err

    def test_gives_the_status_of_the_command(self):
        for status in (0, 1, 7, 255):
            done = call("run", "local", "sh", "-c", f"exit {status}")
            self.assertEqual((done.returncode, done.stderr), (status, b""))

    def test_runs_over_a_unix_socket(self):
        done = call("run", telepad(self), "--", "echo", "here")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"here\n", b""))

    def test_says_127_and_126_as_a_shell(self):
        self.refuses(call("run", "local", "no-such-command-here"), 127, "no-such-command-here")
        self.refuses(call("run", "local", "/etc/passwd"), 126, "/etc/passwd")

    def test_keeps_stdout_and_stderr_apart(self):
        done = call("run", "local", "sh", "-c", "echo out; echo err >&2")
        self.assertEqual((done.stdout, done.stderr), (b"out\n", b"err\n"))

    def test_keeps_their_order_where_they_are_one(self):
        script = "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done"
        done = subprocess.run([cli.TELEFORK, "run", "local", "sh", "-c", script],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=cli.PATIENCE)
        self.assertEqual(done.stdout.split(), [f"{s}{i}".encode() for i in range(1, 6) for s in "oe"])

    def test_leaves_the_options_of_the_command_alone(self):
        for separator in ([], ["--"]):
            done = call("run", "local", *separator, "printf", "%s|", "--json", "--", "-x")
            self.assertEqual(done.stdout, b"--json|--|-x|")

    def test_carries_10_megabytes_through_stdin_and_stdout(self):
        data = os.urandom(10 * 1024 * 1024)
        done = call("run", "local", "cat", stdin=data)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(hashlib.sha256(done.stdout).digest(), hashlib.sha256(data).digest())

    def test_carries_10_megabytes_through_stderr(self):
        done = call("run", "local", "sh", "-c", "head -c 10485760 /dev/zero >&2")
        self.assertEqual((len(done.stdout), len(done.stderr)), (0, 10485760))

    def test_ends_the_writer_of_a_closed_stdin(self):
        feeder = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
        done = subprocess.run([cli.TELEFORK, "run", "local", "head", "-n", "1"],
                              stdin=feeder.stdout, capture_output=True, timeout=cli.PATIENCE)
        feeder.stdout.close()
        self.assertEqual((done.returncode, done.stdout), (0, b"y\n"))
        self.assertEqual(feeder.wait(timeout=cli.PATIENCE), -signal.SIGPIPE)

    def test_ends_the_command_whose_reader_has_gone(self):
        process = start("local", "yes")
        self.assertEqual(process.stdout.readline(), b"y\n")
        process.stdout.close()
        process.stdin.close()
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 128 + signal.SIGPIPE)
        process.stderr.close()

    def test_has_cwd_environment_and_umask_of_here(self):
        done = call("run", "local", "sh", "-c", "pwd; umask; echo $CLI_TEST",
                    cwd=self.folder, env={**os.environ, "CLI_TEST": "a b"},
                    preexec_fn=lambda: os.umask(0o027))
        self.assertEqual(done.stdout.decode().split("\n")[:3], [str(self.folder), "0027", "a b"])

    def test_looks_the_command_up_in_the_path_of_here(self):
        command = self.folder / "my-own-command"
        command.write_text("#!/bin/sh\necho mine\n")
        command.chmod(0o755)
        done = call("run", "local", "my-own-command",
                    env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"})
        self.assertEqual(done.stdout, b"mine\n")

    def test_exits_with_128_and_the_signal_that_killed_the_command(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
            done = call("run", "local", "sh", "-c", f"kill -{int(number)} $$")
            self.assertEqual(done.returncode, 128 + number)

    def test_forwards_signals(self):
        for name in ("TERM", "HUP", "INT", "USR1", "USR2", "WINCH"):
            process = start("local", "sh", "-c",
                            f"trap 'echo got; exit 9' {name}; echo up; while :; do sleep 0.05; done")
            self.assertEqual(process.stdout.readline(), b"up\n")
            process.send_signal(getattr(signal, "SIG" + name))
            self.assertEqual(self.finish(process), (9, b"got\n", b""), name)

    def test_does_not_forward_what_is_ignored_here(self):
        process = start("local", "sh", "-c", "echo up; read line; echo $line",
                        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        self.assertEqual(process.stdout.readline(), b"up\n")
        process.send_signal(signal.SIGHUP)
        self.assertEqual(self.finish(process, b"alive\n"), (0, b"alive\n", b""))

    def test_hands_ignored_signals_and_a_nice_value_on(self):
        def settle():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.nice(5)
        process = start("local", "sh", "-c", "kill -TERM $$; nice", preexec_fn=settle)
        self.assertEqual(self.finish(process), (0, b"%d\n" % min(os.nice(0) + 5, 19), b""))

    def test_kills_the_command_when_it_is_killed(self):
        process = start("local", "sh", "-c", "echo $$; exec sleep 1000")
        handle = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
        process.wait()
        self.assertTrue(cli.wait_readable(handle), "the command lives on")
        os.close(handle)
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

    def test_says_so_when_its_session_is_killed(self):
        process = start("local", "sh", "-c", "echo $$; exec sleep 1000")
        process.stdout.readline()
        status = open(f"/proc/{process.pid}/status").read()
        os.kill(int(status.split("TracerPid:")[1].split()[0]), signal.SIGKILL)
        status, _, err = self.finish(process)
        self.assertEqual(status, 125)
        self.assertIn(b"telefork: its session process has ended", err)

    def test_says_so_when_its_session_is_killed_before_the_command_begins(self):
        # The session waits for a node that says nothing.
        path = self.folder / "silent.sock"
        report = self.folder / "report"
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            process = start("--json-file", report, f"unix:{path}", "true")
            connection, _ = silent.accept()
            with connection:
                watcher, = cli.children(process.pid)
                session, = cli.children(watcher)
                os.kill(session, signal.SIGKILL)
                code, out, err = self.finish(process)
        self.assertEqual((code, out), (125, b""))
        self.assertIn(b"the session's process was killed by signal 9 (Killed)", err)
        self.assertEqual(json.loads(report.read_text())["error"]["class"], "lost")

    def test_keeps_the_keeper_when_the_command_signals_its_parent(self):
        signals = "HUP INT QUIT USR1 USR2 ALRM VTALRM PROF IO PWR TSTP TTIN TTOU RTMIN RTMAX"
        script = f"for s in {signals}; do kill -$s $PPID; done; grep SigIgn /proc/self/status; exit 5"
        here = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True)
        done = call("run", "local", "bash", "-c", script)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (5, here.stdout, b""))

    def test_stops_and_continues_with_the_command(self):
        process = start("local", "sh", "-c", "echo $$; kill -STOP $$; echo again")
        process.stdout.readline()
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        process.send_signal(signal.SIGCONT)
        self.assertEqual(self.finish(process)[:2], (0, b"again\n"))

    def test_stops_the_command_when_it_is_stopped(self):
        process = start("local", "sh", "-c", "echo $$; read line; echo $line")
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        cli.wait_until(lambda: cli.processes().get(pid) == "T")
        process.send_signal(signal.SIGCONT)
        self.assertEqual(self.finish(process, b"on\n")[:2], (0, b"on\n"))

    def test_interrupts_by_the_terminal(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(cli.TELEFORK, ["telefork", "run", "local", "sh", "-c",
                                    "trap 'echo got; exit 5' INT; echo up; "
                                    "while :; do sleep 0.05; done"])
        output = b""
        while b"up" not in output:
            output += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(status), 5)

    def test_reads_a_terminal(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(cli.TELEFORK, ["telefork", "run", "local", "sh", "-c",
                                    "echo up; read line; test \"$line\" = typed"])
        output = b""
        while b"up" not in output:
            output += os.read(terminal, 1000)
        os.write(terminal, b"typed\n")
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0)

    def test_is_a_job_of_its_shell(self):
        shell = cli.Shell()
        self.addCleanup(shell.close)
        shell.type(f"{cli.TELEFORK} run local sh -c 'echo up; cat; echo end'\n")
        shell.expect("[\\n\\r]up")
        shell.type("one\n")
        shell.expect("one\\r\\none\\r\\n")
        shell.type("\x1a")
        shell.expect("Stopped")
        shell.expect("PROMPT> ")
        # In the background it takes nothing of what is typed.
        for _ in range(3):
            self.assertEqual(shell.command("true for the shell"), 0)
        shell.type("bg\n")
        shell.expect("PROMPT> ")
        self.assertEqual(shell.command("true for the shell"), 0)
        shell.type("fg\n")
        shell.expect(r"telefork run local[^\r]*\r\n")
        shell.type("two\n")
        shell.expect("two\\r\\ntwo\\r\\n")
        shell.type("\x04")
        shell.expect("end")
        shell.expect("PROMPT> ")
        shell.type(f"{cli.TELEFORK} run local sh -c 'echo up; exec cat'\n")
        shell.expect("[\\n\\r]up")
        shell.type("\x03")
        shell.expect("PROMPT> ")
        self.assertEqual(shell.command("(exit $?)"), 128 + signal.SIGINT)

    def test_runs_with_standard_streams_closed(self):
        for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
            done = subprocess.run(["sh", "-c", f"{cli.TELEFORK} run local sh -c 'exit 4' {closed}"],
                                  capture_output=True, timeout=cli.PATIENCE)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (4, b"", b""), closed)

    def test_closes_for_the_command_what_is_closed_here(self):
        def run(*command, closed):
            return subprocess.run([cli.TELEFORK, "run", "local", *command], capture_output=True,
                                  preexec_fn=lambda: os.close(closed), timeout=cli.PATIENCE)
        for command, closed in ((["/bin/echo", "lost"], 1), (["cat"], 0)):
            done = run(*command, closed=closed)
            self.assertEqual((done.returncode, done.stdout), (1, b""))
            self.assertIn(b"Bad file descriptor", done.stderr)
        self.assertEqual(run("sh", "-c", "echo lost >&2", closed=2).returncode, 2)

    def test_carries_as_many_arguments_as_the_kernel_takes(self):
        words = [letter * 100_000 for letter in "abcdefghijklmnopqr"]
        script = 'for word; do printf %s "$word"; done; echo $VARIABLE | wc -c; read line'
        process = start("local", "sh", "-c", script, "sh", *words,
                        env={**os.environ, "VARIABLE": "v" * 100_000})
        self.assertEqual(process.stdout.readline().decode(), "".join(words) + "100001\n")
        _, listed = cli.call_json("ps")
        mine, = [s for s in listed["sessions"] if s["pid"] == process.pid]
        self.assertTrue(mine["command"].startswith("sh -c for word"))
        self.assertTrue(mine["command"].endswith("aaa..."))
        self.assertLess(len(mine["command"]), 1000)
        self.assertEqual(self.finish(process, b"\n"), (0, b"", b""))

    def test_says_that_output_was_lost(self):
        for limits, file, reason in (("", "/dev/full", b"No space left on device"),
                                     ("ulimit -f 1;", self.folder / "out", b"File too large")):
            script = f"{limits} {cli.TELEFORK} run local head -c 5000 /dev/zero >{file}"
            done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=cli.PATIENCE)
            self.assertEqual(done.returncode, 125)
            self.assertEqual(done.stderr, b"telefork: out of resources: writing its stdout: " + reason + b"\n")

    # As at home, where its write fails and no signal comes: what it does besides is done.
    def test_runs_on_when_its_output_cannot_be_written(self):
        done_file = self.folder / "done"
        script = f"echo a; read line; echo b; echo c >&2; echo done >{done_file}; exit 3"
        with open("/dev/full", "wb") as full:
            process = subprocess.Popen([cli.TELEFORK, "run", "local", "sh", "-c", script],
                                       stdin=subprocess.PIPE, stdout=full, stderr=subprocess.PIPE)
            cli.wait_until(lambda: [s["warnings"] for s in cli.call_json("ps")[1]["sessions"]
                                    if s["pid"] == process.pid]
                           == [["writing its stdout: No space left on device"]])
            _, err = process.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, done_file.read_text()), (125, "done\n"))
        self.assertEqual(err, b"c\ntelefork: out of resources: writing its stdout: No space left on device\n")

    def test_runs_on_when_its_terminal_is_gone(self):
        done_file = self.folder / "done"
        pid, terminal = pty.fork()
        if pid == 0:
            script = f"trap '' HUP; for i in 1 2 3; do read line; echo $i; done; echo done >{done_file}"
            os.execv(cli.TELEFORK, [cli.TELEFORK, "run", "local", "--", "sh", "-c", script])
        os.write(terminal, b"\n")
        shown = b""
        while b"1\r\n" not in shown:
            shown += os.read(terminal, 1024)
        os.close(terminal)
        cli.wait_until(lambda: done_file.exists() and done_file.read_text() == "done\n")
        os.waitpid(pid, 0)

    def test_gives_the_command_the_limits_that_were_set(self):
        ask = "ulimit -Sn; ulimit -Ss; ulimit -St; ulimit -Hn"
        script = (f"ulimit -Sn 100; ulimit -Ss 8000; ulimit -St 1000; ulimit -Hn 200; sh -c '{ask}'; "
                  f"{cli.TELEFORK} run local sh -c '{ask}'")
        done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=cli.PATIENCE)
        self.assertEqual(done.stdout, 2 * b"100\n8000\n1000\n200\n", done.stderr)

    def test_holds_no_pipe_that_it_has_inherited(self):
        reader, writer = os.pipe()
        process = start("local", "sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!",
                        pass_fds=[writer])
        os.close(writer)
        descendant = int(process.stdout.readline())
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        self.assertTrue(cli.wait_readable(reader), "the session holds it")
        os.close(reader)
        os.kill(descendant, signal.SIGKILL)
        self.assertEqual(self.finish(process)[1:], (b"", b""))

    def test_closes_an_output_when_the_command_has_closed_it(self):
        for script in ("echo a; exec >&-; read line", "echo a; exec >/dev/null; read line"):
            process = start("local", "sh", "-c", script)
            self.assertEqual(process.stdout.read(), b"a\n")
            self.assertIsNone(process.poll())
            self.assertEqual(self.finish(process, b"\n"), (0, b"", b""))

    def test_closes_its_outputs_when_only_descendants_are_left(self):
        process = start("local", "sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")
        out, err = process.communicate(timeout=cli.PATIENCE)
        self.assertEqual((process.returncode, err), (0, b""))
        self.assertTrue(cli.is_running(int(out)))
        handle = os.pidfd_open(int(out))
        os.kill(int(out), signal.SIGKILL)
        self.assertTrue(cli.wait_readable(handle))
        os.close(handle)

    def test_ends_the_writer_of_a_stdin_that_the_command_has_closed(self):
        process = start("local", "sh", "-c", "exec <&-; echo closed; exec sleep 1000")
        self.assertEqual(process.stdout.readline(), b"closed\n")
        with self.assertRaises(BrokenPipeError):
            while True:
                os.write(process.stdin.fileno(), b"x" * 65536)
        self.assertIsNone(process.poll())
        process.terminate()
        self.assertEqual(self.finish(process)[0], 128 + signal.SIGTERM)

    def test_has_streams_as_useless_as_here(self):
        for command, redirection in (("cat", "</"), ("cat", "0>/dev/null"), ("/bin/echo lost", "1</dev/null"),
                                     ("sh -c 'echo lost >&2'", "2</dev/null")):
            def run(prefix):
                done = subprocess.run(["sh", "-c", f"{prefix} {command} {redirection}"], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, timeout=cli.PATIENCE)
                return done.returncode, done.stdout, done.stderr.rpartition(b":")[2]
            self.assertEqual(run(f"{cli.TELEFORK} run local"), run(""), redirection)

    def test_returns_when_the_command_leaves_a_descendant(self):
        process = start("local", "sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")
        descendant = int(process.stdout.readline())
        self.assertEqual(process.wait(timeout=cli.PATIENCE), 0)
        self.assertTrue(cli.is_running(descendant))
        handle = os.pidfd_open(descendant)
        os.kill(descendant, signal.SIGKILL)
        self.assertTrue(cli.wait_readable(handle))
        os.close(handle)
        # The session ends with it.
        self.assertEqual(self.finish(process)[1:], (b"", b""))

    def test_shows_in_ps_while_it_runs(self):
        process = start("local", "sh", "-c", "echo up; read line")
        process.stdout.readline()
        _, listed = cli.call_json("ps")
        mine = [s for s in listed["sessions"] if s["pid"] == process.pid]
        self.assertEqual([s["role"] for s in mine], ["away"])
        self.assertEqual((mine[0]["node"], mine[0]["command"]), ("local", "sh -c echo up; read line"))
        self.assertEqual(self.finish(process, b"\n")[0], 0)
        cli.wait_until(lambda: process.pid not in
                       [s["pid"] for s in cli.call_json("ps")[1]["sessions"]])

    def test_tells_its_own_failures_by_125_and_class(self):
        for arguments, texts in {
                ("unix:/nowhere/telepad.sock", "true"): ["telefork: unreachable: "],
                ("local",): ["telefork: usage: ", "command is missing"],
                (): ["telefork: usage: "],
                ("--no-such-option", "local", "true"): ["telefork: usage: "],
                ("unix:", "true"): ["telefork: usage: "]}.items():
            self.refuses(call("run", *arguments), 125, *texts)

    def test_refuses_a_directory_that_is_not_there(self):
        gone = self.folder / "gone"
        gone.mkdir()
        script = f"cd {gone} && rmdir {gone} && exec {cli.TELEFORK} run local true"
        done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=cli.PATIENCE)
        self.assertEqual(done.returncode, 125, done.stderr)

    def test_reports_as_json(self):
        file = self.folder / "report.json"
        done = call("run", "--json-file", file, "local", "sh", "-c", "echo err >&2; exit 3")
        self.assertEqual((done.returncode, done.stderr), (3, b"err\n"))
        report = json.loads(file.read_text())
        self.assertEqual(set(report), {"pid", "guest_pid", "node", "total_ms", "exit_code"})
        self.assertEqual((report["node"], report["exit_code"]), ("local", 3))

        done = call("run", "local", "--json", "sh", "-c", "kill -9 $$")
        report = json.loads(done.stderr)
        self.assertEqual((report["exit_code"], report["signal"]), (137, 9))

        done = call("run", "--json-file", file, "unix:/nowhere/telepad.sock", "true")
        error = json.loads(file.read_text())["error"]
        self.assertEqual((error["class"], error["exit_code"]), ("unreachable", 125))

    def test_reports_as_json_what_it_never_came_to(self):
        for arguments, kind in ((("unix:", "true"), "usage"), (("",  "true"), "usage"), (("local",), "usage"),
                                (("--no-such-option", "local", "true"), "usage")):
            done = call("run", "--json", *arguments)
            first, rest = done.stderr.split(b"\n", 1)
            self.assertEqual(json.loads(first)["error"]["class"], kind)
            self.assertTrue(rest.startswith(b"telefork: "))
            self.assertEqual((done.returncode, done.stdout), (125, b""))
        file = self.folder / "report.json"
        self.assertEqual(call("run", f"--json-file={file}", "unix:", "true").returncode, 125)
        self.assertEqual(json.loads(file.read_text())["error"]["class"], "usage")

    def test_ends_when_its_report_cannot_be_written(self):
        done = call("run", "--json-file", "/dev/full", "local", "true")
        self.assertEqual(done.returncode, 125, done.stderr)
        self.assertIn(b"No space left on device", done.stderr)
        done = call("run", "--json-file", "/dev/full", "unix:/nowhere/telepad.sock", "true")
        self.assertEqual(done.returncode, 125, done.stderr)

    def test_leaves_a_subreaper_its_session_alone(self):
        set_subreaper = 36  # PR_SET_CHILD_SUBREAPER
        self.addCleanup(ctypes.CDLL(None).prctl, set_subreaper, 0, 0, 0, 0)
        ctypes.CDLL(None).prctl(set_subreaper, 1, 0, 0, 0)
        self.assertEqual(call("run", "local", "sh", "-c", "exit 5").returncode, 5)
        self.assertEqual(os.wait()[1], 0)
        with self.assertRaises(ChildProcessError):
            os.wait()

    def test_leaves_no_process_behind(self):
        # Other tests run beside this one: its own processes have inherited a mark.
        mark = f"TELEFORK_TEST_MARK={self.folder}"
        def ours():
            return [name for pid, name in cli.names_of_processes().items()
                    if name.startswith(("telefork", "telepad")) and cli.has_variable(pid, mark)]
        environment = {**os.environ, "TELEFORK_TEST_MARK": str(self.folder)}
        running = subprocess.Popen([cli.TELEFORK, "run", "local", "sleep", "infinity"], env=environment)
        wanted = {"telepad", "telefork-keeper"}
        cli.wait_until(lambda: wanted <= set(ours()))
        running.terminate()
        running.wait(cli.PATIENCE)
        for _ in range(3):
            call("run", "local", "true", env=environment)
        cli.wait_until(lambda: not ours())


if __name__ == "__main__":
    cli.need("ptrace")
    cli.main()
