"""The house: imports run downwards only, and heavy ones stay where they belong."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import medrecon
from tests import counts

ROOT = Path(medrecon.__file__).parent
TESTS = Path(__file__).parent
# By floor, the lowest first, as in the chart of CONTRIBUTING.md. A module may import its own floor and those below.
ROOMS = [
    "_version angles calibration_file conformal coverage data workers noise operators priors settings",
    "likelihood blur joint_maps formats networks weights",
    "solvers training",
    "sample problems quality uncertainty slabs",
    "posterior record prior_file",
    "writers volumes bundle calibrate",
    "reconstruction",
    "metrics inferers engines monai_bundle transforms torchscript bundle_checks",
    "report prep",
    "handlers",
    "workflows cli",
    "__main__",
]
FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms.split()}
MONAI = {"metrics", "inferers", "handlers", "engines", "monai_bundle", "transforms", "prep"}
MONAI |= {"torchscript", "bundle_checks", "workflows"}
SIGPY = {"data/espirit.py", "data/masks.py"}


def is_room(name):
    return (ROOT / f"{name}.py").is_file() or (ROOT / name).is_dir()


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # ``from medrecon import x`` imports the room x, or else what the package itself offers.
            rooms = [f"medrecon.{alias.name}" for alias in node.names if is_room(alias.name)]
            yield from rooms if node.module == "medrecon" else ()
            if node.module != "medrecon" or len(rooms) < len(node.names):
                yield node.module


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[0] not in ("__init__.py", "bundles"):
            yield relative, relative.parts[0].removesuffix(".py"), set(imports(path))


def test_every_room_has_a_floor():
    assert {room for _, room, _ in modules()} == set(FLOORS)


def test_the_chart_in_contributing_shows_these_floors():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    chart = re.search(r"Imports run downwards only.*?```\n(.*?)```", text, re.DOTALL).group(1)
    rows = [re.split(r"\s{2,}", line)[0].split() for line in chart.splitlines()]
    assert [set(row) for row in reversed(rows)] == [set(rooms.split()) for rooms in ROOMS]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import medrecon", {"medrecon"}),
        ("import medrecon.solvers.dps", {"medrecon.solvers.dps"}),
        ("from medrecon import solvers", {"medrecon.solvers"}),
        ("from medrecon import InputError, solvers", {"medrecon", "medrecon.solvers"}),
        ("from medrecon import reconstruct", {"medrecon"}),
        ("from medrecon.solvers import DPS", {"medrecon.solvers"}),
    ],
)
def test_every_way_to_import_is_seen(tmp_path, line, expected):
    (tmp_path / "m.py").write_text(line)
    assert set(imports(tmp_path / "m.py")) == expected


def test_imports_run_downwards_only():
    for path, room, names in modules():
        # The package imports everything; within it, the version comes from _version and the rest from its own room.
        assert "medrecon" not in names, f"{path} imports the package from within"
        for name in names:
            if name.startswith("medrecon."):
                target = name.split(".")[1]
                assert FLOORS[target] <= FLOORS[room], f"{path} imports upwards: {name}"


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def import_graph(root, package):
    """Imports between the modules of a package, also those inside functions, without those for type checkers only."""
    names = {path: ".".join((package, *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py")}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}

    def statements(node):
        for child in node.orelse if is_type_checking(node) else ast.iter_child_nodes(node):
            yield child
            yield from statements(child)

    def imported(path):
        for node in statements(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield whole if whole in modules_of_package else node.module

    modules_of_package = set(names.values())
    return {name: (set(imported(path)) & modules_of_package) - {name} for path, name in names.items()}


def circles(graph):
    """Groups of modules that import each other: the strongly connected components of a graph, of two modules or more."""

    def reachable(start):
        seen, stack = set(), [start]
        while stack:
            new = graph[stack.pop()] - seen
            seen |= new
            stack.extend(new)
        return seen

    below = {name: reachable(name) for name in graph}
    groups = {
        frozenset(other for other in below[name] if name in below[other]) for name in graph if name in below[name]
    }
    return sorted(sorted(group) for group in groups)


def test_no_modules_import_each_other_in_a_circle():
    assert circles(import_graph(ROOT, "medrecon")) == []


def test_circles_are_found(tmp_path):
    (tmp_path / "a.py").write_text("def f():\n    from p.b import g")
    (tmp_path / "b.py").write_text("from p import c")
    (tmp_path / "c.py").write_text("import p.a")
    (tmp_path / "d.py").write_text(
        "from typing import TYPE_CHECKING\nimport p.e\nif TYPE_CHECKING:\n    import p.a\nelse:\n    import p.c"
    )
    (tmp_path / "e.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.d")
    graph = import_graph(tmp_path, "p")
    assert graph["p.d"] == {"p.e", "p.c"}
    assert circles(graph) == [["p.a", "p.b", "p.c"]]


def test_ground_rooms_do_not_know_each_other_in_circles():
    """Operators import angles only, priors operators, and formats data."""
    allowed = {
        "operators": {"operators", "angles"},
        "priors": {"priors", "operators"},
        "noise": set(),
        "data": {"data"},
        "formats": {"formats", "data", "angles"},
        "_version": set(),
        "angles": set(),
    }
    for path, room, names in modules():
        if room in allowed:
            used = {name.split(".")[1] for name in names if name.startswith("medrecon.")}
            assert used <= allowed[room], f"{path} uses {used - allowed[room]}"


def test_third_parties_stay_in_their_rooms():
    for path, room, names in modules():
        top = {name.split(".")[0] for name in names}
        assert "torchvision" not in top
        assert not top & {"monai", "ignite"} or room in MONAI, f"{path} imports monai"
        assert "sigpy" not in top or str(path) in SIGPY, f"{path} imports sigpy"
        assert "matplotlib" not in top or room in ("report", "cli"), f"{path} imports matplotlib"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_nothing_heavy(argument):
    code = (
        "import sys; from medrecon.cli import main\n"
        f"try: main(['{argument}'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'monai', 'numpy', 'nibabel', 'h5py'} & set(sys.modules)), file=sys.stderr)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import medrecon",
        "from medrecon.bundle import load_prior; load_prior('brain_mri').network()",
        "from medrecon.cli import main; assert main(['solvers', '--settings', '--bundle', 'brain_mri']) == 0",
    ],
)
def test_a_prior_is_read_without_monai(code):
    code = f"import sys; {code}; assert not {{'monai', 'ignite'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_nothing_loads_torchvision():
    code = "import sys, medrecon.reconstruction, medrecon.transforms, medrecon.handlers; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# Tests mirror the package: tests/<folder>/test_<module>.py, or the shared suite named here.
SHARED_SUITES = {
    "angles": "problems/test_tomography.py",
    "bundle_checks": "test_zoo.py",
    "cli/bundle": "test_zoo.py",
    "cli/cases": "cli/test_several.py",
    "cli/completion": "cli/test_cli.py",
    "cli/config": "cli/test_log.py",
    "cli/demo": "cli/test_cli.py",
    "cli/info": "cli/test_cli.py",
    "cli/options": "cli/test_arguments.py",
    "cli/prep": "prep/test_runner.py",
    "cli/recon": "cli/test_cli.py",
    "cli/reconstruct": "cli/test_cli.py",
    "cli/solvers": "cli/test_cli.py",
    "cli/streams": "cli/test_arguments.py",
    "cli/undersample": "cli/test_cli.py",
    "cli/worker": "cli/test_several.py",
    "data/arguments": "cli/test_arguments.py",
    "data/errors": "formats/test_hostile.py",
    "data/geometry": "formats/test_ismrmrd.py",
    "data/names": "formats/test_hostile.py",
    "data/passes": "formats/test_mapped.py",
    "data/phantom": "data/test_espirit.py",
    "data/scan": "formats/test_registry.py",
    "data/yaml_files": "test_prior_file.py",
    "engines": "training/test_training.py",
    "formats/acquisitions": "formats/test_ismrmrd.py",
    "formats/attributes": "formats/test_hostile.py",
    "formats/bart": "formats/test_arrays.py",
    "formats/calgary_campinas": "prep/test_runner.py",
    "formats/cartesian": "data/test_sampling.py",
    "formats/centre": "formats/test_header.py",
    "formats/companions": "formats/test_registry.py",
    "formats/contents": "cli/test_advice.py",
    "formats/fastmri": "formats/test_header.py",
    "formats/frames": "formats/test_registry.py",
    "formats/hdf5": "formats/test_hostile.py",
    "formats/kinds": "formats/test_registry.py",
    "formats/limits": "formats/test_hostile.py",
    "formats/matlab": "formats/test_arrays.py",
    "formats/numpy_files": "formats/test_arrays.py",
    "formats/probe": "formats/test_registry.py",
    "formats/scrub": "formats/test_hostile.py",
    "formats/selecting": "formats/test_ismrmrd.py",
    "formats/sinograms": "problems/test_tomography.py",
    "formats/stored": "formats/test_arrays.py",
    "handlers": "training/test_training.py",
    "monai_bundle": "cli/test_arguments.py",
    "operators/base": "operators/test_operators.py",
    "operators/bridge": "operators/test_operators.py",
    "operators/density": "operators/test_nufft.py",
    "operators/fbp": "operators/test_ct.py",
    "operators/nufft_backends": "operators/test_nufft.py",
    "operators/projector": "operators/test_ct.py",
    "operators/weights": "operators/test_operators.py",
    "prep/cases": "prep/test_jobs.py",
    "prep/cluster": "prep/test_jobs.py",
    "prep/journal": "prep/test_jobs.py",
    "prep/options": "prep/test_runner.py",
    "prep/pseudonyms": "prep/test_jobs.py",
    "prep/recipes": "prep/test_runner.py",
    "prep/worker": "prep/test_jobs.py",
    "problems/base": "problems/test_problems.py",
    "record": "solvers/test_calibration.py",
    "cli/report": "report/test_gather.py",
    "report/baselines": "report/test_gather.py",
    "report/case": "report/test_page.py",
    "report/controls": "report/test_page.py",
    "report/folder": "report/test_gather.py",
    "report/html": "report/test_page.py",
    "report/images": "report/test_page.py",
    "report/methods": "report/test_citations.py",
    "report/montage": "cli/test_cli.py",
    "report/pictures": "report/test_page.py",
    "report/plots": "report/test_page.py",
    "report/sections": "report/test_page.py",
    "settings": "problems/test_ways.py",
    "solvers/ddim": "solvers/test_samplers.py",
    "solvers/ddpm": "solvers/test_samplers.py",
    "solvers/dpmsolver": "solvers/test_samplers.py",
    "solvers/heun": "solvers/test_samplers.py",
    "solvers/langevin": "solvers/test_samplers.py",
    "solvers/repaint": "solvers/test_noising.py",
    "solvers/scoremed": "solvers/test_scoremri.py",
    "torchscript": "test_zoo.py",
    "transforms/coils": "data/test_coils.py",
    "transforms/ct": "problems/test_tomography.py",
    "transforms/kspace": "transforms/test_scan.py",
    "transforms/measure": "test_zoo.py",
    "transforms/save": "writers/test_like.py",
    "transforms/volume": "formats/test_dicom.py",
    "volumes": "cli/test_evaluate.py",
    "weights": "test_bundle.py",
    "workers": "prep/test_jobs.py",
    "workflows": "test_zoo.py",
    "writers/base": "writers/test_writers.py",
    "writers/bids": "writers/test_writers.py",
    "writers/earlier": "data/test_files.py",
    "writers/h5": "writers/test_writers.py",
    "writers/mrd": "writers/test_writers.py",
    "writers/nifti": "writers/test_writers.py",
    "writers/npz": "writers/test_writers.py",
    "writers/output": "writers/test_writers.py",
    "writers/place": "writers/test_writers.py",
    "writers/png": "writers/test_writers.py",
    "writers/registry": "writers/test_writers.py",
}


def test_every_module_has_tests():
    for module in [*ROOT.glob("[!_]*.py"), *ROOT.glob("[!_]*/[!_]*.py")]:
        name = module.relative_to(ROOT).with_suffix("").as_posix()
        own = (Path(name).parent / f"test_{module.stem}.py").as_posix()
        suite = SHARED_SUITES.get(name, own)
        assert (TESTS / suite).is_file(), f"medrecon/{name}.py has no tests: write tests/{own}, or name its suite here"
        assert suite == own or not (TESTS / own).exists(), (
            f"tests/{own} exists: delete the row of {name} in SHARED_SUITES"
        )


def test_shared_suites_belong_to_modules():
    for name in SHARED_SUITES:
        assert (ROOT / f"{name}.py").is_file(), f"SHARED_SUITES names medrecon/{name}.py, which does not exist"


def test_test_modules_do_not_import_each_other():
    """What two of them need is in tests/make, where it is found."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                modules = [p for p in parts if p.startswith("test_")]
                assert not modules, f"{path.relative_to(TESTS)} imports {modules[0]}: move what it needs to tests/make"


