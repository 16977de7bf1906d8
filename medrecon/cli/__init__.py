"""The command line: one module per command; heavy imports happen inside a command, never for the help."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from medrecon._version import __version__
from medrecon.cli import bundle, completion, demo, evaluate, info, prep, recon, solvers, undersample
from medrecon.cli.config import expanded
from medrecon.cli.options import restore_threads, visible
from medrecon.cli.streams import lasting
from medrecon.data.errors import InputError, advised, one_line

__all__ = ["main", "parsed", "parser"]

COMMANDS = {
    "demo": demo,
    "info": info,
    "prep": prep,
    "undersample": undersample,
    "recon": recon,
    "evaluate": evaluate,
    "solvers": solvers,
    "bundle": bundle,
    "completion": completion,
}


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    out = argparse.ArgumentParser(
        prog="medrecon",
        description="Medical image reconstruction with diffusion priors and classical solvers. Research use only.",
    )
    out.add_argument("--version", action="version", version=f"medrecon {__version__}")
    out.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _add_loudness(out, 0)
    commands = out.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        about = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=about, description=about)
        module.add_arguments(command)
        for one in (command, *_parts(command)):
            _add_loudness(one, argparse.SUPPRESS)
    return out


def _parts(command: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The commands of a command, such as ``bundle list``."""
    found = (one for one in command._actions if isinstance(one, argparse._SubParsersAction))
    return [part for one in found for part in one.choices.values()]


def _add_loudness(parser: argparse.ArgumentParser, default: object) -> None:
    """``-v`` and ``-q``, before and after the command."""
    for flags, about in (
        (("-v", "--verbose"), "say more on standard error: what was found in the data"),
        (("-q", "--quiet"), "errors alone on standard error; sidecars keep warnings"),
    ):
        parser.add_argument(*flags, action="count", default=default, help=about)


def _sentence(error: OSError | MemoryError) -> str:
    """What the system refused, with the file where it names one, and what to do where that is clear."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); reconstruct fewer slices or samples at a time"
    where = f"{error.filename}: " if error.filename else ""
    advice = advised(error, "")
    return f"{where}{one_line(error.strerror or error)}{f'; {advice}' if advice else ''}"


class _Formatter(logging.Formatter):
    """``medrecon: text``, or ``medrecon: warning: text``."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        word = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"medrecon: {word}{visible(record.getMessage())}"


@contextmanager
def _log_on_standard_error(loudness: int) -> Iterator[None]:
    """Print what this package logs while a command runs.

    Args:
        loudness: 0: information and warnings, more: details as well, less: errors alone.
    """
    logger, handler = logging.getLogger("medrecon"), logging.StreamHandler()
    handler.setFormatter(_Formatter())
    level = logging.INFO if loudness == 0 else logging.DEBUG if loudness > 0 else logging.ERROR
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
    """Run one command; 0: done, 1: done in part, 2: bad input, with one sentence on standard error.

    Whoever reads the output may stop before its end: the work goes on, and the code is that of the work.
    """
    try:
        with lasting():
            return _run(list(sys.argv[1:] if argv is None else argv))
    except OSError as error:  # of the standard streams themselves
        with suppress(OSError, AttributeError):
            print(f"medrecon: error: {_sentence(error)}", file=sys.stderr)
        return 2


def parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments of a command line, with those of a file that it names (``--config``).

    Raises:
        InputError: for such a file that cannot be used.
    """
    main_parser = parser()
    first = next((k for k, word in enumerate(argv) if word in COMMANDS), None)
    if first is not None and argv[first] == "recon":
        commands = next(one for one in main_parser._actions if isinstance(one, argparse._SubParsersAction))
        argv = [*argv[: first + 1], *expanded(argv[first + 1 :], commands.choices["recon"])]
    arguments = main_parser.parse_args(argv)
    arguments.argv = argv
    return arguments


def _run(argv: list[str]) -> int:
    arguments = argparse.Namespace(debug="--debug" in argv)
    try:
        arguments = parsed(argv)
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
        print(f"medrecon: error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("medrecon: interrupted", file=sys.stderr)
        return 130
