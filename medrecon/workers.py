"""Child processes that read files: a reader that crashes or hangs fails its own task, not the run.

A server process imports all modules once and starts no threads. Children are forked from it, so a new child starts within
milliseconds, and no locks or threads of the caller are copied. Every child works on one task at a time and is replaced if it
crashes. Requests and answers are lines of JSON on a socket, so a damaged file can harm only the child that reads it. Children end
with their caller, also if it is killed: then the server's socket closes, and the server kills its children and exits.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from medrecon.data.errors import InputError, one_line

__all__ = ["Pool", "Task", "warm_up"]

_BYTES = 1 << 24
"""The time limit of a task is extended by itself for each 16 MB of its files."""
_TICK = 1.0
_IMPORTS = ("medrecon.prep.worker", "medrecon.transforms", "pydicom", "nibabel")
"""Modules that children of ``prep`` are likely to need."""
_START = (
    "import sys; sys.path[:] = sys.argv[3:]; from medrecon.workers import serve; "
    "serve(int(sys.argv[1]), sys.argv[2].split(','))"
)
"""The path is set before any import, since it starts with the current folder, which may contain untrusted files."""
_HAVE_FORK = hasattr(os, "fork") and hasattr(socket, "send_fds")


class Task(NamedTuple):
    """Call of a function in a child process.

    Args:
        call: ``module:function`` of medrecon; the function returns a dictionary that can be written as JSON.
        arguments: arguments of the function, which can be written as JSON.
        size: size of the files that are read, bytes; large files get more time.
        about: any object, returned with the answer.
    """

    call: str
    arguments: dict[str, Any]
    size: int = 0
    about: Any = None


@dataclass
class _Child:
    stream: socket.socket
    pid: int
    task: Task | None = None
    seconds: float = 0.0
    answer: bytearray = field(default_factory=bytearray)


def perform(call: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Result of a call, or its ``error``."""
    try:
        module, _, name = call.partition(":")
        return getattr(importlib.import_module(module), name)(**arguments)
    except (Exception, SystemExit) as error:
        return {"error": str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"}


class _Server:
    """Process from which children are forked; it ends with this process.

    Args:
        single: whether libraries use one thread in the children.
        imports: modules that the children are likely to need.
    """

    def __init__(self, single: bool, imports: Sequence[str]) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair()
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            _START,
            str(theirs.fileno()),
            ",".join(imports),
            *map(str, sys.path),
        ]
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env={**os.environ, **(dict.fromkeys(names, "1") if single else {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,  # killing this process's group does not kill the server, which notices it and exits
        )  # fmt: skip
        theirs.close()

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> int:
        """Answer of the server to a request.

        Raises:
            OSError: if the server has ended.
        """
        line = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(self.control, [line], descriptors) if descriptors else 0
        self.control.sendall(line[sent:])
        answer = bytearray()
        while not answer.endswith(b"\n"):
            block = self.control.recv(4096)
            if not block:
                raise OSError("the server of worker processes has ended")
            answer += block
        return int(answer)

    def close(self) -> None:
        """End the server; its children have ended before."""
        self.control.close()
        self.process.kill()
        self.process.wait()


_SERVERS: dict[tuple[bool, tuple[str, ...]], _Server] = {}


def _server(single: bool, imports: tuple[str, ...] = _IMPORTS) -> _Server:
    found = _SERVERS.get((single, imports))
    if found is None or found.owner != os.getpid() or found.process.poll() is not None:
        found = _SERVERS[single, imports] = _Server(single, imports)
    return found


def warm_up(workers: int, imports: Sequence[str] = _IMPORTS) -> None:
    """Start the server of a :class:`Pool` in advance, so that it imports modules while this process does other things."""
    if _HAVE_FORK and sys.executable:
        with suppress(OSError):
            _server(workers > 1, tuple(imports))


@atexit.register
def _close_servers() -> None:
    while _SERVERS:
        server = _SERVERS.popitem()[1]
        if server.owner == os.getpid():
            server.close()


class Pool:
    """Child processes that perform tasks.

    If the system cannot fork (Windows), tasks run in this process, without protection and time limit.

    Args:
        workers: number of children; if there are several, libraries in them use one thread.
        timeout: time limit of a task, s, plus the same for each 16 MB of its files; the clock stops while the machine is
            suspended.
        at_end: path of a file and a line that is appended to it, if the file exists, when this process is killed.
        imports: modules that the tasks need.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout: float = 60.0,
        at_end: tuple[Path, str] | None = None,
        imports: Sequence[str] = _IMPORTS,
    ) -> None:
        self.server = workers > 1, tuple(imports)
        self.workers = workers
        self.timeout = timeout
        self.at_end = at_end
        self.children: list[_Child] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill all children."""
        while self.children:
            self._kill_child(self.children[-1])
        if self.at_end is not None and self.server in _SERVERS:
            with suppress(OSError):
                _server(*self.server).ask({"forget": str(self.at_end[0])})

    def run(
        self, tasks: Iterable[Task], started: Callable[[Task], None] | None = None
    ) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Tasks with their answers, in the order in which they finish; ``lost`` is the reason if a child crashed or was too slow.

        A task whose child crashed is tried again at the end, alone and in a new child, since an earlier task may have damaged the
        first child, or another task may have used up the memory.

        Args:
            tasks: tasks, read one by one as children become free.
            started: called before a task starts.
        """
        if not _HAVE_FORK or not sys.executable:
            for task in tasks:
                if started is not None:
                    started(task)
                yield task, perform(task.call, task.arguments)
            return
        suspects = []
        for task, answer in self._run(tasks, self.workers, started):
            if "crashed" in answer:
                suspects.append(task)
            else:
                yield task, answer
        for suspect in suspects:
            self._kill_idle_children()
            for task, answer in self._run([suspect], 1, started):
                yield task, {"lost": answer["crashed"]} if "crashed" in answer else answer

    def _run(
        self, tasks: Iterable[Task], workers: int, started: Callable[[Task], None] | None
    ) -> Iterator[tuple[Task, dict[str, Any]]]:
        waiting = iter(tasks)
        while True:
            idle = [child for child in self.children if child.task is None]
            busy = len(self.children) - len(idle)
            while busy < workers and (task := next(waiting, None)) is not None:
                if started is not None:
                    started(task)
                self._assign(idle.pop() if idle else self._new_child(), task)
                busy += 1
            if not busy:
                return
            for child in self._ready():
                task = child.task
                answer = self._read_answer(child)
                if answer is not None and task is not None:
                    yield task, answer

    def _ready(self) -> list[_Child]:
        """Busy children that have answered, crashed or exceeded their time; waits for up to a second."""
        busy = [child for child in self.children if child.task is not None]
        begin = time.monotonic()
        streams, _, _ = select.select([child.stream for child in busy], [], [], _TICK)
        # If more time has passed, this process and its children were stopped.
        passed = min(time.monotonic() - begin, 2 * _TICK)
        for child in busy:
            child.seconds += passed
        return [child for child in busy if child.stream in streams or child.seconds > self._limit(child)]

    def _limit(self, child: _Child) -> float:
        return self.timeout * (1 + (child.task.size if child.task else 0) / _BYTES)

    def _read_answer(self, child: _Child) -> dict[str, Any] | None:
        """Answer of a child; ``None`` if it is not complete yet."""
        limit = self._limit(child)
        is_late = child.seconds > limit
        try:
            block = b"" if is_late and not select.select([child.stream], [], [], 0)[0] else child.stream.recv(1 << 20)
        except OSError:
            block = b""
        child.answer += block
        if child.answer.endswith(b"\n"):
            with suppress(ValueError, RecursionError):
                answer = dict(json.loads(child.answer))
                child.task, child.answer = None, bytearray()
                return answer
            self._kill_child(child)
            return {"crashed": "crashed (its answer cannot be read)"}
        if block and not is_late:
            return None
        reason = self._kill_child(child)
        return {"lost": f"took longer than {limit:.0f} s"} if is_late else {"crashed": f"crashed ({reason})"}

    def _assign(self, child: _Child, task: Task) -> None:
        child.task, child.seconds = task, 0.0
        line = json.dumps({"call": task.call, "arguments": task.arguments}).encode() + b"\n"
        with suppress(OSError):  # it crashed; its answer is read as empty
            child.stream.sendall(line)

    def _new_child(self) -> _Child:
        """Start another child."""
        ours, theirs = socket.socketpair()
        request = {
            "path": sys.path,
            "folder": os.getcwd(),
            "at_end": self.at_end and [str(self.at_end[0]), self.at_end[1]],
        }
        try:
            pid = _server(*self.server).ask(request, [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise InputError(
                "no worker process can be started; is there enough memory? To see other causes, run "
                "python -c 'import medrecon.prep'"
            ) from error
        finally:
            theirs.close()
        self.children.append(_Child(ours, pid))
        return self.children[-1]

    def _kill_child(self, child: _Child) -> str:
        """Kill a child; returns how it ended."""
        self.children.remove(child)
        child.stream.close()
        try:
            _kill(child.pid)  # if it has ended already, the server has its exit code
            code = _server(*self.server).ask({"wait": child.pid})
        except OSError:
            return "with the server of worker processes"
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name}; is there enough memory?" if name == "SIGKILL" else name

    def _kill_idle_children(self) -> None:
        """Kill idle children to free their memory."""
        for child in [c for c in self.children if c.task is None]:
            self._kill_child(child)


def _kill(pid: int) -> None:
    """Kill a child and all processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


# In the server and its children


def serve(descriptor: int, imports: Sequence[str] = _IMPORTS) -> None:
    """Fork children on request until the caller ends, and kill them then.

    Requests are lines of JSON. A request with a socket forks a child for it; the answer is its process id. ``wait`` is a process
    id; the answer is its exit code. ``forget`` is the path of a file to which nothing is appended at the end any more.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to all processes of a terminal; the caller handles them
    for module in imports:
        with suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()
    control = socket.socket(fileno=descriptor)
    children: set[int] = set()
    last: dict[str, str] = {}
    with suppress(OSError):
        while (received := _request(control)) is not None:
            request, descriptors = received
            if descriptors:
                answer = _forked(control, descriptors[0], request)
                children.add(answer)
                last |= dict([request["at_end"]]) if request["at_end"] else {}
            elif "wait" in request:
                answer = _waited(request["wait"])
                children.discard(request["wait"])
            else:
                answer = int(last.pop(request["forget"], None) is not None)
            control.sendall(f"{answer}\n".encode())
    for pid in children:
        with suppress(OSError):
            _kill(pid)
            os.waitpid(pid, 0)
    for path, line in last.items():
        with suppress(OSError):  # without O_CREAT, since a successful caller has removed the file
            file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
            os.write(file, f"{line}\n".encode())
    os._exit(0)


def _request(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next request and the descriptors sent with it; ``None`` at the end."""
    line, found = bytearray(), []
    while not line.endswith(b"\n"):
        block, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
        if not block:
            return None
        line += block
        found += descriptors
    return json.loads(line), found


def _waited(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


def _forked(control: socket.socket, descriptor: int, request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    try:
        control.close()
        os.setpgid(0, 0)
        with suppress(OSError, AttributeError):  # on Linux, end with the server, even during a task
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        sys.path[:] = request["path"]
        with suppress(OSError):
            os.chdir(request["folder"])
        _child(socket.socket(fileno=descriptor))
    finally:
        os._exit(0)


def _child(stream: socket.socket) -> None:
    """Perform tasks until the caller closes the socket."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(OSError):  # if memory runs out, kill a child rather than its caller
        Path("/proc/self/oom_score_adj").write_text("500")
    with suppress(OSError), stream.makefile("rwb") as file:
        for line in file:
            task = json.loads(line)
            answer = perform(task["call"], task["arguments"])
            file.write(json.dumps(answer).encode() + b"\n")
            file.flush()
