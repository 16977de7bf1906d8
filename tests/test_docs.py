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
