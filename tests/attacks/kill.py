"""Children that are killed at a chosen moment: forked from a process that has imported everything, so a trial takes moments."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from medrecon import workers

CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink", "rmdir", "mkdir", "ftruncate", "listdir")
HIDDEN = ".medrecon-"


def hook(kill_at: int, after: bool, report: Callable[[str], None]) -> Callable[[], int]:
    """Count calls of ``os`` (and ``flock``) from the first hidden file on; at the ``kill_at``-th the process kills itself.

    Before the call, or after it; of a write, after half of its bytes. Returns a function that gives the count.
    """
    count = 0
    writing = False

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(name: str, call: Callable) -> Callable:
        def watched(*args: object, **kwargs: object) -> object:
            nonlocal count, writing
            if not writing and args and HIDDEN in str(args[0]):
                writing = True
                report("writing")
            if not writing:
                return call(*args, **kwargs)
            count += 1
            if count == kill_at:
                if after:
                    if name == "write":
                        call(args[0], bytes(args[1])[: len(args[1]) // 2])  # type: ignore[arg-type]
                    else:
                        call(*args, **kwargs)
                die()
            return call(*args, **kwargs)

        return watched

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    fcntl.flock = wrapped("flock", fcntl.flock)
    return lambda: count


class ForkedServer(workers._Server):
    """The server of reading processes, forked from this process, which has imported everything, instead of a new one."""

    def __init__(self, single: bool) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            os.setsid()  # like the real one: who kills the run's group does not kill it
            self.control.close()
            workers.serve(theirs.detach())
        theirs.close()
        self.process = self  # type: ignore[assignment]

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


def start_readers(n: int) -> None:
    """What ``medrecon prep`` does at its start, without new imports."""
    workers._SERVERS[n > 1, workers._IMPORTS] = ForkedServer(n > 1)


def child(
    work: Callable[[], int],
    log: Path,
    delay: float | None = None,
    from_writing: bool = False,
    kill_at: int = 0,
    after: bool = False,
    count: bool = False,
    before: Callable[[], object] = lambda: None,
) -> tuple[int, int, float]:
    """Run ``work`` in a forked child and its own process group.

    Args:
        work: gives the exit code.
        log: for what it prints.
        delay: kill the group so many seconds after the start (or the first hidden file); ``None``: never.
        from_writing: see ``delay``.
        kill_at: see :func:`hook`.
        after: see :func:`hook`.
        count: count the calls, without a kill.
        before: called in the child before calls are counted.

    Returns:
        exit code (-9: killed), number of calls, seconds from the first hidden file (``delay`` without it: from the start).
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 70
        try:
            os.setsid()
            os.close(reading)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            tell, end = os.write, os._exit
            before()
            counted = None
            if kill_at or count or from_writing:
                counted = hook(kill_at, after, lambda text: tell(writing, f"{text}\n".encode()))  # type: ignore[arg-type,return-value]
            code = work()
            sys.stdout.flush()
            if counted is not None:
                tell(writing, f"{counted()}\n".encode())
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            end(code)
    os.close(writing)
    start = time.perf_counter()
    output = b""
    if from_writing or count:
        output = os.read(reading, 8)
        start = time.perf_counter()
    if delay is not None:
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - start
    while block := os.read(reading, 4096):
        output += block
    os.close(reading)
    calls = [int(line) for line in output.split() if line.isdigit()]
    return os.waitstatus_to_exitcode(status), calls[-1] if calls else 0, took
