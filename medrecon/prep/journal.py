"""What was under way: a case with which a run died twice is passed over, one whose reader crashed is not tried again."""

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

_AGAIN = "; give --retry to try it again"
_PATIENCE = 3.0


class Journal:
    """A file in the destination, written line by line while a run lasts.

    Children protect a run from its readers. What they do not protect it from is the machine: all memory used up, a driver that
    hangs. Then the run dies with its children, and the case under way stands in the journal. At the next start it comes last and
    alone; if that run dies of it too, it is passed over. A run that was merely killed ends its journal (its server of workers
    does), so that nothing is held against a case.

    Args:
        destination: folder of the results.
        retry: forget what earlier runs wrote.
    """

    def __init__(self, destination: Path, retry: bool = False) -> None:
        self.path = destination / ".journal"
        self.run = secrets.token_hex(4)
        self.lost: dict[str, dict[str, Any]] = {}
        self.deaths: Counter[str] = Counter()
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
        until = time.monotonic() + _PATIENCE
        # The server of a run that was killed just now is about to end its part.
        while (under_way := self._under_way(destination)) and time.monotonic() < until:
            time.sleep(0.1)
        for cases in under_way.values():
            self.deaths.update(cases)

    def _under_way(self, destination: Path) -> dict[str, set[str]]:
        """Of every run that has not ended its part, the cases that it had begun; what was lost is noted."""
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
    def over(self) -> str:
        """The line that ends this run's part."""
        return json.dumps({"run": self.run, "over": True})

    def known(self, name: str, stamp: str | None) -> str | None:
        """Why a case is not tried: its reader crashed before, and its files are the same; or runs died with it."""
        before = self.lost.get(name)
        if before is not None and before["lost"] == stamp:
            return str(before["error"]).removesuffix(_AGAIN) + _AGAIN
        if self.deaths[name] > 1:
            return f"{self.deaths[name]} runs ended with all their processes while it was read{_AGAIN}"
        return None

    def began(self, name: str) -> None:
        """A task starts."""
        self._write({"run": self.run, "began": name})

    def done(self, name: str, row: Mapping[str, Any] | None = None) -> None:
        """A task ended, perhaps with the ``row`` of a case whose reader crashed."""
        self._write({"run": self.run, "done": name})
        if row is not None and "lost" in row:
            self._write({key: value for key, value in row.items() if key != "said"})

    def _write(self, line: Mapping[str, Any]) -> None:
        with suppress(OSError):  # on a full disk the case itself says so
            os.write(self.file, json.dumps(line).encode() + b"\n")

    def close(self, finished: bool) -> None:
        """End the run; what a ``finished`` one knows stands in ``failed.jsonl``."""
        with suppress(OSError):
            os.write(self.file, f"{self.over}\n".encode())
        os.close(self.file)
        if finished or not self._worth_keeping():
            self.path.unlink(missing_ok=True)

    def _worth_keeping(self) -> bool:
        return bool(self.deaths) or any("lost" in line for line in _lines(self.path))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole."""
    found = []
    with suppress(OSError):
        if path.is_file():
            for text in path.read_bytes().split(b"\n"):
                with suppress(ValueError):
                    line = json.loads(text)
                    if isinstance(line, dict):
                        found.append(line)
    return found
