"""What cannot be right is refused in a sentence, and not broadcast, rounded or returned as zeros."""

import copy
import math
import pickle
import warnings

import pytest
import torch

from medrecon.likelihood import Gaussian
from medrecon.operators import (
    NUFFT,
    AsComplex,
    Blur,
    CartesianMRI,
    Coils,
    ConeBeam,
    Dense,
    FanBeam,
    FiniteDifferences,
    OversampledFourier,
    ParallelBeam,
    Separable,
    Warp,
    Weights,
    check_adjoint,
    nufft_sense,
    sense,
)
from medrecon.operators import linalg as linalg_module
from medrecon.operators.linalg import cg

from .cases import _columns, _maps, _random, trajectory

DOUBLE = torch.float64


def _single(shape):
    return sense(None, _columns(shape[-1])[None, None, None], shape, torch.complex128)


def test_channels_and_coils_that_do_not_fit():
    A = sense(_maps(1, 3, 8, 9), _columns(9)[None, None, None])
    y = A(_random(1, 2, 8, 9, dtype=DOUBLE))
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
    soft = sense(_random(1, 2, 3, 8, 9), _columns(9)[None, None, None])
    with pytest.raises(ValueError, match="SoftSense takes images"):
        soft(torch.zeros(1, 2, 8, 9, dtype=DOUBLE))
    B = nufft_sense(trajectory(30, 8, 9), _maps(1, 3, 8, 9))
    with pytest.raises(ValueError, match="do not fit"):
        B.adjoint(_random(1, 1, 30))
    with pytest.raises(ValueError, match="do not fit"):
        Coils(_maps(1, 3, 5, 6))(_random(1, 3, 5, 6))


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"takes images \(B, C, \*\(8, 9\)\)"):
        Blur(torch.ones(3, 3), (8, 9))(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="must have shape"):
        OversampledFourier((8, 8))(torch.zeros(1, 1, 7, 7))
    with pytest.raises(ValueError, match="no such axes"):
        FiniteDifferences((-3,))(torch.zeros(1, 2, 5, 5))
    with pytest.raises(ValueError, match="warp takes images"):
        Warp(torch.zeros(1, 2, 5, 6))(torch.zeros(1, 1, 6, 5))
    A = ParallelBeam(torch.linspace(0, 3, 12), (16, 16), detectors=24)
    for wrong in ((20, 24), (12, 5)):
        with pytest.raises(ValueError, match="projection must end"):
            A.fbp(torch.zeros(1, 1, *wrong))
    with pytest.raises(ValueError, match="projection must end"):
        FanBeam(torch.linspace(0, 6.2, 40), (8, 8), 40.0, 80.0).fbp(torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nan_is_named_where_it_comes_in(wrong):
    maps = _maps(1, 3, 8, 9)
    maps[0, 1, 2, 3] = wrong
    mask = torch.ones(1, 1, 8, 9)
    with pytest.raises(ValueError, match="maps hold NaN"):
        sense(maps, mask)
    with pytest.raises(ValueError, match="finite"):
        nufft_sense(trajectory(30, 8, 9), maps)
    with pytest.raises(ValueError, match="mask holds NaN"):
        sense(_maps(1, 3, 8, 9), wrong * mask)
    with pytest.raises(ValueError, match="kernel holds NaN"):
        Blur(torch.full((3, 3), wrong), (8, 9))
    with pytest.raises(ValueError, match="field of displacements"):
        Warp(torch.full((1, 2, 4, 4), wrong))
    for setting in ("pitch", "offset", "spacing"):
        with pytest.raises(ValueError, match=setting):
            ParallelBeam(torch.zeros(2), (8, 8), detectors=9, **{setting: wrong})
        with pytest.raises(ValueError, match=setting):
            FanBeam(torch.zeros(2), (8, 8), 40.0, 80.0, detectors=9, **{setting: wrong})
    with pytest.raises(ValueError, match="offset"):
        ConeBeam(torch.zeros(2), (4, 8, 8), 40.0, 80.0, (5, 5), offset=(0.0, wrong))


def test_maps_must_be_complex():
    with pytest.raises(ValueError, match="must be complex"):
        sense(torch.randn(1, 3, 7, 9), torch.ones(1, 1, 7, 9))


def test_degenerate_geometry():
    with pytest.raises(ValueError, match="at least one angle"):
        ParallelBeam(torch.zeros(0), (8, 8))
    with pytest.raises(ValueError, match="pitch must be positive"):
        ParallelBeam(torch.zeros(1), (8, 8), pitch=0.0)
    with pytest.raises(ValueError, match="spacing must be positive"):
        ParallelBeam(torch.zeros(1), (8, 8), spacing=0.0)
    for shape, detectors in (((8, 8), 0), ((0, 7), 5)):
        with pytest.raises(ValueError, match="at least one pixel"):
            ParallelBeam(torch.zeros(1), shape, detectors=detectors)
    with pytest.raises(ValueError, match="empty"):
        NUFFT(torch.zeros(0, 2), (8, 8))


@pytest.mark.parametrize(
    "degrees",
    [
        [*range(21)],
        [90.0],
        [*range(80, 101)],
        [45.0, 60.0, 70.0],
        [0.5 * k for k in range(360)],
        [111.25 * k for k in range(9)],
    ],
)
def test_degrees_are_noticed(degrees):
    with pytest.raises(ValueError, match="are they degrees"):
        ParallelBeam(torch.tensor(degrees), (8, 8))


def test_radians_are_not_taken_for_degrees():
    golden = 1.9416110387 * torch.arange(12, dtype=DOUBLE)  # unwrapped, three and a half turns
    for angles in (golden, torch.arange(0.0, 3.0, 0.125), torch.arange(7.0), torch.linspace(-6.3, 6.3, 9)):
        ParallelBeam(angles, (8, 8))
    with pytest.raises(ValueError, match=r"angles % \(2 \* torch.pi\)"):  # the way out of a false alarm
        ParallelBeam(1.9416110387 * torch.arange(100), (8, 8))


def test_a_matrix_that_does_not_fit_is_refused_or_not_made(monkeypatch):
    with pytest.raises(ValueError, match=r"need 5\d GB and more entries"):
        ParallelBeam(torch.linspace(0, 3, 1200), (1024, 1024), detectors=1400, keep=True)
    with pytest.warns(UserWarning, match=r"may need 5\d GB: they are made anew"):
        assert not ParallelBeam(torch.linspace(0, 3, 1200), (1024, 1024), detectors=1400).keep
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not ParallelBeam(torch.linspace(0, 3, 1200), (1024, 1024), detectors=1400, keep=False).keep
        assert ParallelBeam(torch.linspace(0, 3, 5), (8, 8)).keep
    monkeypatch.setattr(linalg_module.os, "sysconf", lambda name: 1000)  # a megabyte is free
    with pytest.raises(ValueError, match="choose backend='torchkbnufft'"):
        NUFFT(trajectory(4000, 32, 32), (32, 32))
    with pytest.raises(ValueError, match=r"0.0 GB are free; keep=False"):
        ParallelBeam(torch.linspace(0, 3, 50), (64, 64), keep=True)
    with pytest.warns(UserWarning, match="made anew"):
        assert not ParallelBeam(torch.linspace(0, 3, 50), (64, 64)).keep


def test_settings_of_a_nufft_are_checked():
    k = trajectory(30, 8, 9)
    for settings in (
        {"oversampling": 0.8},
        {"oversampling": -1.0},
        {"oversampling": 1.0},
        {"width": 1},
        {"oversampling": 0.0},
    ):
        with pytest.raises(ValueError, match="oversampling must be"):
            NUFFT(k, (8, 9), **settings)
    with pytest.raises(ValueError, match="complex64 or complex128"):
        NUFFT(k, (8, 9), dtype=torch.float32)
    with pytest.raises(ValueError, match="three pixels"):
        NUFFT(torch.zeros(3, 2), (2, 9), backend="torchkbnufft")
    with pytest.raises(ValueError, match=r"make it with dtype=torch\.complex128"):
        NUFFT(k, (8, 9))(_random(1, 1, 8, 9))


def test_double_precision_all_the_way():
    A = nufft_sense(trajectory(90, 7, 9), _maps(1, 3, 7, 9), oversampling=2.0, width=10, toeplitz=False)
    x = _random(2, 2, 7, 9, dtype=DOUBLE)
    assert A(x).dtype == torch.complex128
    assert check_adjoint(A, x) < 1e-12
    B = _single((7, 9))
    assert torch.allclose(B.normal(x), B.adjoint(B(x)), atol=1e-14)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_nothing_becomes_half(half):
    """Neither factors nor geometry; a half image is computed in single precision."""
    mask, image = _columns(9)[None, None, None], torch.randn(2, 2, 8, 9)
    A = sense(_maps(1, 3, 8, 9).to(torch.complex64), mask)
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


def test_zero_noise_per_item_is_the_projection():
    """A number, a tensor of no axes and one level per item say the same."""
    A, y, x = Weights(torch.tensor([1.0, 0, 1, 0])), torch.tensor([[1.0, 0, 2, 0]]), torch.full((1, 4), 5.0)
    for noise_std in (0.0, torch.tensor(0.0), torch.tensor([0.0])):
        assert torch.equal(Gaussian(A, y, noise_std).prox(x, 1.0), torch.tensor([[1.0, 5, 2, 5]]))


def test_views_that_coincide_share_their_arc():
    """Opposite views of parallel rays are the same rays: a full turn of few views is as good as half of it, twice."""
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:24, 10:22] = 1
    for views in (10, 16, 20, 22, 24):
        half = torch.arange(views // 2, dtype=DOUBLE) * 2 * math.pi / views
        A, B = (ParallelBeam(a, (32, 32), detectors=47) for a in (half, torch.cat([half, half + math.pi])))
        assert torch.allclose(A.fbp(A(x)), B.fbp(B(x)), atol=1e-3)
        assert abs(float(B.fbp(B(x))[..., 10:22, 12:20].mean()) - 1) < 0.15


def test_gradients_where_nothing_was_sampled():
    A = CartesianMRI(_columns(9)[None, None, None], (8, 9), torch.complex128)
    rho = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    A.solve(_random(1, 1, 8, 9), rho).abs().sum().backward()
    assert rho.grad.isfinite()


def test_operators_of_parameters_can_be_copied():
    kernel = torch.rand(3, 3, requires_grad=True)
    A = Blur(kernel, (8, 9))
    x = torch.randn(1, 1, 8, 9)
    assert torch.equal(copy.deepcopy(A)(x), A(x).detach())
    maps = _maps(1, 3, 8, 9).requires_grad_()
    B = sense(maps, torch.ones(1, 1, 8, 9))
    z = _random(1, 2, 8, 9, dtype=DOUBLE)
    assert torch.equal(copy.deepcopy(B)(z), B(z).detach())


def test_a_used_finufft_can_be_written_down():
    pytest.importorskip("finufft")
    A = NUFFT(trajectory(30, 8, 9), (8, 9), backend="finufft")
    x = _random(1, 2, 8, 9).to(torch.complex64)
    assert torch.equal(pickle.loads(pickle.dumps(A))(x), A(x))


def test_complex_matrices_have_their_conjugates():
    M = _random(4, 6)
    A = Dense(M, (1, 6))
    x, y = _random(2, 1, 6), _random(2, 4)
    assert torch.allclose(A(x), x.flatten(1) @ M.T)
    assert torch.allclose(A.adjoint(y).flatten(1), y @ M.conj())
    left, right = _random(3, 5), _random(4, 6)
    S = Separable([left, right])
    z = _random(2, 1, 3, 4)
    assert torch.allclose(S.adjoint(z)[:, 0], left.mH @ z[:, 0] @ right.conj())


def test_cg_starts_where_it_is_told_and_stops_when_it_may():
    matrix = torch.diag(torch.linspace(1, 40, 40, dtype=DOUBLE))
    calls = 0

    def apply(v):
        nonlocal calls
        calls += 1
        return v @ matrix

    b = torch.ones(1, 40, dtype=DOUBLE)
    exact = b / torch.linspace(1, 40, 40, dtype=DOUBLE)
    assert torch.equal(cg(apply, b, exact, n_iter=5), exact)
    assert calls == 1
    calls = 0
    loose = cg(apply, b, None, n_iter=100, tol=0.1)
    few = calls
    assert 0.01 < float((loose @ matrix - b).norm() / b.norm()) <= 0.1
    calls = 0
    tight = cg(apply, b, None, n_iter=100, tol=1e-8)
    assert few < calls
    assert float((tight @ matrix - b).norm() / b.norm()) <= 1e-8
