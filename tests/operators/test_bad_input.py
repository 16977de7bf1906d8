"""Impossible input is refused with an error; it is not broadcast, rounded or returned as zeros."""

import copy
import warnings

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.operators import (
    NUFFT,
    AsComplex,
    Blur,
    Coils,
    ConeBeam,
    Detector,
    FanBeam,
    FiniteDifferences,
    OversampledFourier,
    Panel,
    ParallelBeam,
    SparseGridding,
    Warp,
    check_adjoint,
    nufft_sense,
    sense,
)
from medrecon.operators import linalg as linalg_module

from ..make.operators import coil_maps, column_mask, random_tensor, random_trajectory

DOUBLE = torch.float64


def _single(shape):
    return sense(None, column_mask(shape[-1])[None, None, None], shape, torch.complex128)


def test_channels_and_coils_that_do_not_fit():
    A = sense(coil_maps(1, 3, 8, 9), column_mask(9)[None, None, None])
    y = A(random_tensor(1, 2, 8, 9, dtype=DOUBLE))
    for image in ((1, 6, 8, 9), (1, 2, 1, 9), (1, 2, 9, 8)):
        with pytest.raises(ValueError, match=r"takes images that end in the axes \(1, 8, 9\)"):
            A(torch.zeros(image, dtype=DOUBLE))
    with pytest.raises(ValueError, match=r"takes k-space that end in the axes \(3, 8, 9\)"):
        A.adjoint(y[:, :1])
    with pytest.raises(ValueError, match="takes k-space"):
        Gaussian(A, y[:, :2], 0.1).adjoint_y  # noqa: B018
    with pytest.raises(ValueError, match="pairs of channels"):
        AsComplex()(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="pairs of channels"):
        _single((8, 9))(torch.zeros(1, 1, 8, 9, dtype=DOUBLE))
    soft = sense(random_tensor(1, 2, 3, 8, 9), column_mask(9)[None, None, None])
    with pytest.raises(ValueError, match="SoftSense takes images"):
        soft(torch.zeros(1, 2, 8, 9, dtype=DOUBLE))
    B = nufft_sense(random_trajectory(30, 8, 9), coil_maps(1, 3, 8, 9))
    with pytest.raises(ValueError, match="do not match"):
        B.adjoint(random_tensor(1, 1, 30))
    with pytest.raises(ValueError, match="do not match"):
        Coils(coil_maps(1, 3, 5, 6))(random_tensor(1, 3, 5, 6))


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"takes images \(B, C, \*\(8, 9\)\)"):
        Blur(torch.ones(3, 3), (8, 9))(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="must have shape"):
        OversampledFourier((8, 8))(torch.zeros(1, 1, 7, 7))
    with pytest.raises(ValueError, match="with these axes"):
        FiniteDifferences((-3,))(torch.zeros(1, 2, 5, 5))
    with pytest.raises(ValueError, match="warp takes images"):
        Warp(torch.zeros(1, 2, 5, 6))(torch.zeros(1, 1, 6, 5))
    A = ParallelBeam(torch.linspace(0, 3, 12), (16, 16), Detector(24))
    for wrong in ((20, 24), (12, 5)):
        with pytest.raises(ValueError, match="projection must end"):
            A.fbp(torch.zeros(1, 1, *wrong))
    with pytest.raises(ValueError, match="projection must end"):
        FanBeam(torch.linspace(0, 6.2, 40), (8, 8), 40.0, 80.0).fbp(torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nan_is_named_where_it_comes_in(wrong):
    maps = coil_maps(1, 3, 8, 9)
    maps[0, 1, 2, 3] = wrong
    mask = torch.ones(1, 1, 8, 9)
    with pytest.raises(ValueError, match="maps contain NaN"):
        sense(maps, mask)
    with pytest.raises(ValueError, match="finite"):
        nufft_sense(random_trajectory(30, 8, 9), maps)
    with pytest.raises(ValueError, match="mask contains NaN"):
        sense(coil_maps(1, 3, 8, 9), wrong * mask)
    with pytest.raises(ValueError, match="kernel contains NaN"):
        Blur(torch.full((3, 3), wrong), (8, 9))
    with pytest.raises(ValueError, match="displacement field"):
        Warp(torch.full((1, 2, 4, 4), wrong))
    for setting in ("spacing", "offset"):
        with pytest.raises(ValueError, match=f"detector {setting} must be"):
            Detector(9, **{setting: wrong})
    for setting in ({"spacing": wrong}, {"offset": (0.0, wrong)}):
        with pytest.raises(ValueError, match=f"panel {next(iter(setting))} must be"):
            Panel((5, 5), **setting)
    for beam in (
        lambda spacing: ParallelBeam(torch.zeros(2), (8, 8), spacing=spacing),
        lambda spacing: FanBeam(torch.zeros(2), (8, 8), 40.0, 80.0, spacing=spacing),
        lambda spacing: ConeBeam(torch.zeros(2), (4, 8, 8), 40.0, 80.0, Panel((5, 5)), spacing=spacing),
    ):
        with pytest.raises(ValueError, match="the spacing must be positive"):
            beam(wrong)


def test_degenerate_geometry():
    with pytest.raises(ValueError, match="at least one angle"):
        ParallelBeam(torch.zeros(0), (8, 8))
    with pytest.raises(ValueError, match="detector spacing must be positive"):
        Detector(spacing=0.0)
    with pytest.raises(ValueError, match="spacing must be positive"):
        ParallelBeam(torch.zeros(1), (8, 8), spacing=0.0)
    for shape, detectors in (((8, 8), 0), ((0, 7), 5)):
        with pytest.raises(ValueError, match="at least one pixel"):
            ParallelBeam(torch.zeros(1), shape, Detector(detectors))
    with pytest.raises(ValueError, match="empty"):
        NUFFT(torch.zeros(0, 2), (8, 8))


def test_a_matrix_that_does_not_fit_is_refused_or_not_made(monkeypatch):
    with pytest.raises(ValueError, match=r"need 5\d GB and more entries"):
        ParallelBeam(torch.linspace(0, 3, 1200), (1024, 1024), Detector(1400), keep=True)
    with pytest.warns(UserWarning, match=r"may need 5\d GB, so it is recomputed"):
        assert not ParallelBeam(torch.linspace(0, 3, 1200), (1024, 1024), Detector(1400)).keep
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not ParallelBeam(torch.linspace(0, 3, 1200), (1024, 1024), Detector(1400), keep=False).keep
        assert ParallelBeam(torch.linspace(0, 3, 5), (8, 8)).keep
    monkeypatch.setattr(linalg_module.os, "sysconf", lambda name: 1000)  # a megabyte is free
    with pytest.raises(TypeError, match="SparseGridding"):
        NUFFT(random_trajectory(20, 7, 9), (7, 9), backend="sparse")
    with pytest.raises(ValueError, match="choose backend=TableGridding"):
        NUFFT(random_trajectory(4000, 32, 32), (32, 32))
    with pytest.raises(ValueError, match=r"0.0 GB are free; give keep=False"):
        ParallelBeam(torch.linspace(0, 3, 50), (64, 64), keep=True)
    with pytest.warns(UserWarning, match="recomputed"):
        assert not ParallelBeam(torch.linspace(0, 3, 50), (64, 64)).keep


def test_double_precision_all_the_way():
    A = nufft_sense(random_trajectory(90, 7, 9), coil_maps(1, 3, 7, 9), backend=SparseGridding(2.0, 10), toeplitz=False)
    x = random_tensor(2, 2, 7, 9, dtype=DOUBLE)
    assert A(x).dtype == torch.complex128
    assert check_adjoint(A, x) < 1e-12
    B = _single((7, 9))
    assert torch.allclose(B.normal(x), B.adjoint(B(x)), atol=1e-14)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_nothing_becomes_half(half):
    """Factors and geometry stay in single precision, and a half-precision image is computed in single precision."""
    mask, image = column_mask(9)[None, None, None], torch.randn(2, 2, 8, 9)
    A = sense(coil_maps(1, 3, 8, 9).to(torch.complex64), mask)
    expected = A(image.to(half).float())
    assert torch.equal(A.to(half)(image.to(half)), expected)
    P = ParallelBeam(torch.linspace(0, 3, 11), (8, 9), keep=False)
    line = P(image)
    assert torch.equal(P.to(half)(image), line)
    assert torch.equal(
        Blur(torch.rand(3, 3), (8, 9)).to(half).spectrum.abs() > 0, torch.ones(1, 1, 8, 5, dtype=torch.bool)
    )
    ramp = torch.arange(47.0).expand(1, 1, 47, 47)
    assert torch.equal(Warp(torch.zeros(1, 2, 47, 47, dtype=half))(ramp), ramp)


def test_operators_of_parameters_can_be_copied():
    kernel = torch.rand(3, 3, requires_grad=True)
    A = Blur(kernel, (8, 9))
    x = torch.randn(1, 1, 8, 9)
    assert torch.equal(copy.deepcopy(A)(x), A(x).detach())
    maps = coil_maps(1, 3, 8, 9).requires_grad_()
    B = sense(maps, torch.ones(1, 1, 8, 9))
    z = random_tensor(1, 2, 8, 9, dtype=DOUBLE)
    assert torch.equal(copy.deepcopy(B)(z), B(z).detach())
