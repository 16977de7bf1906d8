"""The parser of the command line. Commands import heavy modules when they run, so that ``--help`` does not."""

from __future__ import annotations

import argparse

from medrecon._version import __version__
from medrecon.cli import (
    bundle,
    calibrate,
    completion,
    demo,
    evaluate,
    info,
    prep,
    recon,
    report,
    solvers,
    train,
    undersample,
)
from medrecon.cli.config import expand_config

__all__ = ["COMMANDS", "build_parser", "parse_arguments"]

COMMANDS = {
    "demo": demo,
    "info": info,
    "prep": prep,
    "train": train,
    "undersample": undersample,
    "recon": recon,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "report": report,
    "solvers": solvers,
    "bundle": bundle,
    "completion": completion,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    out = argparse.ArgumentParser(
        prog="medrecon",
        description="Medical image reconstruction with diffusion priors and classical solvers. Research use only.",
    )
    out.add_argument("--version", action="version", version=f"medrecon {__version__}")
    out.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _add_verbosity(out, 0)
    commands = out.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        for one in (command, *_subcommands(command)):
            _add_verbosity(one, argparse.SUPPRESS)
    out.set_defaults(parser=out)
    return out


def _subcommands(command: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The subcommands of a command, such as ``bundle list``."""
    actions = (one for one in command._actions if isinstance(one, argparse._SubParsersAction))
    return [subcommand for one in actions for subcommand in one.choices.values()]


def _add_verbosity(parser: argparse.ArgumentParser, default: object) -> None:
    """``-v`` and ``-q``, before and after the command."""
    for flags, text in (
        (("-v", "--verbose"), "print details of the data and the reconstruction to standard error"),
        (("-q", "--quiet"), "print only errors to standard error; sidecars still record warnings"),
    ):
        parser.add_argument(*flags, action="count", default=default, help=text)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse a command line, including the options of its ``--config`` file.

    Raises:
        InputError: if that file cannot be used.
    """
    parser = build_parser()
    first = next((k for k, word in enumerate(argv) if word in COMMANDS), None)
    if first is not None and argv[first] == "recon":
        commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        argv = [*argv[: first + 1], *expand_config(argv[first + 1 :], commands.choices["recon"])]
    arguments = parser.parse_args(argv)
    arguments.argv = argv
    return arguments
