"""Every solver has its papers, and the papers are those that the solver's module names."""

import inspect
import re

import pytest

from medrecon.report.citations import PAPERS, SOLVER_PAPERS
from medrecon.report.methods import methods
from medrecon.solvers import SOLVERS

from ..make.reports import record


def words(text):
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def reference_text(name):
    """Docstrings of the module and of the class and its bases."""
    kind = SOLVERS[name]
    texts = [inspect.getdoc(inspect.getmodule(kind)) or ""]
    return "\n".join([*texts, *(inspect.getdoc(base) or "" for base in kind.__mro__[:3])])


def test_every_solver_of_the_registry_has_an_entry():
    assert set(SOLVER_PAPERS) == set(SOLVERS)
    assert {key for keys in SOLVER_PAPERS.values() for key in keys} <= set(PAPERS)


@pytest.mark.parametrize("name", [name for name, keys in SOLVER_PAPERS.items() if keys])
def test_papers_are_those_of_the_solvers_module(name):
    """The first author or the title, and the year of one of the papers; arXiv numbers must be equal."""
    text = reference_text(name)
    papers = [PAPERS[key] for key in SOLVER_PAPERS[name]]
    assert any(re.match(r"[A-Za-z-]+", one.text)[0] in text for one in papers), name
    years = [re.search(r"(19|20)\d\d", one.text)[0] for one in papers]
    numbers = [one.address.rpartition("/")[2] for one in papers if "arxiv" in one.address]
    stated = re.findall(r"arXiv (\d{4}\.\d{5})", text)
    assert any(year in text for year in years) or set(numbers) & set(stated), name
    if stated and numbers:
        assert set(numbers) & set(stated), (name, numbers, stated)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_methods_name_the_solver_its_settings_and_its_papers(name):
    text = methods(record(solver={"name": name, "eta": 0.123456, "calibrated": False}))
    assert f"Solver: {name}" in text and "eta = 0.1235" in text
    for key in SOLVER_PAPERS[name]:
        assert PAPERS[key].address in text.replace("&lt;", "<").replace("&gt;", ">")


def test_citations_are_numbered_in_the_order_of_the_text():
    text = methods(record(), "tv")
    numbers = [int(n) for n in re.findall(r'href="#paper-(\d+)"', text)]
    firsts = list(dict.fromkeys(numbers))
    assert firsts == list(range(1, len(firsts) + 1))
    assert re.findall(r'id="paper-(\d+)"', text) == [str(n) for n in firsts]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"views": 60, "detectors": 100, "spacing_mm": 1.0}, "60 views (parallel beam, 100 detector pixels)"),
        ({"task": "superres"}, "processed by super-resolution"),
        ({"shots": 40, "readout": 128}, "40 shots of 128 samples"),
        ({"frames": 12}, "K-space of 12 frames"),
        ({"coil_images": "ssos"}, "as one image per coil"),
        ({"start": "cg-sense"}, "started from the estimate of cg-sense"),
        ({"bundle": None}, "Solver: dds"),
    ],
)
def test_methods_of_every_kind_of_data(facts, expected):
    assert expected in re.sub(r"<[^>]*>", "", methods(record(**facts)))


def test_addresses_are_of_papers():
    for paper in PAPERS.values():
        assert not paper.address or re.match(
            r"https://(doi\.org/10\.|arxiv\.org/abs/\d{4}\.\d{5}$|openreview\.net|proceedings\.mlr)", paper.address
        )
        assert re.search(r"(19|20)\d\d$", paper.text), paper.text
