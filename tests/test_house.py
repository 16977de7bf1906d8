"""The house: imports run downwards only, and heavy ones stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import medrecon

ROOT = Path(medrecon.__file__).parent
# Lower number, lower floor; a module may import its own floor and those below.
FLOORS = {
    "_version": 0, "data": 0, "workers": 0, "noise": 0, "operators": 0, "priors": 0,
    "likelihood": 1,
    "solvers": 2, "training": 2,
    "sample": 3,
    "posterior": 4, "networks": 4, "metrics": 4, "inferers": 4, "engines": 4, "bundle": 4, "reconstruction": 4,
    "writers": 4, "transforms": 4, "volumes": 4,
    "report": 5, "prep": 5,
    "handlers": 6, "cli": 6, "__main__": 7,
}  # fmt: skip
MONAI = {
    "metrics",
    "inferers",
    "handlers",
    "engines",
    "bundle",
    "reconstruction",
    "transforms",
    "networks",
    "prep",
    "cli",
}
SIGPY = {"data/espirit.py", "data/masks.py"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "medrecon":
                yield from (f"medrecon.{alias.name}" for alias in node.names if alias.name[0].islower())
            yield node.module


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[0] not in ("__init__.py", "bundles"):
            yield relative, relative.parts[0].removesuffix(".py"), set(imports(path))


def test_every_room_has_a_floor():
    assert {room for _, room, _ in modules()} == set(FLOORS)


def test_imports_run_downwards_only():
    for path, room, names in modules():
        for name in names:
            if name.startswith("medrecon."):
                target = name.split(".")[1]
                assert FLOORS[target] <= FLOORS[room], f"{path} imports upwards: {name}"


def test_ground_rooms_do_not_know_each_other_in_circles():
    """Operators know nobody; priors know operators' linear algebra; data knows neither."""
    allowed = {"operators": {"operators"}, "priors": {"priors", "operators"}, "noise": set(), "data": {"data"}}
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


def test_nothing_loads_torchvision():
    code = "import sys, medrecon.reconstruction, medrecon.transforms, medrecon.handlers; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
