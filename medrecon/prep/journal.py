"""Record of the cases under way.

A case during which two runs were killed is skipped; a case whose reader crashed is not tried again.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from medrecon.data.errors import InputError

__all__ = ["Journal"]

_RETRY = "; give --retry to try it again"
_WAIT_SECONDS = 3.0


class Journal:
    """A file in the destination, written line by line during a run.

    Child processes protect a run from crashing readers, but not from a machine that runs out of memory or a driver that hangs.
    Then the run ends with all its children, and the journal shows which case was under way. The next run prepares this case last
    and alone; if that run ends in the same way, the case is skipped afterwards. If only the run is killed, its server of workers
    ends the journal, so that no case is suspected.

    Args:
        destination: folder of the results.
        retry: whether to discard the entries of earlier runs.
    """

    def __init__(self, destination: Path, retry: bool = False) -> None:
        self.path = destination / ".journal"
        self.run = secrets.token_hex(4)
        self.lost: dict[str, dict[str, Any]] = {}
        self.interrupted: Counter[str] = Counter()
        if retry:
            self.path.unlink(missing_ok=True)
        else:
            self._read(destination)
        try:
            self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise InputError(
                f"{destination}: cannot be written ({error.strerror}); choose another output folder"
            ) from error

    def _read(self, destination: Path) -> None:
        until = time.monotonic() + _WAIT_SECONDS
        # The server of a run that was killed just now needs a moment to write the end of that run.
        while (under_way := self._under_way(destination)) and time.monotonic() < until:
            time.sleep(0.1)
        for cases in under_way.values():
            self.interrupted.update(cases)

    def _under_way(self, destination: Path) -> dict[str, set[str]]:
        """The cases under way in every run that wrote no end; also collects the cases whose readers crashed."""
        under_way: dict[str, set[str]] = {}
        for path in (destination / "failed.jsonl", self.path):
            for line in _lines(path):
                if "lost" in line:
                    self.lost[str(line.get("header", line.get("case")))] = line
                elif "began" in line:
                    under_way.setdefault(str(line.get("run")), set()).add(str(line["began"]))
                elif "done" in line:
                    under_way.get(str(line.get("run")), set()).discard(str(line["done"]))
                elif "over" in line:
                    under_way.pop(str(line.get("run")), None)
        return under_way

    @property
    def end_line(self) -> str:
        """The last line of this run."""
        return json.dumps({"run": self.run, "over": True})

    def reason_to_skip(self, name: str, stamp: str | None) -> str | None:
        """Why a case is not tried: its reader crashed on the same files, or two runs ended while it was read."""
        earlier = self.lost.get(name)
        if earlier is not None and earlier["lost"] == stamp:
            return str(earlier["error"]).removesuffix(_RETRY) + _RETRY
        if self.interrupted[name] > 1:
            return f"{self.interrupted[name]} runs ended with all their processes while it was read{_RETRY}"
        return None

    def began(self, name: str) -> None:
        """Record the start of a task."""
        self._write({"run": self.run, "began": name})

    def done(self, name: str, row: Mapping[str, Any] | None = None) -> None:
        """Record the end of a task, and the ``row`` of a case whose reader crashed."""
        self._write({"run": self.run, "done": name})
        if row is not None and "lost" in row:
            self._write({key: value for key, value in row.items() if key != "message"})

    def _write(self, line: Mapping[str, Any]) -> None:
        with suppress(OSError):  # a full disk is reported when the case is written
            os.write(self.file, json.dumps(line).encode() + b"\n")

    def close(self, finished: bool) -> None:
        """End the run; the failures of a ``finished`` run are in ``failed.jsonl``, so its journal is removed."""
        with suppress(OSError):
            os.write(self.file, f"{self.end_line}\n".encode())
        os.close(self.file)
        if finished or not self._worth_keeping():
            self.path.unlink(missing_ok=True)

    def _worth_keeping(self) -> bool:
        return bool(self.interrupted) or any("lost" in line for line in _lines(self.path))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines."""
    found = []
    with suppress(OSError):
        if path.is_file():
            for text in path.read_bytes().split(b"\n"):
                with suppress(ValueError):
                    line = json.loads(text)
                    if isinstance(line, dict):
                        found.append(line)
    return found
