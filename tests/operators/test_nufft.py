"""NUFFT back ends against the dense transform, the FFT, and each other; density compensation against areas."""

import math
import pickle

import numpy as np
import pytest
import torch

from medrecon.data.espirit import espirit_maps
from medrecon.likelihood import Gaussian
from medrecon.operators import (
    NUFFT,
    Finufft,
    SparseGridding,
    TableGridding,
    check_adjoint,
    nufft_sense,
    operator_norm,
    pipe_menon_dcf,
    sense,
    voronoi_dcf,
)
from medrecon.operators.fourier import fft
from medrecon.operators.linalg import cg
from medrecon.solvers import TV

from ..make.operators import random_tensor, random_trajectory

BACKENDS = {
    # The accuracies: the default kernel has five points on a grid half as fine again.
    "sparse": (SparseGridding(), 5e-4),
    "sparse, wide": (SparseGridding(oversampling=2.0, width=8), 1e-6),
    "torchkbnufft": (TableGridding(), 5e-4),
    "finufft": (Finufft(), 1e-5),
}


def dense(points, shape):
    """The matrix of the definition, ``(samples, pixels)``."""
    phase = torch.zeros(len(points), *shape, dtype=torch.float64)
    for axis, n in enumerate(shape):
        along = [1 if a != axis else n for a in range(len(shape))]
        r = ((torch.arange(n) - n // 2) / n).view(along)
        phase = phase + points[:, axis].view(-1, *[1] * len(shape)) * r
    return torch.polar(torch.ones_like(phase), -2 * math.pi * phase).flatten(1) / math.sqrt(math.prod(shape))


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "finufft":
        pytest.importorskip("finufft")
    return BACKENDS[request.param]


@pytest.mark.parametrize("shape", [(32, 32), (31, 24)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_against_the_dense_transform(backend, shape, dtype):
    backend, rtol = backend
    points = random_trajectory(700, *shape)
    A = NUFFT(points, shape, backend, dtype=dtype)
    x = random_tensor(2, 2, *shape).to(dtype)
    exact = x.to(torch.complex128).flatten(2) @ dense(points, shape).T
    assert float((A(x) - exact).norm() / exact.norm()) < rtol
    y = A(x)
    back = (y.to(torch.complex128) @ dense(points, shape).conj()).view_as(x)
    assert float((A.adjoint(y) - back).norm() / back.norm()) < rtol
    normal = (exact @ dense(points, shape).conj()).view_as(x)
    assert float((A.normal(x) - normal).norm() / normal.norm()) < rtol
    assert check_adjoint(A, x) < (1e-5 if dtype == torch.complex64 else 1e-10)


@pytest.mark.parametrize("shape", [(24, 18), (9, 10, 8)])
def test_a_cartesian_trajectory_is_the_fft(backend, shape):
    backend, rtol = backend
    points = torch.stack(torch.meshgrid(*[torch.arange(n).double() - n // 2 for n in shape], indexing="ij"), dim=-1)
    A = NUFFT(points, shape, backend)
    x = random_tensor(1, 2, *shape).to(torch.complex64)
    exact = fft(x, tuple(range(-len(shape), 0))).flatten(2)
    assert float((A(x) - exact).norm() / exact.norm()) < rtol
    assert float((A.normal(x) - x).norm() / x.norm()) < rtol


def test_the_default_in_3d_is_not_a_matrix():
    assert isinstance(NUFFT(random_trajectory(20, 6, 5, 4), (6, 5, 4)).backend, TableGridding)


def test_convolution_is_hermitian():
    A = NUFFT(random_trajectory(200, 12, 9), (12, 9), dtype=torch.complex128)
    a, b = random_tensor(1, 1, 12, 9), random_tensor(1, 1, 12, 9).flip(-1)
    left, right = (a.conj() * A.normal(b)).sum(), (A.normal(a).conj() * b).sum()
    assert abs(complex(left - right)) < 1e-10 * abs(complex(left))


def radial(n, spokes):
    angle = torch.arange(spokes).double() * math.pi / spokes
    k = torch.linspace(-n / 2, n / 2, 2 * n + 1, dtype=torch.float64)
    return torch.stack([k * angle.sin()[:, None], k * angle.cos()[:, None]], dim=-1)


@pytest.mark.parametrize("dcf", [pipe_menon_dcf, voronoi_dcf])
def test_density_of_a_radial_trajectory_is_its_radius(dcf):
    n, spokes = 48, 96
    k = radial(n, spokes)
    w = dcf(k, (n, n)).view(spokes, -1)
    radius = k.norm(dim=-1)
    # A ring of width 1/2 is shared by two samples of every spoke, except near the centre and at the edge.
    exact = math.pi * radius * 0.5 / spokes
    ring = (radius > 3) & (radius < n / 2 - 2)
    assert float((w / exact - 1)[ring].abs().mean()) < 0.05


@pytest.mark.parametrize("dcf", [pipe_menon_dcf, voronoi_dcf])
def test_gridding_a_fully_sampled_image_gives_it_back(dcf):
    n = 48
    y, x = torch.meshgrid(*[(torch.arange(n).double() - n // 2) / n] * 2, indexing="ij")
    image = torch.exp(-((y - 0.1) ** 2 + (x + 0.05) ** 2) / 0.02).to(torch.complex64)[None, None]  # smooth: in the disc
    k = radial(n, 96)
    A = NUFFT(k, (n, n))
    back = A.gridding(A(image), dcf(k, (n, n)))
    # Weights make the adjoint an approximate inverse only; least squares is for more.
    assert float((back - image).norm() / image.norm()) < 0.05
    cartesian = torch.stack(torch.meshgrid(*[torch.arange(n).double() - n // 2] * 2, indexing="ij"), dim=-1)
    w = dcf(cartesian, (n, n))
    assert float((w - 1).abs().mean()) < 0.03  # every sample of a full grid is worth one


def test_gridding_a_volume():
    """Weights from torchkbnufft's tables, where a matrix would be large: gridding returns a smooth blob unscaled."""
    n = 12
    k = torch.stack(
        torch.meshgrid(*[torch.linspace(-n / 2, n / 2, 19, dtype=torch.float64)] * 3, indexing="ij"), dim=-1
    )
    k = k + 0.2 * torch.rand(k.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.1
    k = k.clamp(-n / 2, n / 2)
    A = NUFFT(k, (n, n, n))
    z, y, x = torch.meshgrid(*[(torch.arange(n) - n // 2) / n] * 3, indexing="ij")
    image = torch.exp(-((z - 0.1) ** 2 + (y + 0.05) ** 2 + x**2) / 0.03).to(torch.complex64)[None, None]
    back = A.gridding(A(image), pipe_menon_dcf(k, (n, n, n)))
    assert float((back - image).norm() / image.norm()) < 0.05


@pytest.mark.parametrize("coils", [0, 3])
def test_density_compensation_brings_the_pseudo_inverse_nearer(coils):
    """Three iterations from the weighted adjoint are worth more than three from zero, and the limit is the same."""
    n = 32
    k = radial(n, 64)
    maps = random_tensor(1, coils, n, n) if coils else None
    if maps is not None:
        maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    A = nufft_sense(k, maps, (n, n), dtype=torch.complex128)
    x = random_tensor(1, 2, n, n, dtype=torch.float64)
    y = A(x)
    errors = []
    for z in (A.pinv(y, 3), cg(A.normal, A.adjoint(y), None, 3)):
        errors.append(float((A(z) - y).norm() / y.norm()))
    assert errors[0] < 0.6 * errors[1]


def test_finufft_keeps_its_plans(monkeypatch):
    finufft = pytest.importorskip("finufft")
    made = []
    plan = finufft.Plan
    monkeypatch.setattr(finufft, "Plan", lambda *a, **k: made.append(a) or plan(*a, **k))
    A = NUFFT(random_trajectory(40, 8, 8), (8, 8), backend=Finufft(), toeplitz=False)
    for batch in (1, 2, 1, 2, 1):
        A.adjoint(A(random_tensor(batch, 1, 8, 8).to(torch.complex64)))
    assert len(made) == 4  # two directions, two numbers of transforms


def test_errors_speak_of_units():
    with pytest.raises(ValueError, match="2 coordinates"):
        NUFFT(torch.zeros(10, 3), (32, 32))
    with pytest.raises(ValueError, match="not 1/m"):
        NUFFT(100 * torch.rand(10, 2), (32, 32))
    readout = torch.arange(-32, 32) / 32.0  # as a scanner's: one end point
    line = torch.stack([readout, 0 * readout], dim=-1)
    for wrong, unit in ((math.pi * line, "rad"), (math.pi * (line + 1), "rad"), (0.5 * line, "cycles")):
        with pytest.raises(ValueError, match=f"in {unit} per pixel"):
            NUFFT(wrong, (64, 64))
    for right in (32 * line, 3 * line, 0 * line, 0.4 * line):
        NUFFT(right, (64, 64))
    NUFFT(math.pi * line, (7, 7))  # the end of its own band, nearly
    with pytest.raises(ValueError, match="NaN"):
        NUFFT(torch.full((4, 2), float("nan")), (32, 32))
    with pytest.raises(ValueError, match="maps or the shape of the image"):
        nufft_sense(random_trajectory(4, 8, 8))


@pytest.mark.slow
def test_a_real_trajectory_through_real_coils(data_folder):
    """Slice A, resampled on a measured radial trajectory: least squares comes back to the image where k-space is dense."""
    kspace = np.load(data_folder / "kspace" / "brain_t1_8ch_sliceA.npz")["kspace"]
    k = torch.from_numpy(np.load(data_folder / "trajectories" / "radial_96x512.npy")).double()
    shape = kspace.shape[1:]
    k = k * torch.tensor(shape) / 256
    mask = np.zeros(shape, bool)
    mask[tuple(slice(n // 2 - 12, n // 2 + 12) for n in shape)] = True
    maps = espirit_maps(kspace * mask, mask)[None]
    A = nufft_sense(k, maps)
    full = sense(maps, torch.ones(1, 1, *shape))
    truth = full.adjoint(torch.from_numpy(kspace)[None])
    inside = (maps != 0).any(1, keepdim=True)
    y = A(truth)
    errors = {"cg": A.solve(A.adjoint(y), 1e-3 * 96 * 512 / (shape[0] * shape[1]), n_iter=30)}
    unit = float(operator_norm(A.normal, truth, 20)) ** 2
    data = Gaussian(A, y, 0.0)
    errors["tv"] = TV(lam=1e-3 * unit).estimate(data)
    density = pipe_menon_dcf(k, shape)
    errors["gridding"] = A.inner.adjoint(A.outer.inner.adjoint(A.outer.outer.gridding(y, density)))
    found = {name: float(((x - truth) * inside).norm() / (truth * inside).norm()) for name, x in errors.items()}
    # 96 spokes for 230 pixels: streaks of 7 % by weights alone; least squares with coils leaves 4 %.
    assert found["cg"] < 0.05
    assert found["tv"] < found["cg"]  # piecewise constant it is not, but streaks are less so
    assert found["gridding"] < 0.1


def test_settings_of_a_nufft_are_checked():
    k = random_trajectory(30, 8, 9)
    for settings in (
        {"oversampling": 0.8},
        {"oversampling": -1.0},
        {"oversampling": 1.0},
        {"width": 1},
        {"oversampling": 0.0},
    ):
        with pytest.raises(ValueError, match="oversampling must be"):
            SparseGridding(**settings)
        with pytest.raises(ValueError, match="oversampling must be"):
            TableGridding(**settings)
    with pytest.raises(ValueError, match="complex64 or complex128"):
        NUFFT(k, (8, 9), dtype=torch.float32)
    with pytest.raises(ValueError, match="three pixels"):
        NUFFT(torch.zeros(3, 2), (2, 9), backend=TableGridding())
    with pytest.raises(ValueError, match=r"construct it with dtype=torch\.complex128"):
        NUFFT(k, (8, 9))(random_tensor(1, 1, 8, 9))


def test_a_used_finufft_can_be_written_down():
    pytest.importorskip("finufft")
    A = NUFFT(random_trajectory(30, 8, 9), (8, 9), backend=Finufft())
    x = random_tensor(1, 2, 8, 9).to(torch.complex64)
    assert torch.equal(pickle.loads(pickle.dumps(A))(x), A(x))
