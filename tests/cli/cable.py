"""A cable between home and a telepad's TCP port, which a test can cut, silence or make narrow: a
process that relays every connection to the address that it is given, and says at which port."""
import os
import signal
import socket
import subprocess
import sys
import threading

NARROW = 1 << 17  # bytes that pass at once where it is narrow
WAIT = 0.15  # seconds between them

wide = threading.Event()


class Cable:
    def __init__(self, to, narrow=False):
        self.process = subprocess.Popen([sys.executable, __file__, to, "narrow" if narrow else "wide"],
                                        stdout=subprocess.PIPE)
        self.node = f"127.0.0.1:{int(self.process.stdout.readline())}"

    def widen(self):
        os.kill(self.process.pid, signal.SIGUSR1)

    def silence(self):
        """Nothing passes any more, and nobody is told."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def cut(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def passes(source, sink):
    try:
        while data := source.recv(NARROW):
            sink.sendall(data)
            if len(data) == NARROW:  # what is small is no load
                wide.wait(WAIT)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # One end is gone: so is the other.
        for end in (source, sink):
            end.close()


def relay(to, how):
    host, port = to.rsplit(":", 1)
    if how == "wide":
        wide.set()
    signal.signal(signal.SIGUSR1, lambda number, frame: wide.set())
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        here, _ = listener.accept()
        there = socket.create_connection((host, int(port)))
        for end in (here, there):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for ends in ((here, there), (there, here)):
            threading.Thread(target=passes, args=ends, daemon=True).start()


if __name__ == "__main__":
    relay(*sys.argv[1:])
