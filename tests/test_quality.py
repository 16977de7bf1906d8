"""Evaluations and settings by acceleration and quality: choice of a row, what overrides what, acceleration of a scan."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medrecon.bundle import load_prior
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, DynamicScan, ImageScan, NonCartesianScan, Sinogram
from medrecon.noise import karras
from medrecon.posterior import LADDER_KEYS, sampling
from medrecon.problems import physics_of, problem
from medrecon.quality import QualityRow, choose_row, default_steps
from medrecon.settings import QUALITIES, SamplingSettings
from medrecon.solvers import DDS

from .make.priors import toy_prior

ROWS = [
    QualityRow(acceleration=4.0, quality="fast", steps=8, settings={"extrapolation": 1.0, "sigma_max": 0.3}),
    QualityRow(acceleration=4.0, quality="standard", steps=12, settings={"extrapolation": 0.8, "spacing": 5.0}),
    QualityRow(acceleration=4.0, quality="best", steps=50),
    QualityRow(acceleration=9.0, quality="fast", steps=12, settings={"n_cg": 3}),
    QualityRow(acceleration=9.0, quality="standard", steps=24),
    QualityRow(acceleration=9.0, quality="best", steps=100),
]
TUNED = {"dds": {"sigma_max": 2.0, "n_cg": 7}}


def planned(acceleration: float | None = 4.2, rows=ROWS, **settings) -> Any:
    prior = toy_prior(tuned=TUNED, quality={"dds": rows}, acceleration=acceleration)
    return sampling(SamplingSettings(**settings), prior)


@pytest.mark.parametrize(
    ("acceleration", "quality", "steps", "expected"),
    [
        (1.0, None, None, (4.0, "standard")),
        (5.9, None, None, (4.0, "standard")),  # nearest by ratio: 6 is in the middle of 4 and 9
        (6.1, None, None, (9.0, "standard")),
        (1000.0, "fast", None, (9.0, "fast")),
        (4.0, "best", 3, (4.0, "best")),  # a quality that was asked for keeps its settings
        (4.0, None, 1, (4.0, "fast")),
        (4.0, None, 11, (4.0, "standard")),
        (4.0, None, 24, (4.0, "standard")),  # 24.5 is in the middle of 12 and 50
        (4.0, None, 25, (4.0, "best")),
        (9.0, None, 10**6, (9.0, "best")),
    ],
)
def test_the_row_is_the_nearest(acceleration, quality, steps, expected):
    row = choose_row(ROWS, acceleration, quality, steps)
    assert row is not None and (row.acceleration, row.quality) == expected


def row_of(rows, acceleration, quality):
    row = choose_row(rows, acceleration, quality, None)
    assert row is not None
    return row


def test_without_rows_or_acceleration_everything_is_as_before():
    assert choose_row([], 4.0, "best", None) is None and choose_row(ROWS, None, "best", None) is None
    for plain in (planned(acceleration=None), planned(rows=[])):
        assert (plain.steps, plain.solver) == (50, DDS(n_cg=7))
        assert torch.equal(plain.sigmas, karras(2.0, 0.005, 50))
    assert [planned(None, quality=one).steps for one in QUALITIES] == [25, 50, 100]
    assert [default_steps(1, one) for one in (*QUALITIES, None)] == [1, 1, 2, 1]


def test_a_row_sets_evaluations_settings_and_levels():
    fast, standard, best = (planned(quality=one) for one in QUALITIES)
    assert (fast.steps, fast.solver, fast.quality) == (8, DDS(n_cg=7, extrapolation=1.0), "fast")
    assert torch.equal(fast.sigmas, karras(0.3, 0.005, 8))
    assert torch.equal(standard.sigmas, karras(2.0, 0.005, 12, 5.0)) and standard.spacing == 5.0
    assert torch.equal(best.sigmas, karras(2.0, 0.005, 50)) and best.solver == DDS(n_cg=7)
    default = planned()
    assert default.quality == "standard" and default.solver == standard.solver
    assert planned(9.0, quality="fast").solver.n_cg == 3


def test_steps_override_the_number_and_a_quality_the_settings():
    alone = planned(steps=9)
    assert (alone.steps, len(alone.sigmas), alone.quality) == (9, 10, None)
    assert alone.solver.extrapolation == 1.0  # 9 is nearer to 8 than to 12
    both = planned(steps=9, quality="best")
    assert (both.steps, both.quality, both.solver) == (9, "best", DDS(n_cg=7))
    said = planned(settings={"extrapolation": 0.25}, sigma_max=0.9, spacing=3.0)
    assert said.solver.extrapolation == 0.25
    assert torch.equal(said.sigmas, karras(0.9, 0.005, 12, 3.0))
    for plain in (planned(None, steps=9, quality="best"), planned(rows=[], steps=9, quality="best")):
        assert (plain.steps, plain.quality, plain.solver) == (9, None, DDS(n_cg=7))  # the quality changed nothing
    classical = planned(solver="tv", quality="best")
    assert classical.quality is None and classical.solver == sampling(SamplingSettings(solver="tv"), toy_prior()).solver


def test_what_suits_an_operator_comes_first():
    """Weighted non-Cartesian samples need two conjugate-gradient iterations, whatever a row was chosen with."""
    scan = NonCartesianScan(
        path=Path("r"), format="f", samples=np.ones((1, 4, 3, 16), np.complex64),
        trajectory=np.zeros((1, 3, 16, 2), np.float32), matrix=(16, 16),
    )  # fmt: skip
    one = problem(scan, physics_of(scan, maps=np.ones((4, 16, 16), np.complex64)))
    row = QualityRow(acceleration=4.0, quality="standard", steps=12, settings={"n_cg": 9, "extrapolation": 0.5})
    suited = toy_prior(tuned=TUNED, quality={"dds": [row]}).suited_to(one)
    found: Any = sampling(SamplingSettings(), suited).solver
    assert (found.n_cg, found.extrapolation) == (2, 0.5)


def test_settings_for_posterior_samples_have_their_own_number():
    prior = toy_prior(
        tuned=TUNED, quality={"dds": ROWS}, posterior={"dds": {"steps": 80, "sigma_max": 4.0}}, acceleration=4.0
    )
    found = sampling(SamplingSettings(posterior=True), prior)
    assert (found.steps, found.quality, found.solver) == (80, None, DDS())
    assert sampling(SamplingSettings(posterior=True, steps=9), prior).steps == 9
    with pytest.raises(InputError, match="leave out quality, or posterior"):
        sampling(SamplingSettings(posterior=True, quality="best"), prior)


@pytest.mark.parametrize("given", ["", "Fast", "medium", 3, ["fast"], True])
def test_other_qualities_are_refused(given):
    with pytest.raises(InputError, match="quality must be fast, standard or best"):
        planned(quality=given)


@pytest.mark.parametrize("given", [0, -1.0, math.nan, math.inf, "7", 1e9])
def test_other_spacings_are_refused(given):
    with pytest.raises(InputError, match="spacing"):
        planned(spacing=given)


def scan_of(mask):
    kspace = np.ones((1, 1, *mask.shape), np.complex64) * mask
    return CartesianScan(path=Path("a"), format="f", kspace=kspace, mask=mask)


def acceleration(scan, **options) -> Any:
    return problem(scan, physics_of(scan, **options)).acceleration


def test_acceleration_is_that_of_the_scan():
    rng = np.random.default_rng(0)
    mask = rng.permutation(24 * 20).reshape(24, 20) < 96
    assert acceleration(scan_of(mask)) == pytest.approx(5.0)
    # Spokes at the Nyquist distance cover a disk, pi / 4 of the grid, although their samples outnumber its points.
    n, shots = 32, 101
    angle, radius = np.meshgrid(np.arange(shots) * np.pi / shots, np.linspace(-n / 2, n / 2, 4 * n), indexing="ij")
    points = np.stack([radius * np.sin(angle), radius * np.cos(angle)], -1).astype(np.float32)

    def radial(trajectory):
        samples = np.ones((1, 1, *trajectory.shape[:2]), np.complex64)
        return NonCartesianScan(path=Path("r"), format="f", samples=samples, trajectory=trajectory[None], matrix=(n, n))

    every = acceleration(radial(points))
    assert every == pytest.approx(4 / math.pi, rel=0.1)  # rounding adds half a position at the rim
    dense = acceleration(radial(points[:, ::2]))  # half as many samples, at nearly the same positions
    assert dense == pytest.approx(every, rel=0.02)
    assert acceleration(radial(points[::10])) > 2 * every
    kspace = np.ones((2, 1, 1, 24, 20), np.complex64) * mask
    frames = DynamicScan(path=Path("d"), format="f", kspace=kspace, mask=np.stack([mask] * 2), axis="phase")
    assert acceleration(frames) == pytest.approx(5.0)
    lines = rng.random((1, 10, 48)).astype(np.float32)
    sinogram = Sinogram(
        path=Path("s"), format="f", sinogram=lines, angles=np.arange(10) * np.pi / 10, detector_spacing=1.0
    )
    assert acceleration(sinogram, image_size=64) == pytest.approx(math.pi / 2 * 64 / 10)
    assert acceleration(ImageScan(path=Path("i"), format="f", array=lines), noise_std=0.1) is None


@pytest.mark.parametrize("name", ["brain_mri", "chest_ct"])
def test_rows_of_the_bundles(name):
    """Evaluations rise with quality, and do not fall with acceleration."""
    rows = load_prior(name).quality["dds"]
    for one in {row.acceleration for row in rows}:
        fast, standard, best = (row_of(rows, one, quality) for quality in QUALITIES)
        assert fast.steps < standard.steps <= best.steps
        fifty = choose_row(rows, one, None, 50)  # the number of earlier versions, with their settings
        assert fifty is not None and not fifty.settings
    everywhere = {row.quality: [r.steps for r in rows if r.quality == row.quality] for row in rows}
    assert all(steps == sorted(steps) for steps in everywhere.values())  # listed by rising acceleration


def test_quality_of_the_command_line(scan, tmp_path, capsys):
    """The flag chooses the bundle's row for the scan's acceleration (2: the rows of 4), and sidecars record it."""
    path, _ = scan()
    rows = load_prior("brain_mri").quality["dds"]
    fast = row_of(rows, 2.0, "fast")
    record = {}
    for name, options in {"fast": ["--quality", "fast"], "number": ["--steps", "3"]}.items():
        assert main(["recon", str(path), "-o", str(tmp_path / name), *options]) == 0
        record[name] = json.loads((tmp_path / name / f"{path.stem}.json").read_text())
    assert record["fast"]["quality"] == "fast"
    assert record["fast"]["steps"] == record["fast"]["network_evaluations"] == fast.steps
    settings = {key: value for key, value in fast.settings.items() if key not in LADDER_KEYS}
    assert record["fast"]["solver"].items() >= settings.items()
    assert record["number"]["quality"] is None and record["number"]["network_evaluations"] == 3
    with pytest.raises(SystemExit):
        main(["recon", str(path), "-o", str(tmp_path / "o"), "--quality", "perfect"])
    assert "invalid choice: 'perfect'" in capsys.readouterr().err
    assert main(["solvers", "--settings", "--bundle", "brain_mri"]) == 0
    assert f"--quality fast, acceleration 4: {fast.steps} network evaluations" in capsys.readouterr().out
