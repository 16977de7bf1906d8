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
    "count",
    "name_and_value",
    "parse_integers",
    "parse_value",
    "printable",
    "restore_threads",
    "seed",
    "set_threads",
    "settings_from",
    "silence_imports",
]

_LOGGER = logging.getLogger(__name__)
_UNDO: list[Callable[[], object]] = []

Parser: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"


def add_compute(parser: Parser) -> None:
    """``--device`` and ``--threads``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--threads", type=count, help="CPU threads (default: all cores); the last digits of results depend on it"
    )


def add_json(parser: Parser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_settings(parser: argparse.ArgumentParser, settings: Mapping[str, type]) -> None:
    """Add a flag for every option of the dataclasses; an option of several dataclasses is added once.

    Args:
        parser: parser of the command.
        settings: dataclasses of :mod:`medrecon.settings`, by the title of their group.
    """
    added: set[str] = set()
    for title, kind in settings.items():
        group = parser.add_argument_group(title)
        for one in fields(kind):
            argument = dict(one.metadata)
            flag = argument.pop("flag", f"--{one.name.replace('_', '-')}")
            if flag is None or one.name in added:
                continue
            added.add(one.name)
            if one.name in _PARSERS:
                argument["type"] = _PARSERS[one.name]
            if one.name == "settings":
                argument |= {"action": "append", "metavar": "solver.NAME=VALUE"}
            group.add_argument(flag, dest=one.name, default=argparse.SUPPRESS, **argument)


def settings_from(arguments: argparse.Namespace, settings: Mapping[str, type]) -> dict[str, Any]:
    """Options of the dataclasses that are given on the command line, by name."""
    names = dict.fromkeys(one.name for kind in settings.values() for one in fields(kind))
    given = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    if "settings" in given:
        given["settings"] = _solver_settings(given["settings"])
    if isinstance(given.get("factor"), list) and len(given["factor"]) == 1:
        given["factor"] = given["factor"][0]
    return given


def _solver_settings(pairs: list[str]) -> dict[str, object]:
    """Parse ``solver.NAME=VALUE``."""
    from medrecon.data.errors import InputError

    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        group, dot, key = name.partition(".")
        if not (equals and dot and key and group == "solver"):
            raise InputError(f"--set {pair}: expected solver.NAME=VALUE, e.g. --set solver.gamma=5")
        settings[key] = parse_value(text)
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
        raise argparse.ArgumentTypeError(f"{text!r} is not F, FY,FX or FZ,FY,FX") from None


def parse_integers(name: str, text: str) -> list[int]:
    """Integers from text such as ``256,256``.

    Args:
        name: name of the option, for the error.
        text: integers separated by commas.

    Raises:
        InputError: if the text has another form.
    """
    from medrecon.data.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} {text}: expected integers separated by commas, e.g. 256,256") from None


def add_select(parser: Parser) -> None:
    """``--select``."""
    parser.add_argument(
        "--select", type=name_and_value, action="append", default=[], metavar="NAME=VALUE",
        help="choose among several scans in a file or folder, e.g. contrast=0 (ISMRMRD: contrast, phase, repetition, set, "
        "dataset; DICOM: any attribute, or NAME= for images without it; images: volume, counted from 0); repeatable",
    )  # fmt: skip


def name_and_value(text: str) -> tuple[str, int | str]:
    """Parse ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, int(value)
    except ValueError:
        return name, value


def count(text: str) -> int:
    """Parse a number of threads or processes."""
    value = int(text)
    if not 1 <= value <= 4096:
        raise argparse.ArgumentTypeError("must be from 1 to 4096")
    return value


def seed(text: str) -> int:
    """Parse a random seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError("must be from 0 to 4294967295")
    return value


def parse_value(text: str) -> object:
    """Parse the value of ``--set NAME=VALUE``: JSON, Python's None, True and False, otherwise text."""
    import json

    try:
        return json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError):  # not JSON, a number with thousands of digits, or nested too deeply
        return text


def printable(text: str) -> str:
    """Escape control characters, which file names may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_PARSERS: dict[str, Callable[[str], Any]] = {"slices": _slices, "region": _region, "factor": _factor, "seed": seed}


def silence_imports() -> None:
    """Silence import warnings of other packages."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="monai")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # reports its cache folder if the home folder is read-only


def set_threads(arguments: argparse.Namespace) -> None:
    """Apply ``--threads`` to torch and to the linear algebra of numpy and scipy, on which the order of sums depends."""
    silence_imports()
    import torch

    if arguments.threads:
        import scipy.linalg  # noqa: F401 - its library must be loaded to be limited
        from threadpoolctl import threadpool_limits

        before = torch.get_num_threads()
        torch.set_num_threads(arguments.threads)
        limits = threadpool_limits(arguments.threads, "blas")
        _UNDO.extend([lambda: torch.set_num_threads(before), limits.restore_original_limits])


def restore_threads() -> None:
    """Undo ``--threads``, for programs that call :func:`medrecon.cli.main`."""
    while _UNDO:
        _UNDO.pop()()


class Progress:
    """A progress bar on a terminal, otherwise a line in the log now and then.

    Args:
        what: name of the work, shown before the bar.
    """

    EVERY = 30.0
    """Seconds between lines of the log."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: Any = None
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Callable[[int, int], None]:
        from tqdm import tqdm

        self.bar = tqdm(desc=self.what, unit="step", disable=None, leave=False)
        return self.update

    def update(self, done: int, total: int) -> None:
        """Move the bar, or write to the log."""
        now = time.monotonic()
        if self.bar.disable and now - self.last >= self.EVERY and done < total:
            self.last, took = now, now - self.began
            left = took / max(done, 1) * (total - done)
            _LOGGER.info("%s: %d of %d steps in %.0f s, about %.0f s to go", self.what, done, total, took, left)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
