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
    Detector,
    FanBeam,
    FiniteDifferences,
    Finufft,
    InnerBlur,
    LinearOperator,
    MulticoilMRI,
    Multiple,
    OnChannels,
    OversampledFourier,
    Panel,
    ParallelBeam,
    RealAsComplex,
    Separable,
    Slices,
    SparseGridding,
    SpectralBlur,
    Stack,
    Sum,
    TableGridding,
    Turbulence,
    Warp,
    Weights,
    Whitening,
    crop,
    downsample_gaussian,
    downsample_kspace,
    downsample_mean,
    gaussian_blur,
    moving_sense,
    nufft_sense,
    sense,
)
from medrecon.operators.image import gaussian_kernel, motion_kernel

from ..make.operators import coil_covariance, coil_maps, column_mask, point_mask, random_tensor, random_trajectory


class Case(NamedTuple):
    name: str
    build: Callable[[], tuple[LinearOperator, torch.Tensor]]
    rtol: float = 1e-10


def _multiple(shape):
    mask = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(5)) < 0.6
    factor = torch.tensor([0.5, 2.0], dtype=torch.float64)
    return Multiple(sense(coil_maps(2, 3, *shape), mask), factor), random_tensor(2, 2, *shape, dtype=torch.float64)


def _cartesian(shape, mask):
    return CartesianMRI(mask[None, None], shape, torch.complex128), random_tensor(2, 3, *shape)


def _multicoil(shape, mask, batch=2):
    return MulticoilMRI(coil_maps(batch, 3, *shape), mask[None, None]), random_tensor(2, 1, *shape)


def _sense(shape, mask, batch=1):
    return sense(coil_maps(batch, 3, *shape), mask[None, None]), random_tensor(3, 2, *shape, dtype=torch.float64)


def _single(shape, mask):
    A = CartesianMRI(mask[None, None], shape, torch.complex128) @ AsComplex()
    return A, random_tensor(2, 2, *shape, dtype=torch.float64)


def _masks_per_item():
    mask = torch.stack([column_mask(9, s) for s in range(3)])[:, None, None]
    return MulticoilMRI(coil_maps(3, 4, 8, 9), mask), random_tensor(3, 1, 8, 9)


def _parallel(shape, views, **settings):
    angles = torch.linspace(0, 3.1, views, dtype=torch.float64)
    return ParallelBeam(angles, shape, dtype=torch.float64, **settings), random_tensor(
        2, 1, *shape, dtype=torch.float64
    )


def _nufft(samples, *shape, **settings):
    return NUFFT(random_trajectory(samples, *shape), shape, dtype=torch.complex128, **settings), random_tensor(
        2, 3, *shape
    )


def _nufft_sense(samples, *shape, batch=1):
    maps, backend = coil_maps(batch, 3, *shape), SparseGridding(2.0, 10)
    A = nufft_sense(random_trajectory(samples, *shape), maps, backend=backend, dtype=torch.complex128)
    return A, random_tensor(3, 2, *shape, dtype=torch.float64)


def _fan(shape, views, **settings):
    angles = torch.linspace(0, 6.1, views, dtype=torch.float64)
    A = FanBeam(angles, shape, 9.0, 15.0, dtype=torch.float64, **settings)
    return A, random_tensor(2, 1, *shape, dtype=torch.float64)


def _cone(shape, views, keep):
    angles = torch.linspace(0, 6.1, views, dtype=torch.float64)
    A = ConeBeam(angles, shape, 9.0, 15.0, Panel((7, 9), offset=(0.3, -0.4)), dtype=torch.float64, keep=keep)
    return A, random_tensor(2, 1, *shape, dtype=torch.float64)


def _weighted(shape, views=None):
    if views is None:
        weights = torch.linspace(0, 2, shape[1], dtype=torch.float64)
        return Weights(weights), random_tensor(2, 1, *shape, dtype=torch.float64)
    A, x = _parallel(shape, views)
    return Weights(A(x).abs() + 0.5) @ A, x


def _whitened(*shape):
    A = Whitening(coil_covariance(3)) @ sense(coil_maps(1, 3, *shape), column_mask(shape[-1])[None, None, None])
    return A, random_tensor(2, 2, *shape, dtype=torch.float64)


def _warp(*shape, batch=2):
    field = 1.7 * random_tensor(batch, 2, *shape, dtype=torch.float64)
    return Warp(field), random_tensor(2, 3, *shape, dtype=torch.float64)