# Sizes

EXPLAINED = {
    "transforms/simulate.py::SimulateSinogramd.__init__": "keys and allow_missing_keys of MONAI, and the array form's settings",
}


def test_functions_are_small():
    found = list(counts.functions())
    long = [name for name, lines, _ in found if lines > counts.LINES]
    assert not long, f"more than {counts.LINES} lines: {long}"
    wide = {name for name, _, parameters in found if parameters > counts.PARAMETERS}
    more, fewer = wide - set(EXPLAINED), set(EXPLAINED) - wide
    assert not more, f"more than {counts.PARAMETERS} parameters: {more}; give those that belong together a dataclass"
    assert not fewer, f"no longer an exception: {fewer}; delete it from EXPLAINED"
    assert len(EXPLAINED) <= 6


def test_calls_at_the_edge_name_their_arguments():
    calls = list(counts.positional_calls())
    assert len(calls) > 500  # they are found
    assert not [call for call in calls if call[2] > counts.POSITIONAL]


def test_sizes_are_counted_right(tmp_path):
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "m.py").write_text(
        "class A:\n    def f(self, a, /, b, *, c, **more):\n        def g(x): return x\n        return self.f(1, 2, 3, 4)\n"
    )
    assert list(counts.functions(tmp_path)) == [("cli/m.py::A.f", 3, 3), ("cli/m.py::A.f.g", 1, 1)]
    assert list(counts.positional_calls(tmp_path)) == [("cli/m.py:4", "f", 4)]
