"""Real workers without their imports: a server that has torch forks one for each task on a node."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.warm_workers import FORKS

DOOR = "FGBENCH_TEST_WARM"


@contextmanager
def warm_workers(folder: Path) -> Iterator[None]:
    """A server for `python -m tests.cluster.warm`: it has imported all, and run no reverse mode yet."""
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(folder / "warm"))
    door.listen(64)
    os.environ[DOOR] = str(folder / "warm")
    server = FORKS.Process(target=serve, args=(door,), daemon=True)
    server.start()
    try:
        yield
    finally:
        server.kill()
        server.join()
        del os.environ[DOOR]


def serve(door: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        called, _ = door.accept()
        if os.fork() == 0:
            work(called)
            os._exit(0)
        called.close()


def work(called: socket.socket) -> None:
    """As the worker's main function, of a node's name that the caller gives first."""
    from fgbench.running import worker

    lines, channel = called.makefile("r"), called.makefile("w", buffering=1)
    os.environ["SLURMD_NODENAME"] = lines.readline().strip()
    worker._do(lines.readline(), channel)
    channel.flush()


def main() -> None:
    """On the node: the order there, the events back."""
    called = socket.socket(socket.AF_UNIX)
    called.connect(os.environ[DOOR])
    called.sendall(f"{os.environ.get('SLURMD_NODENAME', 'here')}\n{sys.stdin.readline()}".encode())
    for line in called.makefile("r"):
        sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
