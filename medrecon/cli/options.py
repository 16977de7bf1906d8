"""Options that several commands share."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import TracebackType
from typing import Any, TypeAlias

__all__ = [
    "Progress",
    "add_compute",
    "add_json",
    "add_select",
    "add_settings",
    "choice",
    "given_settings",
    "natural",
    "numbers",
    "positive",
    "quiet",
    "restore_threads",
    "set_up",
    "value",
    "visible",
]

_LOGGER = logging.getLogger(__name__)
_UNDO: list[Callable[[], object]] = []

Parser: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"


def add_compute(parser: Parser) -> None:
    """``--device`` and ``--threads``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--threads", type=positive, help="CPU threads (default: all cores); sums, and so the last digits, depend on it"
    )


def add_json(parser: Parser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_settings(parser: argparse.ArgumentParser, settings: Mapping[str, type]) -> None:
    """A flag for every option of the dataclasses, in groups; an option that several have gets one.

    Args:
        parser: of the command.
        settings: dataclasses of :mod:`medrecon.settings` by the title of their group.
    """
    added: set[str] = set()
    for title, kind in settings.items():
        group = parser.add_argument_group(title)
        for one in fields(kind):
            facts = dict(one.metadata)
            flag = facts.pop("flag", f"--{one.name.replace('_', '-')}")
            if flag is None or one.name in added:
                continue
            added.add(one.name)
            if one.name in _PARSERS:
                facts["type"] = _PARSERS[one.name]
            if one.name == "settings":
                facts |= {"action": "append", "metavar": "solver.NAME=VALUE"}
            group.add_argument(flag, dest=one.name, default=argparse.SUPPRESS, **facts)


def given_settings(arguments: argparse.Namespace, settings: Mapping[str, type]) -> dict[str, Any]:
    """The options of the dataclasses that the command line gives, by name."""
    names = dict.fromkeys(one.name for kind in settings.values() for one in fields(kind))
    given = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    if "settings" in given:
        given["settings"] = _solver_settings(given["settings"])
    if isinstance(given.get("factor"), list) and len(given["factor"]) == 1:
        given["factor"] = given["factor"][0]
    return given


def _solver_settings(pairs: list[str]) -> dict[str, object]:
    """``solver.NAME=VALUE`` to names and values."""
    from medrecon.data.errors import InputError

    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        group, dot, key = name.partition(".")
        if not (equals and dot and key and group == "solver"):
            raise InputError(f"--set {pair}: expected solver.NAME=VALUE, e.g. --set solver.gamma=5")
        settings[key] = value(text)
    return settings


def _slices(text: str) -> slice:
    try:
        first, last = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B") from None
    return slice(first, last)


def _region(text: str) -> list[int]:
    try:
        (y0, y1), (x0, x1) = ([int(n) for n in part.split(":")] for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not Y0:Y1,X0:X1") from None
    return [y0, y1, x0, x1]


def _factor(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not F or FY,FX") from None


def numbers(name: str, text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        InputError: for other text.
    """
    from medrecon.data.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} {text}: expected whole numbers with commas between them, e.g. 256,256") from None


def add_select(parser: Parser) -> None:
    """``--select``, into a dictionary."""
    parser.add_argument(
        "--select", type=choice, action="append", default=[], metavar="NAME=VALUE",
        help="of several, e.g. contrast=0 (ISMRMRD: contrast, phase, repetition, set, dataset; DICOM: any attribute, NAME= for "
        "those without it; images: volume, counted from 0); repeatable",
    )  # fmt: skip


def choice(text: str) -> tuple[str, int | str]:
    """``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, int(value)
    except ValueError:
        return name, value


def positive(text: str) -> int:
    """A number of threads or processes."""
    value = int(text)
    if not 1 <= value <= 4096:
        raise argparse.ArgumentTypeError("must be from 1 to 4096")
    return value


def natural(text: str) -> int:
    """A seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError("must be from 0 to 4294967295")
    return value


def value(text: str) -> object:
    """What stands behind ``NAME=`` of ``--set``: JSON, Python's None, True and False, else text."""
    import json

    try:
        return json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError):  # not JSON, a number of thousands of digits, or nested without end
        return text


def visible(text: str) -> str:
    """On one line, with nothing that moves the cursor: names of files may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_PARSERS: dict[str, Callable[[str], Any]] = {"slices": _slices, "region": _region, "factor": _factor, "seed": natural}


def quiet() -> None:
    """Silence third parties' import warnings."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="monai")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its cache lies, in a home that cannot be written


def set_up(arguments: argparse.Namespace) -> None:
    """Apply ``--threads``, quietly: of torch, and of numpy's and scipy's linear algebra, whose sums depend on it."""
    quiet()
    import torch

    if arguments.threads:
        import scipy.linalg  # noqa: F401 - its library must be loaded to be limited
        from threadpoolctl import threadpool_limits

        before = torch.get_num_threads()
        torch.set_num_threads(arguments.threads)
        limits = threadpool_limits(arguments.threads, "blas")
        _UNDO.extend([lambda: torch.set_num_threads(before), limits.restore_original_limits])


def restore_threads() -> None:
    """Undo ``--threads``: a program that calls a command goes on as it was."""
    while _UNDO:
        _UNDO.pop()()


class Progress:
    """A bar on standard error where a person watches; else a line in the log now and then. Fed with (done, in all)."""

    EVERY = 30.0
    """Seconds between lines in a log."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: Any = None
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Callable[[int, int], None]:
        from tqdm import tqdm

        self.bar = tqdm(desc=self.what, unit="step", disable=None, leave=False)
        return self.update

    def update(self, done: int, total: int) -> None:
        """Move the bar, or log."""
        now = time.monotonic()
        if self.bar.disable and now - self.last >= self.EVERY and done < total:
            self.last, took = now, now - self.began
            left = took / max(done, 1) * (total - done)
            _LOGGER.info("%s: %d of %d steps in %.0f s, about %.0f s to go", self.what, done, total, took, left)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
