"""Print a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help="e.g. medrecon completion bash > ~/.local/share/bash-completion/completions/medrecon",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script, made of the parser by shtab."""
    import shtab

    from medrecon.cli import parser

    print(shtab.complete(parser(), shell=arguments.shell))
    return 0
