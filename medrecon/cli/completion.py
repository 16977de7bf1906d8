"""Print a completion script for a shell."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the shell."""
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help="shell, e.g. medrecon completion bash > ~/.local/share/bash-completion/completions/medrecon",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script, which shtab generates from the parser."""
    import shtab

    print(shtab.complete(arguments.parser, shell=arguments.shell))
    return 0
