"""Code in the documents runs."""

import json
import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medrecon.bundle import load_prior
from medrecon.cli import main
from medrecon.data.scan import CartesianScan, DynamicScan, ImageScan, Sinogram
from medrecon.reconstruction import plan
from medrecon.transforms import RadialKSpaced
from medrecon.writers import Output, write
from tests import counts

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
    if "relative_residual" in held:  # of phase retrieval: the zero image has 1, the noise 0.2 % of it
        assert held["relative_residual"] < 0.2


# The tutorial

TUTORIAL = re.findall(r"<!-- tutorial -->\n```(python|bash)\n(.*?)```", (DOCS / "training.md").read_text(), re.DOTALL)


def test_the_tutorial_leads_from_files_to_reconstructions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    held: dict = {}
    for language, code in TUTORIAL:
        if language == "python":
            exec(compile(code, "tutorial", "exec"), held)
            continue
        for line in code.splitlines():
            program, *argv = shlex.split(line)
            assert program == "medrecon" and main(argv) == 0, f"{line}: {capsys.readouterr().err}"
    assert nibabel.load("denoised/noisy.nii.gz").shape == (64, 64, 1)
    for folder in ("mine", "learned"):
        assert load_prior(folder).weights_sha256 != load_prior("brain_mri_magnitude").weights_sha256


# Dependencies

IMPORTED_AS = {
    "PyWavelets": "pywt",
    "dicom-anonymizer": "dicomanonymizer",
    "pillow": "PIL",
    "pytorch-ignite": "ignite",
    "pyyaml": "yaml",
    "python-gdcm": "gdcm",
}


def test_the_page_on_dependencies_lists_those_of_pyproject_and_where_they_are_imported():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    required = set(project["dependencies"])
    optional = {one for extra in project["optional-dependencies"].values() for one in extra}
    tables = (DOCS / "dependencies.md").read_text().split("\n## ")[1:3]
    for listed, table, column in ((required, tables[0], 1), (optional, tables[1], 2)):
        rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
        found = [(name, row) for row in rows for name in re.findall(r"`([\w-]+)`", row[column])]
        assert {name for name, _ in found} == {re.split(r"[<>=\[]", one)[0] for one in listed} - {"medrecon"}
        for name, row in found:
            for path in re.findall(r"`([\w/]+\.py)`", row[column + 2]):
                text = (DOCS.parent / "medrecon" / path).read_text()
                assert re.search(rf"\b{IMPORTED_AS.get(name, name)}\b", text), f"{path} does not use {name}"


# Plain language


def test_words_that_are_never_right_are_not_used():
    assert not list(counts.never_right())


# The sidecar


def test_every_field_of_a_sidecar_is_explained(tmp_path):
    text = (DOCS / "sidecar.md").read_text()
    explained = set(
        re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in text.splitlines() if line[:2] == "| "))
    )
    explained |= set(re.findall(r"`(\w+)` compares", text))
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((1, 4, 40, 36)) + 1j).astype(np.complex64)
    full = CartesianScan(
        path=Path("a"), format="f", kspace=kspace, mask=np.ones(36, bool),
        noise_scan=(rng.standard_normal((4, 500)) + 1j * rng.standard_normal((4, 500))).astype(np.complex64),
    )  # fmt: skip
    lines = rng.random((1, 12, 48)).astype(np.float32)
    fan = {"beam": "fan", "source_to_axis": 500.0, "source_to_detector": 900.0}
    sinogram = Sinogram(
        path=Path("s"), format="f", sinogram=lines, angles=np.arange(12.0) / 2, detector_spacing=1.0, **fan
    )
    image = ImageScan(path=Path("i"), format="f", array=rng.random((1, 32, 32)).astype(np.float32))
    radial = RadialKSpaced("scan", spokes=40)({"scan": full})["scan"]
    frames = DynamicScan(
        path=Path("d"), format="f", kspace=full.kspace[None].repeat(2, 0), mask=np.ones((2, 40, 36), bool), axis="phase"
    )
    runs = [
        (full, {"whiten": True, "compress": 3}), (full, {"coil_images": "ssos", "solver": "scoremri", "steps": 2}),
        (radial, {}), (frames, {}), (sinogram, {"image_size": 32}), (image, {"noise_std": 0.1}),
        (image, {"task": "superres", "noise_std": 0.1}), (image, {"task": "deblur", "noise_std": 0.1}),
    ]  # fmt: skip
    for scan, options in runs:
        made = plan(scan, **{"solver": "tv", **options}).run()
        output = Output(
            folder=tmp_path, stem="x", format="png" if scan is full else "nifti", overwrite=True, request="0"
        )
        sidecar = json.loads(write(made, output)[-1].read_text())
        assert set(sidecar) <= explained, f"docs/sidecar.md does not explain {set(sidecar) - explained}"
