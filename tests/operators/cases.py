"""Every operator, at even and odd sizes: a new operator is tested by a row here.

A row builds ``(operator, image)`` in float64 / complex128; ``image`` gives shape and type. ``rtol`` is 1e-10 unless a back
end knows float32 only.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from medrecon.data.trajectories import GOLDEN_ANGLE, echo_planar, radial, spiral
from medrecon.operators import (
    NUFFT,
    AsComplex,
    Blur,
    CartesianMRI,
    Channels,
    Coils,
    ConeBeam,
    Dense,
    FanBeam,
    FiniteDifferences,
    LinearOperator,
    MulticoilMRI,
    Multiple,
    OnChannels,
    OversampledFourier,
    ParallelBeam,
    RealAsComplex,
    Separable,
    Stack,
    Sum,
    Warp,
    Weights,
    Whitening,
    crop,
    gaussian_blur,
    moving_sense,
    nufft_sense,
    sense,
    super_resolution,
)
from medrecon.operators.image import gaussian_kernel, motion_kernel


class Case(NamedTuple):
    name: str
    build: Callable[[], tuple[LinearOperator, torch.Tensor]]
    rtol: float = 1e-10


def _random(*shape, dtype=torch.complex128):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def _maps(batch, coils, *shape):
    maps = _random(batch, coils, *shape)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


def _multiple(shape):
    mask = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(5)) < 0.6
    factor = torch.tensor([0.5, 2.0], dtype=torch.float64)
    return Multiple(sense(_maps(2, 3, *shape), mask), factor), _random(2, 2, *shape, dtype=torch.float64)


def _columns(n, seed=0):
    mask = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[n // 2] = True
    return mask


def _points(*shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[tuple(n // 2 for n in shape)] = True
    return mask


def _cartesian(shape, mask):
    return CartesianMRI(mask[None, None], shape, torch.complex128), _random(2, 3, *shape)


def _multicoil(shape, mask, batch=2):
    return MulticoilMRI(_maps(batch, 3, *shape), mask[None, None]), _random(2, 1, *shape)


def _sense(shape, mask, batch=1):
    return sense(_maps(batch, 3, *shape), mask[None, None]), _random(3, 2, *shape, dtype=torch.float64)


def _single(shape, mask):
    A = CartesianMRI(mask[None, None], shape, torch.complex128) @ AsComplex()
    return A, _random(2, 2, *shape, dtype=torch.float64)


def _masks_per_item():
    mask = torch.stack([_columns(9, s) for s in range(3)])[:, None, None]
    return MulticoilMRI(_maps(3, 4, 8, 9), mask), _random(3, 1, 8, 9)


def _parallel(shape, views, **settings):
    angles = torch.linspace(0, 3.1, views, dtype=torch.float64)
    return ParallelBeam(angles, shape, dtype=torch.float64, **settings), _random(2, 1, *shape, dtype=torch.float64)


def trajectory(samples, *shape):
    """Random points of the whole band, both end points among them."""
    half = torch.tensor(shape, dtype=torch.float64) / 2
    points = 2 * torch.rand(samples, len(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(3)) - 1
    points[0], points[1] = 1.0, -1.0
    return points * half


def _nufft(samples, *shape, **settings):
    return NUFFT(trajectory(samples, *shape), shape, dtype=torch.complex128, **settings), _random(2, 3, *shape)


def _nufft_sense(samples, *shape, batch=1):
    settings = {"oversampling": 2.0, "width": 10, "dtype": torch.complex128}
    A = nufft_sense(trajectory(samples, *shape), _maps(batch, 3, *shape), **settings)
    return A, _random(3, 2, *shape, dtype=torch.float64)


def _fan(shape, views, **settings):
    angles = torch.linspace(0, 6.1, views, dtype=torch.float64)
    A = FanBeam(angles, shape, 9.0, 15.0, dtype=torch.float64, **settings)
    return A, _random(2, 1, *shape, dtype=torch.float64)


def _cone(shape, views, keep):
    angles = torch.linspace(0, 6.1, views, dtype=torch.float64)
    A = ConeBeam(angles, shape, 9.0, 15.0, (7, 9), offset=(0.3, -0.4), dtype=torch.float64, keep=keep)
    return A, _random(2, 1, *shape, dtype=torch.float64)


def _weighted(shape, views=None):
    if views is None:
        weights = torch.linspace(0, 2, shape[1], dtype=torch.float64)
        return Weights(weights), _random(2, 1, *shape, dtype=torch.float64)
    A, x = _parallel(shape, views)
    return Weights(A(x).abs() + 0.5) @ A, x


def covariance(coils):
    root = _random(coils, coils)
    return root @ root.mH + torch.eye(coils)


def _whitened(*shape):
    A = Whitening(covariance(3)) @ sense(_maps(1, 3, *shape), _columns(shape[-1])[None, None, None])
    return A, _random(2, 2, *shape, dtype=torch.float64)


def _warp(*shape, batch=2):
    field = 1.7 * _random(batch, 2, *shape, dtype=torch.float64)
    return Warp(field), _random(2, 3, *shape, dtype=torch.float64)


def _moving(*shape):
    lines = torch.arange(shape[-1]) % 3
    masks = torch.stack([(lines == shot)[None] for shot in range(3)])
    shift = _random(3, 2, dtype=torch.float64)
    A = moving_sense(_maps(1, 3, *shape), masks, torch.tensor([0.0, 0.2, -0.1], dtype=torch.float64), shift)
    return A, _random(2, 2, *shape, dtype=torch.float64)


def _stack(*shape):
    x = _random(2, 2, *shape, dtype=torch.float64)
    blur = Blur(motion_kernel(2.0, 1.0, torch.float64), shape)
    return Stack([gaussian_blur(shape, 0.8, torch.float64), FiniteDifferences(), blur], x), x


def _soft_sense(*shape):
    maps = _random(2, 2, 3, *shape)
    mask = _columns(shape[-1])[(None,) * (len(shape) + 1)]
    return sense(maps, mask), _random(2, 4, *shape, dtype=torch.float64)


def _dynamic(frames, *shape):
    masks = torch.stack([_columns(shape[-1], s) for s in range(frames)]).view(1, frames, *[1] * len(shape), shape[-1])
    return sense(_maps(2, 3, *shape), masks), _random(2, 2 * frames, *shape, dtype=torch.float64)


def _partial_fourier(*shape):
    mask = torch.arange(shape[-1]) >= shape[-1] // 3
    return _sense(shape, mask[None])


def _real(operator, *shape, batch=2):
    return operator, _random(batch, 2, *shape, dtype=torch.float64)


def _dense(m, n, rank=None):
    matrix = _random(m, n, dtype=torch.float64)
    if rank is not None:
        matrix = matrix[:, :rank] @ _random(rank, n, dtype=torch.float64)
    return Dense(matrix, (1, 2, n // 2)), _random(3, 1, 2, n // 2, dtype=torch.float64)


def _complex_dense(m, n):
    return Dense(_random(m, n), (1, n)), _random(3, 1, n)


def _complex_separable():
    return Separable([_random(4, 5), _random(7, 6)]), _random(2, 2, 5, 6)


def _measured(k, *shape, **settings):
    settings = {"oversampling": 2.0, "width": 8, "toeplitz": False, "dtype": torch.complex128, **settings}
    return NUFFT(k.double(), shape, **settings), _random(2, 2, *shape)


def _channels():
    inner = [sense(_maps(1, 3, 5, 6), _columns(6, s)[None, None, None]) for s in range(2)]
    return Channels(inner, [2, 2]), _random(3, 4, 5, 6, dtype=torch.float64)


def _blurs_per_item():
    kernels = _random(3, 1, 3, 4, dtype=torch.float64).abs() + 0.1
    return Blur(kernels, (7, 8)), _random(3, 2, 7, 8, dtype=torch.float64)


DOUBLE = torch.float64
CASES = [
    Case("Blur, Gaussian, odd", lambda: _real(Blur(gaussian_kernel(0.6, dtype=DOUBLE), (9, 7)), 9, 7)),
    Case("Blur, motion, even", lambda: _real(Blur(motion_kernel(4.0, 0.7, DOUBLE), (12, 10)), 12, 10)),
    Case("Blur, a kernel per item", _blurs_per_item),
    Case("Blur, 3-D", lambda: _real(Blur(gaussian_kernel(0.4, 3, DOUBLE)[1:-1, :, 1:-1], (4, 5, 6)), 4, 5, 6)),
    Case("gaussian_blur", lambda: _real(gaussian_blur((9, 8), 0.7, DOUBLE), 9, 8)),
    Case("super_resolution, mean", lambda: _real(super_resolution((8, 9), (2, 3), "mean", DOUBLE), 8, 9)),
    Case("super_resolution, Gaussian", lambda: _real(super_resolution((8, 12), 2, "gaussian", DOUBLE), 8, 12)),
    Case("super_resolution, k-space", lambda: _real(super_resolution((12, 10), 2, "kspace", DOUBLE), 12, 10)),
    Case(
        "super_resolution, one axis of three",
        lambda: _real(super_resolution((6, 5, 4), (3, 1, 1), dtype=DOUBLE), 6, 5, 4),
    ),
    Case("crop", lambda: _real(crop((7, 8), (4, 5), DOUBLE), 7, 8)),
    Case("FiniteDifferences", lambda: _real(FiniteDifferences(), 6, 5)),
    Case("FiniteDifferences, one axis, periodic", lambda: _real(FiniteDifferences([0], periodic=True), 4, 5, 3)),
    Case("Dense, wide", lambda: _dense(5, 8)),
    Case("Dense, tall and rank-deficient", lambda: _dense(11, 6, rank=4)),
    Case("Dense, complex", lambda: _complex_dense(4, 7)),
    Case("Separable", lambda: _real(Separable([_random(4, 5, dtype=DOUBLE), _random(7, 6, dtype=DOUBLE)]), 5, 6)),
    Case("Separable, complex", _complex_separable),
    Case("OversampledFourier", lambda: _real(OversampledFourier((5, 6), 1.5), 5, 6)),
    Case("AsComplex", lambda: (AsComplex(), _random(3, 4, 5, 6, dtype=torch.float64))),
    Case("CartesianMRI columns even", lambda: _cartesian((8, 10), _columns(10)[None])),
    Case("CartesianMRI columns odd", lambda: _cartesian((7, 9), _columns(9)[None])),
    Case("CartesianMRI points odd-even", lambda: _cartesian((7, 8), _points(7, 8))),
    Case("CartesianMRI rows", lambda: _cartesian((8, 7), _columns(8)[:, None])),
    Case("CartesianMRI 3-D", lambda: _cartesian((5, 6, 7), _points(5, 1, 7))),
    Case("CartesianMRI fully sampled", lambda: _cartesian((6, 5), torch.ones(1, 1, dtype=torch.bool))),
    Case("MulticoilMRI columns even", lambda: _multicoil((8, 10), _columns(10)[None])),
    Case("MulticoilMRI columns odd", lambda: _multicoil((31, 33), _columns(33)[None])),
    Case("MulticoilMRI points", lambda: _multicoil((9, 8), _points(9, 8))),
    Case("MulticoilMRI shared maps", lambda: _multicoil((9, 8), _points(9, 8), batch=1)),
    Case("MulticoilMRI 3-D", lambda: _multicoil((4, 5, 6), _points(4, 5, 1))),
    Case("MulticoilMRI a mask per item", _masks_per_item),
    Case("sense columns", lambda: _sense((8, 9), _columns(9)[None])),
    Case("sense points, maps per item", lambda: _sense((7, 6), _points(7, 6), batch=3)),
    Case("Weights, one of them zero", lambda: _weighted((6, 5))),
    Case("ParallelBeam, weighted", lambda: _weighted((6, 7), 20)),
    Case("ParallelBeam even", lambda: _parallel((8, 8), 30)),
    Case(
        "ParallelBeam odd, off centre", lambda: _parallel((7, 9), 24, detectors=16, pitch=0.8, offset=0.3, spacing=0.7)
    ),
    Case("ParallelBeam, on the fly", lambda: _parallel((7, 8), 30, keep=False)),
    Case("FanBeam even", lambda: _fan((8, 8), 30)),
    Case(
        "FanBeam odd, off centre, on the fly", lambda: _fan((7, 9), 24, detectors=21, pitch=1.1, offset=0.4, keep=False)
    ),
    Case("sense, two sets of maps", lambda: _soft_sense(7, 8)),
    Case("sense, frames", lambda: _dynamic(3, 6, 7)),
    Case("sense, frames of a volume", lambda: _dynamic(2, 3, 4, 5)),
    Case("sense, two sets of maps of a volume", lambda: _soft_sense(3, 4, 5)),
    Case("sense, partial Fourier", lambda: _partial_fourier(6, 9)),
    Case("Whitening", lambda: (Whitening(covariance(3)), _random(2, 3, 4, 5))),
    Case("sense, whitened", lambda: _whitened(5, 6)),
    Case("Warp", lambda: _warp(6, 7)),
    Case("Warp, one field for all", lambda: _warp(5, 6, batch=1)),
    Case("moving_sense", lambda: _moving(6, 9)),
    Case("Stack", lambda: _stack(6, 7)),
    Case("Sum", lambda: _real(Sum([gaussian_blur((5, 6), 0.8, DOUBLE), crop((5, 6), (5, 6), DOUBLE)]), 5, 6)),
    Case("Channels", _channels),
    Case("Coils", lambda: (Coils(_maps(2, 3, 5, 6)), _random(2, 1, 5, 6))),
    Case("a multiple, one factor per item", lambda: _multiple((6, 5))),
    Case("real images as complex ones", lambda: (RealAsComplex(), _random(2, 3, 5, 4, dtype=torch.float64))),
    Case(
        "coils on real channels",
        lambda: (OnChannels(Coils(_maps(1, 3, 5, 4))), _random(2, 2, 5, 4, dtype=torch.float64)),
    ),
    Case("NUFFT with weights", lambda: _nufft(60, 7, 9, toeplitz=False, weights=torch.linspace(0.2, 3, 60))),
    Case("NUFFT sparse, even", lambda: _nufft(90, 8, 6, toeplitz=False)),
    Case("NUFFT sparse, odd, wide kernel", lambda: _nufft(60, 7, 9, oversampling=2.0, width=7, toeplitz=False)),
    Case("NUFFT sparse, 3-D", lambda: _nufft(100, 4, 6, 5, backend="sparse", toeplitz=False)),
    Case("NUFFT torchkbnufft", lambda: _nufft(80, 8, 9, backend="torchkbnufft", toeplitz=False)),
    Case("NUFFT torchkbnufft, 3-D", lambda: _nufft(60, 5, 4, 6, backend="torchkbnufft", toeplitz=False)),
    Case("NUFFT finufft", lambda: _nufft(80, 8, 9, backend="finufft", toeplitz=False)),
    Case("NUFFT finufft, 3-D", lambda: _nufft(70, 4, 6, 5, backend="finufft", toeplitz=False)),
    Case("NUFFT radial, golden angle", lambda: _measured(radial((8, 9), 12, step=GOLDEN_ANGLE), 8, 9)),
    Case("NUFFT spiral", lambda: _measured(spiral((9, 8), 5), 9, 8)),
    Case("NUFFT echo-planar", lambda: _measured(echo_planar((7, 8)), 7, 8)),
    # A kernel of ten points: the convolution and the interpolations agree to 1e-8.
    Case("NUFFT sparse, convolution", lambda: _nufft(90, 8, 7, oversampling=2.0, width=10), 1e-7),
    Case("nufft_sense, fewer samples than pixels", lambda: _nufft_sense(40, 6, 7), 1e-7),
    Case("nufft_sense, maps per item", lambda: _nufft_sense(70, 6, 8, batch=3), 1e-7),
    Case(
        "ParallelBeam, a stack of slices",
        lambda: (_parallel((5, 6), 14)[0], _random(2, 1, 3, 5, 6, dtype=torch.float64)),
    ),
    Case("ConeBeam", lambda: _cone((4, 5, 6), 14, True)),
    Case("ConeBeam, on the fly", lambda: _cone((5, 6, 5), 9, False)),
    Case("sense without maps", lambda: _single((7, 8), _points(7, 8))),
]
