"""Sizes of the package: functions by lines and parameters, positional arguments at the edge, words that are never right.

    python -m tests.counts [FOLDER OF THE PACKAGE]

``tests/test_house.py`` holds the limits. Another folder, say of an older checkout, gives the counts before.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "medrecon"
LINES, PARAMETERS, POSITIONAL = 60, 8, 3
EDGE = ("cli", "formats", "prep", "problems", "writers")
DOCUMENTS = (
    "medrecon",
    "docs",
    "bundles",
    "data_prep",
    "tests",
    "benchmarks",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
NEVER = re.compile(r"\b(told|tells|lest)\b|zeros tell|for a start\b|made ready", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path = ROOT) -> Iterator[tuple[Path, ast.Module]]:
    """Modules of the package, and their syntax trees."""
    for path in sorted(root.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def functions(root: Path = ROOT) -> Iterator[tuple[str, int, int]]:
    """``path::name``, lines and parameters (without ``self``) of every function and method."""

    def within(node: ast.AST, name: str) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            inner = f"{name}{child.name}" if isinstance(child, Function | ast.ClassDef) else name
            if isinstance(child, Function):
                assert child.end_lineno is not None
                a = child.args
                named = [one.arg for one in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
                count = len(named) - (named[:1] in (["self"], ["cls"]))
                yield inner, child.end_lineno - child.lineno + 1, count
            yield from within(child, f"{inner}." if inner != name else name)

    for path, tree in sources(root):
        yield from within(tree, f"{path.relative_to(root).as_posix()}::")


def own_callables(root: Path = ROOT) -> set[str]:
    """Names of the package's functions, methods and classes."""
    return {n.name for _, tree in sources(root) for n in ast.walk(tree) if isinstance(n, Function | ast.ClassDef)}


def positional_calls(root: Path = ROOT) -> Iterator[tuple[str, str, int]]:
    """Calls at the edge to what the package itself defines: ``path:line``, what is called, positional arguments."""
    ours = own_callables(root)
    for path, tree in sources(root):
        if path.relative_to(root).parts[0] not in EDGE:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
                # Methods of arrays and loggers that happen to have a name of ours take what numpy and logging say.
                if called in ours - {"reshape", "view", "transpose", "info"}:
                    yield f"{path.relative_to(root).as_posix()}:{node.lineno}", called, len(node.args)


def documents(top: Path = ROOT.parent) -> Iterator[Path]:
    """Files in which a person reads sentences."""
    for place in DOCUMENTS:
        found = [top / place] if (top / place).is_file() else sorted((top / place).rglob("*"))
        yield from (
            p
            for p in found
            if p.suffix in (".py", ".md", ".yaml", ".json") and "checkpoints" not in p.parts and p.name != "counts.py"
        )


def never_right(top: Path = ROOT.parent) -> Iterator[str]:
    """Lines with words of the glossary that are never right."""
    for path in documents(top):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if NEVER.search(line):
                yield f"{path.relative_to(top).as_posix()}:{number}: {line.strip()[:100]}"


def main() -> None:
    """Print the counts."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    found = list(functions(root))
    long = sorted(((n, name) for name, n, _ in found if n > LINES), reverse=True)
    wide = sorted(((n, name) for name, _, n in found if n > PARAMETERS), reverse=True)
    calls = [(place, called, n) for place, called, n in positional_calls(root) if n > POSITIONAL]
    words = list(never_right(root.parent))
    print(f"{len(found)} functions, the longest {max(n for _, n, _ in found)} lines")
    print(f"{len(long)} above {LINES} lines:", *(f"\n  {n:3d}  {name}" for n, name in long))
    print(f"{len(wide)} above {PARAMETERS} parameters:", *(f"\n  {n:3d}  {name}" for n, name in wide))
    print(f"{len(calls)} calls at the edge with more than {POSITIONAL} positional arguments:")
    print(*(f"  {n:3d}  {place} {called}" for place, called, n in calls), sep="\n", end="\n" if calls else "")
    print(f"{len(words)} lines with words that are never right", *(f"\n  {line}" for line in words))


if __name__ == "__main__":
    main()
