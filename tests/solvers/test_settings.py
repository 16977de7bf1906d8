"""Solvers from a name and settings: what is found, what is refused and which name an error suggests."""

import pytest

from medrecon.data.errors import InputError
from medrecon.solvers import DDS, DPS, SOLVERS, DDNMPlus, ScoreMRI, is_unconditional
from medrecon.solvers.settings import find_solver, make_solver, name_of, setting_fields


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_is_found_by_its_name(name):
    assert name_of(SOLVERS[name]()) == name
    if is_unconditional(SOLVERS[name]):
        with pytest.raises(InputError, match=f"{name!r} draws images of the prior alone"):
            find_solver(name)
        return
    assert find_solver(name) is SOLVERS[name]
    assert make_solver(name) == SOLVERS[name]()


def test_a_solver_outside_the_registry_has_the_name_of_its_class():
    class Mine(DPS):
        pass

    assert name_of(Mine()) == "Mine"


def test_settings_are_the_fields_but_operators():
    assert set(setting_fields(DDNMPlus)) == {"eta", "n_cg"}
    assert "coils" not in setting_fields(ScoreMRI)
    assert make_solver("dds", {"gamma": 2.0, "n_cg": 3}) == DDS(gamma=2.0, n_cg=3)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dds2", {}, "unknown solver 'dds2'; did you mean 'dds'"),
        (None, {}, "unknown solver"),
        ("dds", {"gama": 2.0}, "has no setting 'gama'.*did you mean 'gamma'"),
        ("zero-filled", {"lam": 1.0}, "has no setting 'lam'; it has none"),
        ("dds", {"n_cg": 2.5}, "setting 'n_cg' of solver 'dds' must be int; got 2.5"),
        ("dds", {"n_cg": True}, "must be int"),
        ("dds", {"gamma": "2"}, "must be float"),
        ("dds", {"gamma": -1.0}, "solver 'dds': .*gamma must be in"),
        ("dds", ["gamma"], "are names and values"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, settings, message):
    with pytest.raises(InputError, match=message):
        make_solver(name, settings)