def _moving(*shape):
    lines = torch.arange(shape[-1]) % 3
    masks = torch.stack([(lines == shot)[None] for shot in range(3)])
    shift = random_tensor(3, 2, dtype=torch.float64)
    A = moving_sense(coil_maps(1, 3, *shape), masks, torch.tensor([0.0, 0.2, -0.1], dtype=torch.float64), shift)
    return A, random_tensor(2, 2, *shape, dtype=torch.float64)


def _stack(*shape):
    x = random_tensor(2, 2, *shape, dtype=torch.float64)
    blur = Blur(motion_kernel(2.0, 1.0, torch.float64), shape)
    return Stack([gaussian_blur(shape, 0.8, torch.float64), FiniteDifferences(), blur], x), x


def _soft_sense(*shape):
    maps = random_tensor(2, 2, 3, *shape)
    mask = column_mask(shape[-1])[(None,) * (len(shape) + 1)]
    return sense(maps, mask), random_tensor(2, 4, *shape, dtype=torch.float64)


def _dynamic(frames, *shape):
    masks = torch.stack([column_mask(shape[-1], s) for s in range(frames)]).view(
        1, frames, *[1] * len(shape), shape[-1]
    )
    return sense(coil_maps(2, 3, *shape), masks), random_tensor(2, 2 * frames, *shape, dtype=torch.float64)


def _partial_fourier(*shape):
    mask = torch.arange(shape[-1]) >= shape[-1] // 3
    return _sense(shape, mask[None])


def _real(operator, *shape, batch=2):
    return operator, random_tensor(batch, 2, *shape, dtype=torch.float64)


