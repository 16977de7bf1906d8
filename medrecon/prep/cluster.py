"""Tasks on a cluster of dask.distributed; every task runs in a child process of its worker."""

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

_GONE = "the dask scheduler stopped answering ({}); start one and run again to continue"
_LOCK = threading.Lock()
_POOLS: dict[float, Pool] = {}


def _perform(call: str, arguments: dict[str, Any], size: int, timeout: float) -> dict[str, Any]:
    """Perform a task in the worker's child process; the worker's threads take turns."""
    with _LOCK:
        pool = _POOLS.setdefault(timeout, Pool(1, timeout))
        ((_, answer),) = pool.run([Task(call, arguments, size)])
        return answer


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of a running scheduler.

    Raises:
        InputError: if dask.distributed is not installed, or the scheduler does not answer.
    """
    try:
        from distributed import Client
        from distributed import TimeoutError as LateError  # before Python 3.11 not the built-in one
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
    """Suppress dask's log, since it logs tracebacks of errors that are reported here."""
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
    """Tasks with their answers, in the order in which they finish; ``lost`` is the reason if every worker of a task was killed.

    The number of submitted tasks is limited to the number of threads, so that memory does not grow with the data set.
    ``distributed.as_completed`` has no time limit for the next result, so it would wait forever once all workers are gone.

    Raises:
        InputError: if the scheduler stops answering, or has no workers for half a minute.
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
    """Current number of threads of all workers.

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
            return {"lost": "killed the dask workers that ran it; is there enough memory?"}
        raise


@contextmanager
def _scheduler() -> Iterator[None]:
    """Raise ``InputError`` for any error of dask; its ``TimeoutError`` is an ``OSError``, which would look like a disk error."""
    try:
        yield
    except Exception as error:
        raise InputError(_GONE.format(f"{type(error).__name__}: {one_line(error)}"[:160])) from error
    except BaseException as error:  # asyncio's CancelledError
        if type(error).__name__ == "CancelledError":
            raise InputError(_GONE.format("its tasks were cancelled")) from error
        raise
