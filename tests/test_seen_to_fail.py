"""The table of tests.seen_to_fail names functions and tests that exist; mutants differ from the function in one place."""

import ast

import pytest

from .mutants import mutants
from .seen_to_fail import ROOT, choose, locate, main, rows
from .seen_to_fail_table import EQUIVALENT

TEXT = '''
import torch

LIMIT = 3


class Filter:
    """A class."""

    def apply(self, x, k: int = 1):
        """Do it in 2 steps."""
        if k > 2 and x is not None:
            raise ValueError(f"bad {k + 1}")
        x = torch.fft.fft(x.conj(), dim=0) * (x + k)
        return (x @ self.w).sum(k, keepdim=True)
'''


def test_every_function_exists_and_has_a_mutant():
    for row in rows():
        path, name = locate(row.function)
        assert next(mutants((ROOT / path).read_text(), name), None) is not None, f"{row.function}: nothing to break"


def test_every_row_names_a_count_and_tests_that_exist():
    for row in rows():
        assert row.count == "all" or int(row.count) > 0, row
        assert row.tests, row
        for tests in row.tests:
            assert (ROOT / "tests" / tests).exists(), row
    names = [row.function for row in rows()]
    assert names == sorted(set(names))


def test_every_equivalent_mutant_is_still_made():
    for function, description, reason in EQUIVALENT:
        path, name = locate(function)
        made = {mutant.description for mutant in mutants((ROOT / path).read_text(), name)}
        assert description in made, f"{function}: the code has changed; remove {description!r}"
        assert reason


def test_mutants_change_one_thing_and_leave_messages_and_docstrings_alone():
    made = [mutant.description for mutant in mutants(TEXT, "Filter.apply")]
    call = "x = torch.fft.fft(x.conj(), dim=0) * (x + k)"
    last = "return (x @ self.w).sum(k, keepdim=True)"
    assert made == [
        "def apply(self, x, k: int = 1): -> def apply(self, x, k: int = 2):",
        "if k > 2 and x is not None: -> if True and x is not None:",
        "if k > 2 and x is not None: -> if False:",
        "if k > 2 and x is not None: -> if True:",
        "if k > 2 and x is not None: -> if k <= 2 and x is not None:",
        "if k > 2 and x is not None: -> if k > 3 and x is not None:",
        "if k > 2 and x is not None: -> if k > 2 or x is not None:",
        "if k > 2 and x is not None: -> if k > 2 and True:",
        "if k > 2 and x is not None: -> if k > 2 and x is None:",
        'raise ValueError(f"bad {k + 1}") -> pass',
        f"{call} -> pass",
        f"{call} -> x = (x.conj()) * (x + k)",
        f"{call} -> x = torch.fft.fft(x.conj()) * (x + k)",
        f"{call} -> x = torch.fft.fft((x), dim=0) * (x + k)",
        f"{call} -> x = torch.fft.fft(x.conj(), dim=1) * (x + k)",
        f"{call} -> x = torch.fft.fft(x.conj(), dim=0) / (x + k)",
        f"{call} -> x = torch.fft.fft(x.conj(), dim=0) * (x - k)",
        f"{last} -> return (x @ self.w)",
        f"{last} -> return ((self.w) @ (x)).sum(k, keepdim=True)",
        f"{last} -> return (x @ self.w).sum(k)",
        f"{last} -> return (x @ self.w).sum(k, keepdim=False)",
    ]
    assert [mutant.number for mutant in mutants(TEXT, "Filter.apply")] == list(range(len(made)))
    assert [mutant.description for mutant in mutants(TEXT, "LIMIT")] == ["LIMIT = 3 -> LIMIT = 4"]
    for mutant in mutants(TEXT, "Filter.apply"):
        assert ast.dump(ast.parse(mutant.mutated)) != ast.dump(ast.parse(TEXT))


def test_the_seed_chooses_and_other_rows_change_nothing():
    row = next(row for row in rows() if row.function.endswith("DPS.step"))
    first = [mutant.number for mutant in choose(row, "4", 1)]
    assert first == [mutant.number for mutant in choose(row, "4", 1)] != [m.number for m in choose(row, "4", 2)]
    assert first == sorted(first)
    assert len(first) == 4


def test_functions_that_do_not_exist_are_refused(monkeypatch):
    with pytest.raises(SystemExit, match=r"no function in tests/seen_to_fail_table.py contains solvers\.none"):
        main(["--list", "solvers.none"])
    monkeypatch.setattr("tests.seen_to_fail.FUNCTIONS", "medrecon.solvers.dps.DPS.jump 3 solvers")
    with pytest.raises(SystemExit, match=r"medrecon\.solvers\.dps\.DPS\.jump does not exist; correct its name"):
        main(["--list"])
