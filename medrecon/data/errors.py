"""The exception for unusable input, and texts of messages."""

import errno
import logging
import re
from collections.abc import Iterable, Sequence

__all__ = [
    "DAMAGE",
    "InputError",
    "NotCartesianError",
    "SelectionError",
    "grouped_texts",
    "innermost",
    "list_names",
    "one_line",
    "os_error_advice",
    "redacted",
    "warn",
]

DAMAGE = (Exception,)
"""What libraries raise for damaged files: errors of every kind, some derived directly from ``Exception``."""


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
"""Memory address in a message, which differs between runs."""


def innermost(error: BaseException) -> BaseException:
    """The first ``InputError`` in a chain of causes, otherwise the original cause."""
    while not isinstance(error, InputError) and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error


def one_line(error: BaseException | str) -> str:
    """An error of a library, or its text, on one line, never empty."""
    return " ".join(_ADDRESS.sub("", str(error)).split())[:200] or type(error).__name__


def os_error_advice(error: OSError, otherwise: str) -> str:
    """Advice for an ``OSError``, by its code."""
    advice = {
        errno.ENOSPC: "free space, or write to another disk",
        errno.EDQUOT: "free space, or write to another disk",
        errno.EACCES: "check its permissions",
        errno.EPERM: "check its permissions",
        errno.EROFS: "write to another folder",
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "check the path",
        errno.ELOOP: "check the path",
        errno.ENAMETOOLONG: "give a shorter name",
        errno.EIO: "check the disk, or copy it again",
        errno.EMFILE: "allow more open files (ulimit -n)",
    }
    return advice.get(error.errno or 0, otherwise)


def redacted(error: BaseException) -> str:
    """An error of a library on one line, without the values that it quotes, which may identify a patient."""
    text = " ".join(_ADDRESS.sub("", str(error)).partition("Traceback (most")[0].split())
    for mark in "'\"":  # from the first mark to the last, because quoted text may contain marks
        first, _, rest = text.partition(mark)
        text = f"{first}...{rest.rpartition(mark)[2]}" if mark in rest else text
    return re.sub(r"\w*\^[\w^]*", "...", text)[:200] or type(error).__name__


def list_names(names: Iterable[object]) -> str:
    """Names from a file for a message: at most eight, short and printable."""
    shown = ["".join(c if c.isprintable() else "?" for c in str(name))[:40] for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") or "nothing"


def grouped_texts(items: Sequence[tuple[int, str]], n: int) -> list[str]:
    """Distinct texts of slices, each with the numbers of its slices unless it applies to all ``n``."""
    texts: dict[str, list[int]] = {}
    for number, text in items:
        texts.setdefault(text, []).append(number)
    return [
        text if len(where) == n else f"{text} (slice{'s' * (len(where) > 1)} {', '.join(map(str, where))})"
        for text, where in texts.items()
    ]


def warn(text: str) -> None:
    """Log a warning with the logger ``medrecon``."""
    logging.getLogger("medrecon").warning(text)


class InputError(ValueError):
    """Unusable input. The message is one sentence: the file (or argument), what is wrong and what to do.

    The command line prints it and exits with code 2.
    """


class NotCartesianError(InputError):
    """Non-Cartesian raw data where Cartesian data were expected."""


class SelectionError(InputError):
    """Several images where one was expected; the message explains how to select one."""
