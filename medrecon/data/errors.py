"""The one exception for input that cannot be used."""

import logging
import tokenize
import zipfile
import zlib

__all__ = ["DAMAGE", "InputError", "NotCartesianError", "SelectionError", "told", "warn"]

DAMAGE = (
    OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, EOFError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What libraries raise where a file's bytes are wrong."""


def told(error: BaseException) -> str:
    """A foreign error on one line, never empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def warn(text: str) -> None:
    """Log what may make an image wrong, by the logger ``medrecon``."""
    logging.getLogger("medrecon").warning(text)


class InputError(ValueError):
    """Bad input, told in one sentence that names the file (or argument), what is wrong and what to do.

    The command line prints it and exits with code 2.
    """


class NotCartesianError(InputError):
    """Raw data off the grid, where Cartesian ones were asked for."""


class SelectionError(InputError):
    """Several images where one was asked for; the sentence says how to select one."""
