"""The command line: one module per command; heavy imports happen inside a command, never for the help."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from medrecon._version import __version__
from medrecon.cli import demo, evaluate, info, prep, recon, solvers, undersample
from medrecon.cli.streams import lasting
from medrecon.data.errors import InputError, advised, one_line

__all__ = ["main", "parser"]

COMMANDS = {
    "demo": demo,
    "info": info,
    "prep": prep,
    "undersample": undersample,
    "recon": recon,
    "evaluate": evaluate,
    "solvers": solvers,
}


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    out = argparse.ArgumentParser(
        prog="medrecon",
        description="Medical image reconstruction with diffusion priors and classical solvers. Research use only.",
    )
    out.add_argument("--version", action="version", version=f"medrecon {__version__}")
    out.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = out.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        about = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=about, description=about)
        module.add_arguments(command)
    return out


def _sentence(error: OSError | MemoryError) -> str:
    """What the system refused, with the file where it names one, and what to do where that is clear."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); reconstruct fewer slices or samples at a time"
    where = f"{error.filename}: " if error.filename else ""
    advice = advised(error, "")
    return f"{where}{one_line(error.strerror or error)}{f'; {advice}' if advice else ''}"


@contextmanager
def _warnings_on_standard_error() -> Iterator[None]:
    """Print our own warnings while a command runs."""
    logger, handler = logging.getLogger("medrecon"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("medrecon: warning: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0: done, 1: done in part, 2: bad input, with one sentence on standard error.

    Whoever reads the output may stop before its end: the work goes on, and the code is that of the work.
    """
    try:
        with lasting():
            arguments = parser().parse_args(argv)
            arguments.argv = list(sys.argv[1:] if argv is None else argv)
            return _run(arguments)
    except OSError as error:  # of the standard streams themselves
        with suppress(OSError, AttributeError):
            print(f"medrecon: error: {_sentence(error)}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    try:
        with _warnings_on_standard_error():
            return COMMANDS[arguments.command].run(arguments) or 0
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
