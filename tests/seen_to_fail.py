"""Break one function at a time in a copy of the package, and see that its tests fail.

    python -m tests.seen_to_fail [--seed N] [--sample N] [--mutants N|all] [--list] [PART OF A FUNCTION'S NAME ...]

The table in ``seen_to_fail_table.py`` names functions, the tests that must fail when the function is broken, and how many of
its mutants (``mutants.py``) must be seen: all of them, or as many as are chosen at random by the seed. Not collected by
pytest: a run over the whole table takes hours, ``--sample 50`` takes minutes. Exits with 1 if a mutant survives.
"""

import argparse
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from .mutants import Mutant, find, mutants
from .seen_to_fail_table import EQUIVALENT, FUNCTIONS

ROOT = Path(__file__).parents[1]
LIMIT = 900  # s for the tests of one mutant, which may loop for ever


class Row(NamedTuple):
    """A line of the table."""

    function: str  # with the package and the module: medrecon.noise.Noise.like
    count: str  # "all" or a number
    tests: list[str]  # files and folders below tests/, the likeliest first


def rows() -> list[Row]:
    """The table."""
    lines = (line.split() for line in FUNCTIONS.strip().splitlines())
    return [Row(function, count, tests) for function, count, *tests in lines]


def locate(function: str) -> tuple[Path, str]:
    """The module's path within the repository, and the name within the module.

    Raises:
        KeyError: No module has this name.
    """
    parts = function.split(".")
    for n in range(len(parts) - 1, 0, -1):
        folder = Path(*parts[:n])
        for path in (folder.with_suffix(".py"), folder / "__init__.py"):
            if (ROOT / path).is_file():
                return path, ".".join(parts[n:])
    raise KeyError(function)


def exists(function: str) -> bool:
    """Whether the package has a function (or constant) with this dotted name."""
    try:
        path, name = locate(function)
    except KeyError:
        return False
    return find((ROOT / path).read_text(), name) is not None


def mutants_of(function: str) -> list[Mutant]:
    """All mutants of a function that differ from it.

    Raises:
        KeyError: The function does not exist.
    """
    path, name = locate(function)
    same = {description for one, description, _ in EQUIVALENT if one == function}
    found = mutants((ROOT / path).read_text(), name)
    return [mutant for mutant in found if mutant.description not in same]


def choose(row: Row, count: str, seed: int) -> list[Mutant]:
    """The mutants of a row that must be seen; the same ones whatever other rows are run."""
    found = mutants_of(row.function)
    if count == "all" or int(count) >= len(found):
        return found
    chosen = random.Random(f"{seed}:{row.function}").sample(found, int(count))
    return sorted(chosen, key=lambda mutant: mutant.number)


class Copy:
    """A copy of the repository whose tests run against its own package, in processes that tests start too."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "copy"
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(".git", ".venv*", "checkpoints", "__pycache__"))
        self.environment = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}

    def failure(self, tests: str) -> str | None:
        """The first test that fails, without its parameters ("timeout" and "import" if none ran to its end); None if all pass.

        Raises:
            RuntimeError: The tests could not be run.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", tests]
        process = subprocess.Popen(
            command, cwd=self.root, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return "timeout"
        if process.returncode == 0:
            return None
        if process.returncode not in (1, 2):
            raise RuntimeError(f"{tests}: pytest could not run these tests:\n{out[-2000:]}")
        failed = re.search(r"^(?:FAILED|ERROR) ([^\s\[]+::[^\s\[]+)", out, re.MULTILINE)
        return failed[1] if failed else "import"

    def failure_of(self, mutant: Mutant, path: Path, tests: list[str]) -> str | None:
        """The first failure with the mutant in place of the module; later tests run only if the earlier ones pass."""
        place = self.root / path
        place.write_text(mutant.mutated)
        try:
            return next(filter(None, map(self.failure, tests)), None)
        finally:
            place.write_text(mutant.text)

    @functools.cache  # noqa: B019 (one copy per run)
    def passes_unbroken(self, test: str) -> bool:
        """Whether a test that failed on a mutant passes without it."""
        return self.failure(test) is None


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.seen_to_fail", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="run only functions whose dotted name contains one of these")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="random seed (default: a new one)")
    parser.add_argument("--sample", type=int, help="number of functions, chosen at random (default: all)")
    parser.add_argument("--mutants", help="number of mutants per function, or all (default: as in the table)")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    return parser.parse_args(argv)


def selected(options: argparse.Namespace) -> list[Row]:
    """The rows that the command line selects.

    Raises:
        SystemExit: Nothing is selected, or a function of the table no longer exists.
    """
    out = [row for row in rows() if not options.names or any(name in row.function for name in options.names)]
    if not out:
        sys.exit(
            f"no function in tests/seen_to_fail_table.py contains {' or '.join(options.names)}; check the name, or add a "
            "row for it"
        )
    for row in out:
        if not exists(row.function):
            sys.exit(f"{row.function} does not exist; correct its name in tests/seen_to_fail_table.py")
    if options.sample is not None and options.sample < len(out):
        out = random.Random(options.seed).sample(out, options.sample)  # in random order: a run may be stopped early
    return out


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    chosen = [(row, choose(row, options.mutants or row.count, options.seed)) for row in selected(options)]
    total = sum(len(found) for _, found in chosen)
    print(f"seed {options.seed}: {total} mutants of {len(chosen)} functions", flush=True)
    if options.list:
        for row, found in chosen:
            print(row.function, *(f"    {mutant.number}: {mutant.description}" for mutant in found), sep="\n")
        return 0
    start, survived = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for row, found in chosen:
            path, _ = locate(row.function)
            for mutant in found:
                failed = copy.failure_of(mutant, path, [f"tests/{one}" for one in row.tests])
                if failed not in (None, "timeout", "import") and not copy.passes_unbroken(failed):
                    sys.exit(f"{failed} fails without a mutant as well; make it pass first")
                survived += [(row, mutant)] if failed is None else []
                print(
                    f"{'SURVIVED' if failed is None else 'seen'}  {row.function} {mutant.number}: {mutant.description}"
                )
                print(f"    {failed or ' '.join(row.tests)}", flush=True)
    print(f"seed {options.seed}: {total - len(survived)} of {total} mutants seen in {time.monotonic() - start:.0f} s")
    for row, mutant in survived:
        print(f"SURVIVED  {row.function} {mutant.number}: {mutant.description}")
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main())
