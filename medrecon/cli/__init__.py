"""The command line, with one module per command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from medrecon.cli.arguments import COMMANDS, build_parser, parse_arguments
from medrecon.cli.options import printable, restore_threads
from medrecon.cli.streams import robust_streams
from medrecon.data.errors import InputError, one_line, os_error_advice

__all__ = ["build_parser", "main", "parse_arguments"]


def _error_text(error: OSError | MemoryError) -> str:
    """One line on an error of the system: the file, if known, the reason, and what to do."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); reconstruct fewer slices or samples at a time"
    file = f"{error.filename}: " if error.filename else ""
    advice = os_error_advice(error, "")
    return f"{file}{one_line(error.strerror or error)}{f'; {advice}' if advice else ''}"


class _Formatter(logging.Formatter):
    """``medrecon: text``, or ``medrecon: warning: text``."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        word = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"medrecon: {word}{printable(record.getMessage())}"


@contextmanager
def _log_on_standard_error(verbosity: int) -> Iterator[None]:
    """Print the package's log messages while a command runs.

    Args:
        verbosity: 0 for information and warnings, positive for details as well, negative for errors only.
    """
    logger, handler = logging.getLogger("medrecon"), logging.StreamHandler()
    handler.setFormatter(_Formatter())
    level = logging.INFO if verbosity == 0 else logging.DEBUG if verbosity > 0 else logging.ERROR
    handler.setLevel(level)
    before = logger.level
    logger.setLevel(min(level, logging.WARNING))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    A command continues if the program that reads its output ends first.

    Returns:
        0 if it succeeded, 1 if a part failed, 2 for bad input, which is described in one sentence on standard error.
    """
    try:
        with robust_streams():
            return _run(list(sys.argv[1:] if argv is None else argv))
    except OSError as error:  # of the standard streams
        with suppress(OSError, AttributeError):
            print(f"medrecon: error: {_error_text(error)}", file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    arguments = argparse.Namespace(debug="--debug" in argv)
    try:
        arguments = parse_arguments(argv)
        with _log_on_standard_error(arguments.verbose - arguments.quiet):
            try:
                return COMMANDS[arguments.command].run(arguments) or 0
            finally:
                restore_threads()
    except InputError as error:
        if arguments.debug:
            raise
        print(f"medrecon: error: {error}", file=sys.stderr)
        return 2
    except (OSError, MemoryError) as error:
        if arguments.debug:
            raise
        print(f"medrecon: error: {_error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("medrecon: interrupted", file=sys.stderr)
        return 130
