"""The one exception for input that cannot be used."""

import errno
import logging
import re
from collections.abc import Iterable, Sequence

__all__ = [
    "DAMAGE",
    "InputError",
    "NotCartesianError",
    "SelectionError",
    "advised",
    "grouped_texts",
    "innermost",
    "listed",
    "one_line",
    "redacted",
    "warn",
]

DAMAGE = (Exception,)
"""What libraries raise where a file's bytes are wrong: errors of every kind, some derived from ``Exception`` alone."""


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
"""In memory; it differs from run to run."""


def innermost(error: BaseException) -> BaseException:
    """An error of ours, or else the first cause, freed from what libraries wrapped round it."""
    while not isinstance(error, InputError) and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error


def one_line(error: BaseException | str) -> str:
    """A foreign error, or its text, on one line, never empty."""
    return " ".join(_ADDRESS.sub("", str(error)).split())[:200] or type(error).__name__


def advised(error: OSError, otherwise: str) -> str:
    """What to do where the system refused a file for that reason."""
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
    """A foreign error on one line without the values that it quotes, which may be of the patient."""
    text = " ".join(_ADDRESS.sub("", str(error)).partition("Traceback (most")[0].split())
    for mark in "'\"":  # from the first mark to the last: what is quoted may hold marks itself
        first, _, rest = text.partition(mark)
        text = f"{first}...{rest.rpartition(mark)[2]}" if mark in rest else text
    return re.sub(r"\w*\^[\w^]*", "...", text)[:200] or type(error).__name__


def listed(names: Iterable[object]) -> str:
    """Names from a file in a message: a few, short and printable."""
    shown = ["".join(c if c.isprintable() else "?" for c in str(name))[:40] for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") or "nothing"


def grouped_texts(items: Sequence[tuple[int, str]], n: int) -> list[str]:
    """Texts of slices, each once, with the numbers of its slices where it is not of all ``n``."""
    texts: dict[str, list[int]] = {}
    for number, text in items:
        texts.setdefault(text, []).append(number)
    return [
        text if len(where) == n else f"{text} (slice{'s' * (len(where) > 1)} {', '.join(map(str, where))})"
        for text, where in texts.items()
    ]


def warn(text: str) -> None:
    """Log what may make an image wrong, by the logger ``medrecon``."""
    logging.getLogger("medrecon").warning(text)


class InputError(ValueError):
    """Bad input, in one sentence that names the file (or argument), what is wrong and what to do.

    The command line prints it and exits with code 2.
    """


class NotCartesianError(InputError):
    """Raw data off the grid, where Cartesian ones were asked for."""


class SelectionError(InputError):
    """Several images where one was asked for; the sentence says how to select one."""
