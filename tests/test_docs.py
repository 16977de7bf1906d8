"""Code in the documents runs."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = {
    f"{path.name} {i}": code
    for path in sorted(DOCS.glob("*.md"))
    for i, code in enumerate(re.findall(r"<!-- tested -->\n```python\n(.*?)```", path.read_text(), re.DOTALL))
}


def test_there_are_such_blocks():
    assert BLOCKS


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs(name):
    held: dict = {}
    exec(compile(BLOCKS[name], name, "exec"), held)
    if "misfit" in held:  # of phase retrieval: the zero image has 1, the noise 0.2 % of it
        assert held["misfit"] < 0.2


# Plain language

PLACES = ("medrecon", "docs", "bundles", "data_prep", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
NEVER = re.compile(r"\b(told|tells|lest)\b|zeros tell|for a start\b|made ready", re.IGNORECASE)


def texts():
    root = DOCS.parent
    for place in PLACES:
        path = root / place
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (
            one for one in files if one.suffix in (".py", ".md", ".yaml", ".json") and "checkpoints" not in one.parts
        )


def test_words_that_are_never_right_are_not_used():
    found = [
        f"{path}: {line.strip()[:100]}"
        for path in texts()
        for line in path.read_text(encoding="utf-8").splitlines()
        if NEVER.search(line)
    ]
    assert not found
