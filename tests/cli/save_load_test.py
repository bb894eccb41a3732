#!/usr/bin/env python3
"""telefork save and load: a process with threads to a file and back."""
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import unittest

import cli
from cli import call, call_json


def load(image, *flags, **options):
    return subprocess.Popen([cli.TELEFORK, "load", *flags, str(image)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def hold_id(number, begin):
    """A process of that id begins a group or a session, forks a member and ends -> the member."""
    tid = ctypes.c_int(number)
    arguments = (ctypes.c_uint64 * 11)()  # struct clone_args (clone(2))
    arguments[4], arguments[8], arguments[9] = signal.SIGCHLD, ctypes.addressof(tid), 1
    there, here = os.pipe()
    pid = ctypes.CDLL(None, use_errno=True).syscall(435, arguments, ctypes.sizeof(arguments))
    if pid == 0:
        begin()
        member = os.fork()
        if member == 0:
            os.closerange(0, 1024)
            if begin is os.setsid:
                os.setpgid(0, 0)
            signal.pause()
        os.write(here, str(member).encode())
        os._exit(0)
    assert pid == number, os.strerror(ctypes.get_errno())
    os.close(here)
    with open(there, "rb") as told:
        member = int(told.read())
    os.waitpid(pid, 0)
    return member


# A program with an event loop: an epoll, a pair of sockets and a pipe that only it has, and threads.
EVENT_LOOP = """
import asyncio, os, sys
async def main():
    loop = asyncio.get_running_loop()
    pipe = asyncio.StreamReader()
    there, here = os.pipe()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(pipe), os.fdopen(there, "rb"))
    print("ready", flush=True)
    line = await loop.run_in_executor(None, sys.stdin.readline)
    os.write(here, line.encode())
    print("heard", (await pipe.readline()).decode(), end="", flush=True)
asyncio.run(main())
"""


class SaveAndLoad(cli.Test):
    def finish(self, process, stdin=b"go\n"):
        out, err = process.communicate(stdin, timeout=cli.PATIENCE)
        return process.returncode, out, err

    def wait_until_loaded(self, pid, beside=None):
        """It runs, and sits in its read -> its pid here; a plain user's is in a namespace."""
        def find():
            for process in cli.processes():
                if process == beside:
                    continue
                try:
                    status = pathlib.Path(f"/proc/{process}/status").read_text()
                except OSError:
                    continue
                if ("Name:\tcli_victim\n" in status and "TracerPid:\t0\n" in status and
                        re.search(rf"^NSpid:.*\b{pid}$", status, re.M)):
                    return process
            return None
        cli.wait_until(find)
        return find()

    def test_the_victim_passes_by_itself(self):
        self.assertEqual(self.victim(4, 8, __file__).finish(), (42, b"pass\n"))

    def test_restores_a_process_with_threads(self):
        pid, image = self.saved(4, 8, __file__)
        self.assertEqual(oct(image.stat().st_mode & 0o777), "0o600")
        self.assertEqual(self.finish(load(image)), (42, b"pass\n", b""))

    def test_restores_a_process_of_one_thread(self):
        pid, image = self.saved(0)
        self.assertEqual(self.finish(load(image)), (42, b"pass\n", b""))

    def test_does_not_save_memory_that_was_never_touched(self):
        pid, image = self.saved(0, 1)
        self.assertLess(image.stat().st_size, 8 << 20)

    def test_loads_again_and_again(self):
        pid, image = self.saved(2)
        for _ in range(3):
            self.assertEqual(self.finish(load(image))[:2], (42, b"pass\n"))

    def test_saves_what_was_loaded(self):
        pid, image = self.saved(2)
        loader = load(image)
        here = self.wait_until_loaded(pid)
        second = self.folder / "second.tfi"
        if here != pid:
            self.refuses(call("save", here, second), 3, "it is in another pid namespace")
            self.assertEqual(self.finish(loader)[:2], (42, b"pass\n"))
            return
        self.assertEqual(call("save", pid, second).returncode, 0)
        self.assertEqual(self.finish(loader)[0], 128 + signal.SIGKILL)
        self.assertEqual(self.finish(load(second)), (42, b"pass\n", b""))

    def test_restores_a_program_with_an_event_loop(self):
        program = subprocess.Popen([sys.executable, "-c", EVENT_LOOP], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        self.addCleanup(program.kill)
        self.assertEqual(program.stdout.readline(), b"ready\n")
        image = self.folder / "loop.tfi"
        self.assertEqual(call("save", "--keep", program.pid, image).returncode, 0)
        self.assertEqual(self.finish(program, b"here\n")[:2], (0, b"heard here\n"))
        self.assertEqual(self.finish(load(image), b"there\n"), (0, b"heard there\n", b""))

    def test_loads_beside_the_original_in_a_pid_namespace(self):
        victim = self.victim(4, 8, __file__)
        image = self.folder / "kept.tfi"
        self.assertEqual(call("save", "--keep", victim.pid, image).returncode, 0)
        loaders = [load(image) for _ in range(2)]
        for loader in loaders:
            self.assertEqual(self.finish(loader), (42, b"pass\n", b""))
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_tells_the_pid_here_and_the_pid_in_its_namespace(self):
        victim = self.victim(1)
        image = self.folder / "kept.tfi"
        self.assertEqual(call("save", "--keep", victim.pid, image).returncode, 0)
        code, _, err = self.finish(load(image, "--json"))
        report = json.loads(err)
        self.assertEqual((code, report["guest_pid"]), (42, victim.pid))
        self.assertNotEqual(report["pid"], victim.pid)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    if os.geteuid() == 0:  # to choose an id
        def test_makes_a_pid_namespace_where_a_group_or_a_session_has_an_id(self):
            for keep in (os.setpgrp, os.setsid):
                for which in (0, -1):
                    victim = self.victim(2)
                    tids = sorted(map(int, os.listdir(f"/proc/{victim.pid}/task")))
                    image = self.folder / "held.tfi"
                    self.assertEqual(call("save", victim.pid, image).returncode, 0)
                    victim.wait_for_death()
                    holder = hold_id(tids[which], keep)
                    code, _, err = self.finish(load(image, "--json"))
                    os.kill(holder, signal.SIGKILL)
                    report = json.loads(err)
                    self.assertEqual((code, report["guest_pid"]), (42, victim.pid), err)
                    self.assertNotEqual(report["pid"], victim.pid)

    def test_leaves_the_guest_to_its_init_when_the_loader_is_killed(self):
        victim = self.victim(1)
        image = self.folder / "kept.tfi"
        self.assertEqual(call("save", "--keep", victim.pid, image).returncode, 0)
        loader = load(image)
        guest = self.wait_until_loaded(victim.pid, beside=victim.pid)
        init = self.init_of(guest)
        loader.send_signal(signal.SIGKILL)
        loader.wait(timeout=cli.PATIENCE)
        # It goes on as an orphan does, while its stdin is open.
        self.assertTrue(cli.is_running(guest))
        os.kill(guest, signal.SIGKILL)
        loader.communicate(timeout=cli.PATIENCE)
        cli.wait_until(lambda: cli.processes().get(init, "Z") == "Z")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def init_of(self, guest):
        """Of its pid namespace; others may be busy with theirs."""
        def space(pid):
            try:
                return os.readlink(f"/proc/{pid}/ns/pid")
            except OSError:
                return None
        return next(pid for pid, name in cli.names_of_processes().items()
                    if name == "telefork-init" and space(pid) == space(guest))

    if os.geteuid() == 0:  # to be another user too
        def test_restores_the_threads_of_another_user(self):
            # The checkout may lie where only root may look.
            copy = self.folder / "others"
            copy.write_bytes(pathlib.Path(cli.VICTIM).read_bytes())
            for path in (self.folder, copy):
                os.chmod(path, 0o711)
            victim = self.victim(4, user=65534, group=65534, extra_groups=[], cwd="/",
                                 executable=copy, stderr=subprocess.DEVNULL)
            image = self.folder / "others.tfi"
            self.assertEqual(call("save", "--keep", victim.pid, image).returncode, 0)
            self.assertEqual(self.finish(load(image)), (42, b"pass\n", b""))
            self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_refuses_to_load_where_the_pid_is_taken_and_no_namespace_can_be_made(self):
        victim = self.victim(1)
        image = self.folder / "kept.tfi"
        self.assertEqual(call("save", "--keep", victim.pid, image).returncode, 0)
        script = "echo 0 >/proc/sys/user/max_pid_namespaces && exec \"$@\""
        done = subprocess.run(["unshare", "-U", "-r", "sh", "-c", script, "sh",
                               cli.TELEFORK, "load", image], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=cli.PATIENCE)
        self.refuses(done, 125, "refused: ", f"process id {victim.pid} is taken here by cli_victim",
                     "making a pid namespace: ")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_keeps_the_process_running(self):
        victim = self.victim(4, 8, __file__)
        image = self.folder / "kept.tfi"
        for _ in range(3):
            self.assertEqual(call("save", "--keep", victim.pid, image).returncode, 0)
        self.assertEqual(victim.finish(), (42, b"pass\n"))
        self.assertEqual(self.finish(load(image)), (42, b"pass\n", b""))

    def test_works_where_it_is_not_told_of_children(self):
        victim = self.victim(4, 8, __file__)
        image = self.folder / "image.tfi"
        ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
        saved = subprocess.run([cli.TELEFORK, "save", str(victim.pid), str(image)],
                               capture_output=True, timeout=cli.PATIENCE, **ignoring)
        self.assertEqual(saved.returncode, 0, saved.stderr)
        victim.wait_for_death()
        self.assertEqual(self.finish(load(image, **ignoring)), (42, b"pass\n", b""))

    def test_reports_as_json(self):
        # Of one thread: the id of another one is free only some time after the process was reaped
        # (kernel/exit.c, release_task), and where it is taken all of them are had in a namespace.
        victim = self.victim(0, 4)
        image = self.folder / "image.tfi"
        code, report = call_json("save", victim.pid, image, "--keep")
        self.assertEqual(code, 0)
        self.assertEqual(set(report), {"pid", "file", "processes", "kept", "bytes_written", "pages_written",
                                       "freeze_ms", "total_ms"})
        self.assertEqual(report["bytes_written"], image.stat().st_size)
        self.assertGreaterEqual(report["pages_written"], 1024)
        victim.finish()
        done = self.finish(load(image, "--json"))
        report = json.loads(done[2])
        self.assertEqual((done[0], report["exit_code"]), (42, 42))
        self.assertEqual(report["guest_pid"], victim.pid)
        if cli.features()["set_tid"]:
            self.assertEqual(report["pid"], victim.pid)
        self.assertEqual(report["bytes_read"], image.stat().st_size)

    def test_forwards_signals_to_what_it_loaded(self):
        pid, image = self.saved(2)
        loader = load(image)
        self.wait_until_loaded(pid)
        # It catches nothing: it dies of the signal.
        loader.send_signal(signal.SIGTERM)
        self.assertEqual(loader.wait(timeout=cli.PATIENCE), 128 + signal.SIGTERM)
        loader.communicate(timeout=cli.PATIENCE)

    def test_stops_and_continues_with_what_it_loaded(self):
        pid, image = self.saved(2)
        loader = load(image)
        os.kill(self.wait_until_loaded(pid), signal.SIGSTOP)
        _, status = os.waitpid(loader.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        loader.send_signal(signal.SIGCONT)
        self.assertEqual(self.finish(loader)[:2], (42, b"pass\n"))

    def test_is_a_job_of_its_shell(self):
        pid, image = self.saved(2)
        shell = cli.Shell()
        self.addCleanup(shell.close)

        def start():
            shell.type(f"{cli.TELEFORK} load {image}\n")
            self.wait_until_loaded(pid)
        start()
        shell.type("\x1a")
        shell.expect("Stopped")
        shell.expect("PROMPT> ")
        self.assertEqual(shell.command("true for the shell"), 0)
        shell.type("fg\n")
        shell.expect(r"telefork load [^\r]*\r\n")
        shell.type("go\n")
        shell.expect("pass")
        shell.expect("PROMPT> ")
        self.assertEqual(shell.command("(exit $?)"), 42)
        start()
        shell.type("\x03")
        shell.expect("PROMPT> ")
        self.assertEqual(shell.command("(exit $?)"), 128 + signal.SIGINT)

    def test_loads_without_the_files_it_was_saved_with(self):
        copy = self.folder / "victim"
        copy.write_bytes(pathlib.Path(cli.VICTIM).read_bytes())
        copy.chmod(0o755)
        read = self.folder / "read"
        read.write_text("some text that is read\n" * 10)
        process = subprocess.Popen([copy, "2", "1", read], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        process.stdout.readline()
        image = self.folder / "image.tfi"
        done = call("save", "--embed-files", process.pid, image)
        self.assertEqual(done.returncode, 0, done.stderr)
        process.communicate()
        copy.unlink()
        read.unlink()
        code, out, err = self.finish(load(image))
        self.assertEqual((code, out), (42, b"pass\n"), err)

    def test_refuses_to_load_with_another_file_in_the_place_of_one(self):
        copy = self.folder / "victim"
        copy.write_bytes(pathlib.Path(cli.VICTIM).read_bytes())
        copy.chmod(0o755)
        process = subprocess.Popen([copy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdout.readline()
        image = self.folder / "image.tfi"
        self.assertEqual(call("save", process.pid, image).returncode, 0)
        process.communicate()
        data = bytearray(copy.read_bytes())
        data[-1] ^= 1
        copy.write_bytes(data)
        self.refuses(call("load", image), 125, "refused: ", str(copy))
        self.assertFalse(os.path.exists(f"/proc/{process.pid}"))

    def test_takes_over_the_names_of_sockets_that_lead_to_nobody(self):
        listener = "import os, socket, sys\n" \
            "names = [os.path.join(sys.argv[1], name) for name in ('a', 'b')]\n" \
            "sockets = [socket.socket(socket.AF_UNIX) for name in names]\n" \
            "for one, name in zip(sockets, names): one.bind(name); one.listen()\n" \
            "print('ready', flush=True); sys.stdin.readline()\n" \
            "print(sockets[0].accept()[0].recv(9).decode())\n"
        process = subprocess.Popen([sys.executable, "-c", listener, self.folder],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        image = self.folder / "image"
        self.assertEqual(call("save", process.pid, image).returncode, 0)
        self.assertEqual(process.wait(timeout=cli.PATIENCE), -signal.SIGKILL)

        # Somebody else has the second: the first goes again with what came to nothing.
        name = str(self.folder / "b")
        os.unlink(name)
        pathlib.Path(name).write_text("a file")
        self.refuses(call("load", image), 125, f"its address {name} cannot be had here")
        self.assertEqual(pathlib.Path(name).read_text(), "a file")
        os.unlink(name)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(name)
            other.listen()
            self.refuses(call("load", image), 125, f"its address {name} cannot be had here: "
                                                   "Address already in use")
            self.assertEqual(sorted(os.listdir(self.folder)), ["b", "image"])
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(name)

        # Now it leads to nobody.
        guest = load(image)
        self.addCleanup(guest.communicate)
        self.addCleanup(guest.kill)
        with socket.socket(socket.AF_UNIX) as client:
            cli.wait_until(lambda: client.connect_ex(str(self.folder / "a")) == 0)
            client.sendall(b"hello")
            out, err = guest.communicate(b"\n", timeout=cli.PATIENCE)
        self.assertEqual((guest.returncode, out, err), (0, b"hello\n", b""))

    def test_does_not_write_over_what_others_have_written_since(self):
        file = self.folder / "file"
        file.write_text("12345")
        script = f"exec 3<>{file}; head -c 2 <&3 >/dev/null; echo ready; read line; echo ab >&3"
        process = subprocess.Popen(["dash", "-c", script], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        process.stdout.readline()
        image = self.folder / "image.tfi"
        self.assertEqual(call("save", process.pid, image).returncode, 0)
        process.communicate()
        with open(file, "a") as other:
            other.write("67")
        done = call("load", image)
        self.refuses(done, 125, f"refused: restoring descriptors: file {file}: it was open for "
                     "writing, and has been changed since it was saved (5 bytes, ")
        self.assertEqual(file.read_text(), "1234567")
        remedy = re.search(rb"truncate -s \d+, then touch -d @[0-9.]+", done.stderr)[0].decode()
        for command in remedy.split(", then "):
            subprocess.run([*command.split(), file], check=True)
        self.assertEqual(self.finish(load(image))[0], 0)
        self.assertEqual(file.read_text(), "12ab\n")

    if os.geteuid() == 0:  # to mount another one
        def test_refuses_another_c_library_unless_it_is_forced(self):
            pid, image = self.saved(2, flags=("--embed-files",))
            libc = pathlib.Path(cli.libc_of_this_process()).resolve()
            content = bytearray(libc.read_bytes())
            build_id = content.index(b"\x14\0\0\0\x03\0\0\0GNU\0") + 12
            content[build_id] ^= 1
            other = self.folder / "libc.so.6"
            other.write_bytes(content)
            other.chmod(0o755)

            def load_with_the_other(*flags):
                script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
                return subprocess.Popen(
                    ["unshare", "-m", "sh", "-c", script, "sh", other, libc,
                     cli.TELEFORK, "load", *flags, image],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            code, out, err = self.finish(load_with_the_other())
            self.assertEqual((code, out), (125, b""), err)
            self.assertIn(f"refused: file {libc}: this machine has another C library", err.decode())
            self.assertIn("--libc=force", err.decode())
            self.assertEqual(self.finish(load_with_the_other("--libc=force")), (42, b"pass\n", b""))

    def test_refuses_what_cannot_be_saved_before_it_freezes(self):
        reader, writer = os.pipe()
        victim = subprocess.Popen([cli.VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  pass_fds=[reader, writer])
        victim.stdout.readline()
        image = self.folder / "image.tfi"
        self.refuses(call("save", victim.pid, image), 3, f"refused: fd {reader} -> pipe:",
                     f"refused: fd {writer} -> pipe:")
        code, answer = call_json("save", victim.pid, image)
        self.assertEqual((code, answer["error"]["class"]), (3, "refused"))
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(victim.communicate(b"go\n")[0], b"pass\n")
        os.close(reader)
        os.close(writer)

    def test_refuses_a_pid_that_is_none(self):
        self.refuses(call("save", 2**22 + 1, self.folder / "x"), 3, "refused: process ")
        self.refuses(call("save", "abc", self.folder / "x"), 2, "telefork: usage: ")
        self.refuses(call("save", 0, self.folder / "x"), 2, "telefork: usage: ")

    def test_refuses_the_id_of_a_thread(self):
        victim = self.victim(2, 0)
        thread = max(map(int, os.listdir(f"/proc/{victim.pid}/task")))
        text = f"refused: {thread}: it is a thread of process {victim.pid}; name the process\n"
        self.refuses(call("save", thread, self.folder / "x"), 3, text)
        checked = call("check", thread)
        self.assertEqual((checked.returncode, checked.stdout), (3, text.encode()))
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def undone(self, victim, done):
        """The save failed after the freeze: no file, and the process runs on."""
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertIn(f"process {victim.pid} runs on".encode(), done.stderr)
        self.assertTrue(cli.is_running(victim.pid))
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_leaves_the_process_running_when_the_device_is_full(self):
        victim = self.victim(2, 8)
        done = call("save", victim.pid, "/dev/full")
        self.assertIn(b"No space left", done.stderr)
        self.undone(victim, done)

    def test_says_on_stderr_that_it_is_saved_where_stdout_does_not_take_it(self):
        victim = self.victim(0, 1)
        image = self.folder / "image.tfi"
        with open("/dev/full", "wb") as full:
            done = subprocess.run([cli.TELEFORK, "save", "--json", str(victim.pid), image],
                                  stdout=full, stderr=subprocess.PIPE, timeout=cli.PATIENCE)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"telefork: process {victim.pid} is saved in {image}: ".encode(), done.stderr)
        self.assertIn(b"writing to stdout: No space left on device", done.stderr)
        victim.wait_for_death()
        self.assertEqual(self.finish(load(image))[0], 42)

    def test_does_not_lose_the_process_in_the_null_device(self):
        victim = self.victim(1)
        self.refuses(call("save", victim.pid, "/dev/null"), 2, "/dev/null keeps nothing", "--keep")
        self.refuses(call("save", victim.pid, "/dev/urandom"), 2, "/dev/urandom keeps nothing")
        self.refuses(call("save", victim.pid, ""), 2, "no name")
        self.assertEqual(call("save", "--keep", victim.pid, "/dev/null").returncode, 0)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_does_not_take_the_place_of_a_file_of_the_process(self):
        program = self.folder / "sleep"
        shutil.copy("/bin/sleep", program)
        data = self.folder / "data"
        data.write_bytes(b"mine")
        with open(data, "rb") as opened, subprocess.Popen([program, "1000"], stdin=opened) as own:
            try:
                for file in (program, data):
                    for options in ([], ["--keep"]):
                        done = call("save", *options, own.pid, file)
                        self.refuses(done, 2, f"{file} is a file that process {own.pid} uses")
                self.assertEqual(data.read_bytes(), b"mine")
                self.assertIsNone(own.poll())
            finally:
                own.kill()

    def test_a_stopped_process_is_saved_and_stays_stopped(self):
        victim = self.victim(1)
        os.kill(victim.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, victim.pid, os.WSTOPPED)
        done = call("save", "--keep", victim.pid, self.folder / "image")
        self.assertEqual(done.returncode, 0, done.stderr)
        # A tracer that lets go of a stopped process wakes it, so that it stops again for itself.
        cli.wait_until(lambda: cli.processes()[victim.pid] == "T")
        os.kill(victim.pid, signal.SIGCONT)
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_says_that_nobody_reads_the_fifo(self):
        os.mkfifo(self.folder / "fifo")
        victim = self.victim(1)
        self.refuses(call("save", victim.pid, self.folder / "fifo"), 1, "No such device or address")
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_can_be_interrupted_while_the_reader_does_not_read(self):
        os.mkfifo(self.folder / "fifo")
        reader = os.open(self.folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        victim = self.victim(1, 8)
        saver = subprocess.Popen([cli.TELEFORK, "save", str(victim.pid), self.folder / "fifo"],
                                 stderr=subprocess.PIPE)
        self.assertTrue(cli.wait_readable(reader))
        saver.terminate()
        stderr = saver.communicate(timeout=cli.PATIENCE)[1]
        self.undone(victim, subprocess.CompletedProcess([], saver.returncode, b"", stderr))

    def test_leaves_the_process_running_at_the_file_size_limit(self):
        victim = self.victim(1, 8)
        done = subprocess.run(["bash", "-c", f"ulimit -f 8; exec {cli.TELEFORK} save {victim.pid} "
                               f"{self.folder}/limited"], capture_output=True, timeout=cli.PATIENCE)
        self.assertIn(b"File too large", done.stderr)
        self.undone(victim, done)

    if os.geteuid() == 0:  # to mount a small one
        unshare = staticmethod(ctypes.CDLL(None).unshare)

        def test_leaves_no_file_when_the_disk_is_full(self):
            mount = self.folder / "small"
            mount.mkdir()
            # In a mount namespace of its own: nobody else is to see it.
            victim = self.victim(2, 8, preexec_fn=lambda: self.unshare(0x20000))  # CLONE_NEWNS
            script = ("mount --make-rprivate / && mount -t tmpfs -o size=2m none \"$1\" || exit; "
                      "\"$2\" save \"$3\" \"$1/image.tfi\"; code=$?; ls -A \"$1\"; exit $code")
            done = subprocess.run(["nsenter", "-t", str(victim.pid), "-m", "sh", "-c", script, "sh",
                                   mount, cli.TELEFORK, str(victim.pid)], capture_output=True,
                                  timeout=cli.PATIENCE)
            self.assertIn(b"No space left", done.stderr)
            self.assertEqual(done.stdout, b"")
            self.undone(victim, done)

    def test_leaves_an_older_file_alone_when_it_fails(self):
        victim = self.victim(1)
        self.refuses(call("save", victim.pid, self.folder / "no" / "image.tfi"), 1, "no/image.tfi")
        older = self.folder / "older.tfi"
        older.write_text("older")
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait_for_death()
        self.assertEqual(call("save", victim.pid, older).returncode, 3)
        self.assertEqual(older.read_text(), "older")

    def test_can_be_interrupted(self):
        victim = self.victim(1, 64)
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        save = subprocess.Popen([cli.TELEFORK, "save", str(victim.pid), str(fifo)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with open(fifo, "rb") as reader:
            reader.read(1 << 20)
            save.send_signal(signal.SIGINT)
            while reader.read(1 << 20):
                pass
        out, err = save.communicate(timeout=cli.PATIENCE)
        self.assertIn(b"interrupted", err)
        self.undone(victim, subprocess.CompletedProcess([], save.returncode, out, err))

    def test_can_be_interrupted_while_a_thread_does_not_stop(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            with self.subTest(number), subprocess.Popen(
                    [os.environ["TELEFORK_UNSTOPPABLE"]], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE) as victim:
                victim.stdout.readline()
                save = subprocess.Popen(
                    [cli.TELEFORK, "save", str(victim.pid), str(self.folder / "x")],
                    stderr=subprocess.PIPE)
                status = pathlib.Path(f"/proc/{victim.pid}/status")
                cli.wait_until(lambda: f"TracerPid:\t{save.pid}\n" in status.read_text())
                save.send_signal(number)
                _, err = save.communicate(timeout=cli.PATIENCE)
                self.assertEqual(save.returncode, 75, err)
                self.assertIn(b"interrupted", err)
                self.assertIn(f"process {victim.pid} runs on".encode(), err)
                self.assertEqual(list(self.folder.iterdir()), [])
                victim.communicate(b"\n", timeout=cli.PATIENCE)
                self.assertEqual(victim.returncode, 42)

    def test_lets_the_process_go_when_it_is_killed_itself(self):
        victim = self.victim(2, 64)
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        save = subprocess.Popen([cli.TELEFORK, "save", str(victim.pid), str(fifo)])
        with open(fifo, "rb") as reader:
            reader.read(1 << 20)
            save.kill()
            save.wait()
        self.assertEqual(victim.finish(), (42, b"pass\n"))

    def test_tells_the_death_of_the_process(self):
        victim = self.victim(2, 64)
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        save = subprocess.Popen([cli.TELEFORK, "save", str(victim.pid), str(fifo)],
                                stderr=subprocess.PIPE)
        with open(fifo, "rb") as reader:
            reader.read(1 << 20)
            os.kill(victim.pid, signal.SIGKILL)
            while reader.read(1 << 20):
                pass
        err = save.communicate(timeout=cli.PATIENCE)[1]
        self.assertEqual(save.returncode, 1, err)
        self.assertEqual(victim.wait_for_death(), -signal.SIGKILL)


if __name__ == "__main__":
    cli.need("ptrace", "mm_map", "pid_namespace")
    cli.main()
