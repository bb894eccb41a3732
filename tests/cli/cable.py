"""A cable between home and a telepad's TCP port, which a test can cut and mend, silence, make narrow, or
have stand still when so much has passed: a process that relays every connection to the address that it
is given, and says at which port."""
import os
import signal
import socket
import subprocess
import sys
import threading

NARROW = 1 << 17  # bytes that pass at once where it is narrow
WAIT = 0.15  # seconds between them

wide = threading.Event()
stalls = [0, 0]  # of what comes from home, and from the node


class Cable:
    def __init__(self, to, narrow=False, most=0):
        """`most`: bytes of each connection that pass from home before widen(); 0: all."""
        self.to = to
        self.start("narrow" if narrow else "wide", most)

    def start(self, how, most=0, port=0):
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.to, how, str(most), str(port)], stdout=subprocess.PIPE)
        self.node = f"127.0.0.1:{int(self.process.stdout.readline())}"

    def widen(self):
        os.kill(self.process.pid, signal.SIGUSR1)

    def mend(self, narrow=False):
        """After a cut: whoever connects at the same port comes through again."""
        self.start("narrow" if narrow else "wide", port=int(self.node.split(":")[1]))

    def stall(self):
        """Nothing passes on the connections that there are, and nobody is told; others do pass."""
        os.kill(self.process.pid, signal.SIGUSR2)

    def stall_from_home(self):
        """The same of what comes from home alone."""
        os.kill(self.process.pid, signal.SIGHUP)

    def silence(self):
        """Nothing passes any more, and nobody is told."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def cut(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def passes(source, sink, direction, narrow, most):
    passed = 0
    its_time = stalls[direction]
    try:
        while data := source.recv(NARROW):
            passed += len(data)
            if most and passed > most:
                wide.wait()
            if its_time != stalls[direction]:
                return  # with both ends open
            sink.sendall(data)
            if narrow and len(data) == NARROW:  # what is small is no load
                wide.wait(WAIT)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # One end is gone: so is the other.
        for end in (source, sink):
            end.close()


def stall(number, frame):
    for direction in (0,) if number == signal.SIGHUP else (0, 1):
        stalls[direction] += 1


def relay(to, how, most, own_port):
    host, port = to.rsplit(":", 1)
    signal.signal(signal.SIGUSR1, lambda number, frame: wide.set())
    for number in signal.SIGUSR2, signal.SIGHUP:
        signal.signal(number, stall)
    listener = socket.create_server(("127.0.0.1", int(own_port)))
    print(listener.getsockname()[1], flush=True)
    while True:
        here, _ = listener.accept()
        try:
            there = socket.create_connection((host, int(port)))
        except OSError:  # nobody listens
            here.close()
            continue
        for end in (here, there):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink, direction, limit in (here, there, 0, int(most)), (there, here, 1, 0):
            threading.Thread(target=passes, args=(source, sink, direction, how == "narrow", limit),
                             daemon=True).start()


if __name__ == "__main__":
    relay(*sys.argv[1:])
