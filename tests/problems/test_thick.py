"""Thin slices from thick ones: the truth, the geometry, the law of the samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry, ImageScan
from medrecon.operators.image import DOWNSAMPLING
from medrecon.problems import physics_of, problem
from medrecon.problems.thick import ThickSlices

from ..make.compare import relative_error
from ..make.toys import Smooth, solve, spec

AFFINE = np.array([[-0.9, 0, 0.1, 7.0], [0, -1.1, 0, 9.0], [0.05, 0, 4.0, -30.0], [0, 0, 0, 1]])


def thick(factors=(3, 1, 1), kernel="kspace", slices=5, noise=0.0, kind=np.float32, offset=0.0, scale=1000.0):
    """Thick slices of a smooth volume, and the volume."""
    fz, fy, fx = factors
    z = np.linspace(-1, 1, slices * fz)[:, None, None]
    y, x = np.linspace(-1, 1, 10 * fy)[:, None], np.linspace(-1, 1, 9 * fx)
    volume = np.exp(-2 * (y**2 + x**2) - z**2) * (1.2 + 0.2 * np.cos(3 * z + 2 * x))
    A = DOWNSAMPLING[kernel](volume.shape, factors, torch.float64)
    low = A(torch.from_numpy(volume)[None, None])[0, 0].numpy() * scale + offset
    low = low + noise * np.random.default_rng(0).standard_normal(low.shape)
    scan = ImageScan(
        path="thick.nii.gz", format="NIfTI", array=low.astype(kind), geometry=Geometry((4.0, 1.1, 0.9), AFFINE)
    )
    return scan, volume * scale + offset


def at(affine, z, y, x):
    return (affine @ [x, y, z, 1])[:3]


@pytest.mark.parametrize("kernel", ["kspace", "mean", "gaussian"])
@pytest.mark.parametrize("factors", [(4, 1, 1), (3, 1, 1), (2, 3, 1), (1, 2, 2)])
def test_thin_slices_lie_where_the_operator_puts_them(kernel, factors):
    """A linear ramp in mm, measured by the operator, is the ramp at the centres of the thick slices, away from the ends."""
    scan, _ = thick(factors, kernel, slices=9)
    found = problem(scan, physics_of(scan, task="superres", factor=factors, kernel=kernel, noise_std=1.0)).geometry
    fine = tuple(n * f for n, f in zip(scan.array.shape, factors, strict=True))
    assert found.spacing == pytest.approx([s / f for s, f in zip((4.0, 1.1, 0.9), factors, strict=True)])
    # Steps of the affine are the old ones, divided by the factors.
    steps = [AFFINE[:3, 2 - axis] / f for axis, f in enumerate(factors)]
    for axis, step in enumerate(steps):
        assert np.allclose(found.affine[:3, 2 - axis], step)
    zz, yy, xx = np.meshgrid(*map(np.arange, fine), indexing="ij")
    for row in found.affine[:3]:
        ramp = torch.from_numpy(row[0] * xx + row[1] * yy + row[2] * zz + row[3])[None, None]
        if kernel == "kspace":
            continue  # a ramp is not band-limited; see below
        low = DOWNSAMPLING[kernel](fine, factors, torch.float64)(ramp)[0, 0].numpy()
        middle = tuple(slice(n // 2, n // 2 + 1) for n in low.shape)
        centre = at(AFFINE, *(n // 2 for n in low.shape))
        index = next(i for i in range(3) if np.array_equal(row, found.affine[i]))
        assert low[middle].item() == pytest.approx(centre[index], abs=0.02)
    if kernel == "kspace":  # index n // 2 stays where it was
        assert np.allclose(at(found.affine, *(n // 2 for n in fine)), at(AFFINE, *(n // 2 for n in scan.array.shape)))


@pytest.mark.parametrize(("kind", "images"), [(np.float32, "magnitude"), (np.complex64, "complex")])
def test_least_squares_are_the_least_norm_volume(kind, images):
    """Little regularisation: the measured slices come back, and nothing is added that they do not show."""
    scan, truth = thick((4, 1, 1), "mean", kind=kind)
    physics = {"task": "superres", "factor": (4, 1, 1), "kernel": "mean", "noise_std": 1.0}
    found = solve(scan, prior=spec(images), physics=physics, settings={"lam": 1e-7})
    assert found.image.shape == truth.shape
    assert relative_error(found.image.reshape(5, 4, 10, 9).mean(1), np.abs(scan.array)) < 1e-4
    assert relative_error(found.image.reshape(5, 4, 10, 9), np.abs(scan.array)[:, None].repeat(4, 1)) < 1e-4
    assert found.record["factor"] == [4, 1, 1]
    assert found.record["volume"] is True


def test_hounsfield_units():
    scan, truth = thick((2, 1, 1), offset=-1000.0)
    physics = {"task": "superres", "factor": (2, 1, 1), "kernel": "kspace", "noise_std": 1.0}
    found = solve(scan, prior=spec("attenuation"), physics=physics, settings={"lam": 1e-7})
    assert found.modality == "CT"
    assert np.abs(found.image - truth)[2:-2].max() < 60  # HU: what the coarse grid does not show of a smooth volume
    assert found.image.min() < -950


def test_data_and_noise_return_to_the_units_of_the_scan():
    """The residual is reported in these units; the operator maps a constant to itself times the scale of its rows."""
    scan, _ = thick(noise=1.0)
    posed = problem(scan, physics_of(scan, task="superres", factor=(3, 1, 1), noise_std=2.0))
    scaled = posed.likelihood(slice(0, 1), torch.device("cpu"))
    y, std = scaled.likelihood.y[0], scaled.likelihood.noise_std
    assert np.allclose(y.norm(dim=0).numpy() * scaled.data_scale.item(), scan.array, rtol=1e-5)
    assert abs(float(std) * scaled.data_scale.item() - 2.0) < 1e-4  # single precision


def test_samples_have_the_law_of_the_posterior():
    """White prior, the mean of two slices measured: the sum of two thin slices is known to the noise, their difference is not.

    The sum over the root of 2 has the gain ``1 / sqrt(2)``, so its variance is ``2 s^2 / (1 + 2 s^2)``; the difference has 1.
    """
    noise, std = 100.0, 0.1
    scan, _ = thick((2, 1, 1), "mean", slices=40, noise=noise, offset=-1000.0)
    physics = {"task": "superres", "factor": (2, 1, 1), "kernel": "mean", "noise_std": noise}
    x = solve(scan, "tmpd", spec("attenuation"), physics, steps=100, samples=2, settings={"n_cg": 30})
    assert x.samples.shape == (2, 80, 10, 9)
    apart = (x.samples[0] - x.samples[1]).reshape(40, 2, -1) / 2**0.5 / 1000
    means, differences = apart.sum(1) / 2**0.5, (apart[:, 0] - apart[:, 1]) / 2**0.5
    # 3600 numbers: the standard deviations are known to 1.2 %.
    assert abs(means.std() / (2 * std**2 / (1 + 2 * std**2)) ** 0.5 - 1) < 0.07
    assert abs(differences.std() - 1) < 0.07


def test_slices_are_numbered_as_thin_ones_for_their_noise():
    scan, _ = thick((3, 1, 1))
    one = problem(scan, physics_of(scan, task="superres", factor=(3, 1, 1), slices=slice(2, 4), noise_std=1.0))
    assert isinstance(one, ThickSlices)
    assert one.slices_of(slice(0, 1)) == list(range(6, 12))
    assert one.n_items == 1
    assert one.n_slices == 6
    found = solve(scan, "dds", spec("magnitude", Smooth()), {"task": "superres", "factor": [3, 1, 1], "noise_std": 1.0},
                  steps=3, z_correlation=2.0)  # fmt: skip
    assert found.image.shape == (15, 10, 9)


@pytest.mark.parametrize(
    ("solver", "factor", "planes", "warned"),
    [
        ("dds", (3, 1, 1), "axial", True),
        ("dds", (1, 2, 2), "axial", False),
        ("dds", (3, 1, 1), "axial,coronal", False),
        ("dds-3d", (3, 1, 1), "axial", False),
        ("tv", (3, 1, 1), "axial", False),
    ],
)
def test_a_warning_where_nothing_relates_thin_slices(solver, factor, planes, warned):
    scan, _ = thick(factor)
    prior = replace(spec("magnitude", Smooth()), trained_planes=("axial", "coronal")).in_planes(planes)
    steps = {} if solver == "tv" else {"steps": 2}
    physics = {"task": "superres", "factor": factor, "noise_std": 1.0}
    found = solve(scan, solver, prior, physics, **steps)
    assert any("does not relate neighbouring slices" in text for text in found.record["warnings"]) is warned


@pytest.mark.parametrize(
    ("physics", "solver", "words"),
    [
        ({"factor": (2, 1, 1), "noise_model": "rician"}, "dds", "rician is for single slices"),
        ({"factor": (2, 1, 1), "slices": slice(0, 4, 2)}, "dds", "must be adjacent"),
        ({"factor": (2, 1, 1, 1)}, "dds", r"three for \(z, y, x\)"),
        ({"factor": (0, 1, 1)}, "dds", "whole number from 1 to 64"),
        ({"factor": (2, 1, 1)}, "r2d2", "works on single slices"),
        ({"factor": (2, 1, 1)}, "ddsmc", "works on single slices"),
        ({"factor": (2, 1, 1), "strength": 2.0}, "dds", "works on single slices"),
    ],
)
def test_what_it_cannot_do(physics, solver, words):
    scan, _ = thick()
    with pytest.raises(InputError, match=words):
        solve(scan, solver, spec("magnitude"), {"task": "superres", "noise_std": 1.0, **physics})