def _dense(m, n, rank=None):
    matrix = random_tensor(m, n, dtype=torch.float64)
    if rank is not None:
        matrix = matrix[:, :rank] @ random_tensor(rank, n, dtype=torch.float64)
    return Dense(matrix, (1, 2, n // 2)), random_tensor(3, 1, 2, n // 2, dtype=torch.float64)


def _complex_dense(m, n):
    return Dense(random_tensor(m, n), (1, n)), random_tensor(3, 1, n)


def _complex_separable():
    return Separable([random_tensor(4, 5), random_tensor(7, 6)]), random_tensor(2, 2, 5, 6)


def _measured(k, *shape, **settings):
    settings = {"backend": SparseGridding(2.0, 8), "toeplitz": False, "dtype": torch.complex128, **settings}
    return NUFFT(k.double(), shape, **settings), random_tensor(2, 2, *shape)


def _channels():
    inner = [sense(coil_maps(1, 3, 5, 6), column_mask(6, s)[None, None, None]) for s in range(2)]
    return Channels(inner, [2, 2]), random_tensor(3, 4, 5, 6, dtype=torch.float64)


def _slices(n, coils=3, batch=2):
    """Slices with maps and masks of their own; for one coil, with a mask of their own."""
    masks = torch.stack([column_mask(9, s) for s in range(n)])[:, None, None]
    A = sense(coil_maps(n, coils, 8, 9) if coils > 1 else None, masks, (8, 9), torch.complex128)
    return Slices(A, n), random_tensor(batch, 2, n, 8, 9, dtype=torch.float64)


def _blurs_per_item():
    kernels = random_tensor(3, 1, 3, 4, dtype=torch.float64).abs() + 0.1
    return Blur(kernels, (7, 8)), random_tensor(3, 2, 7, 8, dtype=torch.float64)


def _inner_blur():
    kernels = random_tensor(3, 1, 3, 5, dtype=torch.float64).abs() + 0.1
    return InnerBlur(kernels, (7, 8)), random_tensor(3, 2, 9, 12, dtype=torch.float64)


def _spectral_blur(*shape):
    kernels = random_tensor(2, 1, 3, 5, dtype=torch.float64).abs() + 0.1
    return SpectralBlur(kernels, shape), random_tensor(2, 2, *shape, dtype=torch.float64)


def _turbulence():
    kernels = random_tensor(2, 1, 3, 3, dtype=torch.float64).abs() + 0.1
    field = random_tensor(2, 2, 8, 9, dtype=torch.float64)
    return Turbulence(kernels, field), random_tensor(2, 1, 8, 9, dtype=torch.float64)


DOUBLE = torch.float64
CASES = [
    Case("Blur, Gaussian, odd", lambda: _real(Blur(gaussian_kernel(0.6, dtype=DOUBLE), (9, 7)), 9, 7)),
    Case("Blur, motion, even", lambda: _real(Blur(motion_kernel(4.0, 0.7, DOUBLE), (12, 10)), 12, 10)),
    Case("Blur, a kernel per item", _blurs_per_item),
    Case("Blur, 3-D", lambda: _real(Blur(gaussian_kernel(0.4, 3, DOUBLE)[1:-1, :, 1:-1], (4, 5, 6)), 4, 5, 6)),
    Case("InnerBlur, a kernel per item", _inner_blur),
    Case("SpectralBlur, odd, a kernel per item", lambda: _spectral_blur(9, 7)),
    Case("SpectralBlur, even, a kernel per item", lambda: _spectral_blur(8, 10)),
    Case("Turbulence", _turbulence),
    Case("gaussian_blur", lambda: _real(gaussian_blur((9, 8), 0.7, DOUBLE), 9, 8)),
    Case("downsample_mean", lambda: _real(downsample_mean((8, 9), (2, 3), DOUBLE), 8, 9)),
    Case("downsample_gaussian", lambda: _real(downsample_gaussian((8, 12), 2, DOUBLE), 8, 12)),
    Case("downsample_kspace", lambda: _real(downsample_kspace((12, 10), 2, DOUBLE), 12, 10)),
    Case(
        "downsample_mean, one axis of three",
        lambda: _real(downsample_mean((6, 5, 4), (3, 1, 1), DOUBLE), 6, 5, 4),
    ),
    Case("crop", lambda: _real(crop((7, 8), (4, 5), DOUBLE), 7, 8)),
    Case("FiniteDifferences", lambda: _real(FiniteDifferences(), 6, 5)),
    Case("FiniteDifferences, one axis, periodic", lambda: _real(FiniteDifferences([0], periodic=True), 4, 5, 3)),
    Case("Dense, wide", lambda: _dense(5, 8)),
    Case("Dense, tall and rank-deficient", lambda: _dense(11, 6, rank=4)),
    Case("Dense, complex", lambda: _complex_dense(4, 7)),
    Case(
        "Separable",
        lambda: _real(Separable([random_tensor(4, 5, dtype=DOUBLE), random_tensor(7, 6, dtype=DOUBLE)]), 5, 6),
    ),
    Case("Separable, complex", _complex_separable),
    Case("OversampledFourier", lambda: _real(OversampledFourier((5, 6), 1.5), 5, 6)),
    Case("AsComplex", lambda: (AsComplex(), random_tensor(3, 4, 5, 6, dtype=torch.float64))),
    Case("CartesianMRI columns even", lambda: _cartesian((8, 10), column_mask(10)[None])),
    Case("CartesianMRI columns odd", lambda: _cartesian((7, 9), column_mask(9)[None])),
    Case("CartesianMRI points odd-even", lambda: _cartesian((7, 8), point_mask(7, 8))),
    Case("CartesianMRI rows", lambda: _cartesian((8, 7), column_mask(8)[:, None])),
    Case("CartesianMRI 3-D", lambda: _cartesian((5, 6, 7), point_mask(5, 1, 7))),
    Case("CartesianMRI fully sampled", lambda: _cartesian((6, 5), torch.ones(1, 1, dtype=torch.bool))),
    Case("MulticoilMRI columns even", lambda: _multicoil((8, 10), column_mask(10)[None])),
    Case("MulticoilMRI columns odd", lambda: _multicoil((31, 33), column_mask(33)[None])),
    Case("MulticoilMRI points", lambda: _multicoil((9, 8), point_mask(9, 8))),
    Case("MulticoilMRI shared maps", lambda: _multicoil((9, 8), point_mask(9, 8), batch=1)),
    Case("MulticoilMRI 3-D", lambda: _multicoil((4, 5, 6), point_mask(4, 5, 1))),
    Case("MulticoilMRI a mask per item", _masks_per_item),
    Case("sense columns", lambda: _sense((8, 9), column_mask(9)[None])),
    Case("sense points, maps per item", lambda: _sense((7, 6), point_mask(7, 6), batch=3)),
    Case("Weights, one of them zero", lambda: _weighted((6, 5))),
    Case("ParallelBeam, weighted", lambda: _weighted((6, 7), 20)),
    Case("ParallelBeam even", lambda: _parallel((8, 8), 30)),
    Case(
        "ParallelBeam odd, off centre",
        lambda: _parallel((7, 9), 24, detector=Detector(16, 0.8, offset=0.3), spacing=0.7),
    ),
    Case("ParallelBeam, on the fly", lambda: _parallel((7, 8), 13, keep=False)),
    Case("FanBeam even", lambda: _fan((8, 8), 30)),
    Case(
        "FanBeam odd, off centre, on the fly",
        lambda: _fan((7, 9), 11, detector=Detector(21, 1.1, offset=0.4), keep=False),
    ),
    Case("sense, two sets of maps", lambda: _soft_sense(7, 8)),
    Case("sense, frames", lambda: _dynamic(3, 6, 7)),
    Case("sense, frames of a volume", lambda: _dynamic(2, 3, 4, 5)),
    Case("sense, two sets of maps of a volume", lambda: _soft_sense(3, 4, 5)),
    Case("sense, partial Fourier", lambda: _partial_fourier(6, 9)),
    Case("Whitening", lambda: (Whitening(coil_covariance(3)), random_tensor(2, 3, 4, 5))),
    Case("sense, whitened", lambda: _whitened(5, 6)),
    Case("Warp", lambda: _warp(6, 7)),
    Case("Warp, one field for all", lambda: _warp(5, 6, batch=1)),
    Case("moving_sense", lambda: _moving(6, 9)),
    Case("Slices, maps and masks per slice", lambda: _slices(4)),
    Case("Slices, one coil", lambda: _slices(3, coils=1)),
    Case("Slices, a single one", lambda: _slices(1, batch=3)),
    Case("Stack", lambda: _stack(6, 7)),
    Case("Sum", lambda: _real(Sum([gaussian_blur((5, 6), 0.8, DOUBLE), crop((5, 6), (5, 6), DOUBLE)]), 5, 6)),
    Case("Channels", _channels),
    Case("Coils", lambda: (Coils(coil_maps(2, 3, 5, 6)), random_tensor(2, 1, 5, 6))),
    Case("a multiple, one factor per item", lambda: _multiple((6, 5))),
    Case("real images as complex ones", lambda: (RealAsComplex(), random_tensor(2, 3, 5, 4, dtype=torch.float64))),
    Case(
        "coils on real channels",
        lambda: (OnChannels(Coils(coil_maps(1, 3, 5, 4))), random_tensor(2, 2, 5, 4, dtype=torch.float64)),
    ),
    Case("NUFFT with weights", lambda: _nufft(60, 7, 9, toeplitz=False, weights=torch.linspace(0.2, 3, 60))),
    Case("NUFFT sparse, even", lambda: _nufft(90, 8, 6, toeplitz=False)),
    Case("NUFFT sparse, odd, wide kernel", lambda: _nufft(60, 7, 9, backend=SparseGridding(2.0, 7), toeplitz=False)),
    Case("NUFFT sparse, 3-D", lambda: _nufft(100, 4, 6, 5, backend=SparseGridding(), toeplitz=False)),
    Case("NUFFT torchkbnufft", lambda: _nufft(80, 8, 9, backend=TableGridding(), toeplitz=False)),
    Case("NUFFT torchkbnufft, 3-D", lambda: _nufft(60, 5, 4, 6, backend=TableGridding(), toeplitz=False)),
    Case("NUFFT finufft", lambda: _nufft(80, 8, 9, backend=Finufft(), toeplitz=False)),
    Case("NUFFT finufft, 3-D", lambda: _nufft(70, 4, 6, 5, backend=Finufft(), toeplitz=False)),
    Case("NUFFT radial, golden angle", lambda: _measured(radial((8, 9), 12, step=GOLDEN_ANGLE), 8, 9)),
    Case("NUFFT spiral", lambda: _measured(spiral((9, 8), 5), 9, 8)),
    Case("NUFFT echo-planar", lambda: _measured(echo_planar((7, 8)), 7, 8)),
    # A kernel of ten points: the convolution and the interpolations agree to 1e-8.
    Case("NUFFT sparse, convolution", lambda: _nufft(90, 8, 7, backend=SparseGridding(2.0, 10)), 1e-7),
    Case("nufft_sense, fewer samples than pixels", lambda: _nufft_sense(40, 6, 7), 1e-7),
    Case("nufft_sense, maps per item", lambda: _nufft_sense(70, 6, 8, batch=3), 1e-7),
    Case(
        "ParallelBeam, a stack of slices",
        lambda: (_parallel((5, 6), 14)[0], random_tensor(2, 1, 3, 5, 6, dtype=torch.float64)),
    ),
    Case("ConeBeam", lambda: _cone((4, 5, 6), 14, True)),
    Case("ConeBeam, on the fly", lambda: _cone((5, 6, 5), 9, False)),
    Case("sense without maps", lambda: _single((7, 8), point_mask(7, 8))),
]
