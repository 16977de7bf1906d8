"""Options that several commands share."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Progress", "add_compute", "add_select", "choice", "natural", "quiet", "set_up", "value"]


def add_compute(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--seed`` and ``--threads``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--seed", type=natural, default=0, help="of all random numbers (default: 0)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: all cores)")


def add_select(parser: argparse.ArgumentParser) -> None:
    """``--select``, into a dictionary."""
    parser.add_argument(
        "--select", type=choice, action="append", default=[], metavar="NAME=VALUE",
        help="of several, e.g. contrast=0 (ISMRMRD: contrast, phase, repetition, set, dataset; DICOM: any attribute, NAME= for "
        "those without it; DICOM and NIfTI: volume, counted from 0); repeatable",
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


def _positive(text: str) -> int:
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


def quiet() -> None:
    """Silence third parties' import warnings."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="monai")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its cache lies, in a home that cannot be written


def set_up(arguments: argparse.Namespace) -> None:
    """Apply ``--threads``, quietly."""
    quiet()
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)


class Progress:
    """A bar on standard error (where a person watches), fed with (done, in all)."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: Any = None

    def __enter__(self) -> Callable[[int, int], None]:
        from tqdm import tqdm

        self.bar = tqdm(desc=self.what, unit="step", disable=None, leave=False)
        return self.update

    def update(self, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
