"""Tasks on a cluster of dask.distributed, each in a child of its worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from medrecon.data.errors import InputError, one_line
from medrecon.workers import Pool, Task

__all__ = ["connected", "run"]

_GONE = "the dask scheduler stopped answering ({}); start one and run again to go on"
_LOCK = threading.Lock()
_POOLS: dict[float, Pool] = {}


def _perform(call: str, arguments: dict[str, Any], size: int, timeout: float) -> dict[str, Any]:
    """On a worker: of its threads, one at a time has its child perform a task."""
    with _LOCK:
        pool = _POOLS.setdefault(timeout, Pool(1, timeout))
        ((_, answer),) = pool.run([Task(call, arguments, size)])
        return answer


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of a scheduler that runs.

    Raises:
        InputError: if dask.distributed is not installed, or none answers.
    """
    try:
        from distributed import Client
        from distributed import TimeoutError as LateError  # before Python 3.11 another one than the built-in
    except ImportError as error:
        raise InputError(
            "a dask scheduler (--dask) needs dask.distributed; install it with: pip install distributed"
        ) from error
    with _silence():
        try:
            client = Client(address, timeout=15)
        except (OSError, ValueError, TypeError, LateError) as error:
            raise InputError(
                f"{address}: no dask scheduler answers ({one_line(error)}); start one, or leave the scheduler (--dask) out"
            ) from error
        try:
            yield client
        finally:
            with suppress(Exception):
                client.close(timeout=2)


@contextmanager
def _silence() -> Iterator[None]:
    """Dask logs tracebacks of what is one sentence here."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ("distributed", "tornado")]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def run(client: Any, tasks: Iterable[Task], timeout: float) -> Iterator[tuple[Task, dict[str, Any]]]:  # noqa: ANN401
    """Tasks with their answers, as they come; of one whose worker died every time, the answer is ``lost``: why.

    No more are under way than there are threads, so memory does not grow with the data set.

    Raises:
        InputError: if the scheduler stops answering, or has had no workers for half a minute.
    """
    from distributed import TimeoutError as LateError
    from distributed import wait

    waiting = iter(tasks)
    running: dict[Any, Task] = {}
    idle = None
    while True:
        threads = _threads(client)
        idle = None if threads else idle or time.monotonic()
        if idle is not None and time.monotonic() - idle > 30:
            raise InputError("the dask scheduler has no workers; start some, or leave the scheduler (--dask) out")
        while len(running) < threads and (task := next(waiting, None)) is not None:
            with _scheduler():
                future = client.submit(_perform, *task[:3], timeout, pure=False)
            running[future] = task
        if not running:
            if threads:
                return
            time.sleep(0.5)
            continue
        with _scheduler(), suppress(LateError):
            wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
        for future in [future for future in running if future.done()]:
            yield running.pop(future), _answer(future)


def _threads(client: Any) -> int:  # noqa: ANN401
    """How many there are now.

    Raises:
        InputError: if the scheduler does not answer.
    """
    if client.status != "running":
        raise InputError(_GONE.format("the connection is closed"))
    with _scheduler():
        return sum(client.sync(client.scheduler.ncores, callback_timeout=60).values())


def _answer(future: Any) -> dict[str, Any]:  # noqa: ANN401
    try:
        with _scheduler():
            return future.result(timeout=30)
    except InputError as error:
        if type(error.__cause__).__name__ == "KilledWorker":
            return {"lost": "killed the dask workers that did it; is there enough memory?"}
        raise


@contextmanager
def _scheduler() -> Iterator[None]:
    """One sentence for whatever dask raises: also a ``TimeoutError``, which is an ``OSError`` that others take for the disk's."""
    try:
        yield
    except Exception as error:
        raise InputError(_GONE.format(f"{type(error).__name__}: {one_line(error)}"[:160])) from error
    except BaseException as error:  # asyncio's CancelledError
        if type(error).__name__ == "CancelledError":
            raise InputError(_GONE.format("its tasks were cancelled")) from error
        raise
