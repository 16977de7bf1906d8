"""Every solver in single precision at small noise: the image is that of double precision.

Singular values are 0 or at least 0.1 here, so that rounding is amplified by 10 at most: 1e-4 of the maximum is asked of all.
"""

import copy

import pytest
import torch

from medrecon.data.phantom import loop_coils
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators import Blur, CartesianMRI, Dense, Weights, crop, downsample_mean, sense
from medrecon.operators.bridge import AsComplex
from medrecon.priors import GaussianPrior
from medrecon.sample import sample

from .expectations import EXPECTED, GENERAL, SINGLE_LEVEL, make

SHAPE = (2, 8, 9)
NOISE = (1e-2, 1e-4, 1e-6, 0.0)
LEVELS = karras(4.0, 0.01, 12)


class Doubled(Noise):
    """The same numbers for both types: drawn in float64, then rounded."""

    def __call__(self, shape, dtype, device=None):
        return super().__call__(shape, torch.float64, device).to(dtype)


def _points(fraction, seed=0):
    return torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(seed)) < fraction


def _blur():
    """Its spectrum lies between 0.2 and 1."""
    return Blur(torch.tensor([[0.2, 0.6, 0.2]], dtype=torch.float64), SHAPE[1:])


def _dense():
    q = torch.linalg.qr(torch.randn(144, 144, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    return Dense(torch.linspace(0.1, 1.0, 60, dtype=torch.float64)[:, None] * q[:60], SHAPE)


OPERATORS = {
    "one coil": lambda: CartesianMRI(_points(0.4)[None, None], SHAPE[1:], torch.complex128) @ AsComplex(),
    "dense": _dense,
    "coarse pixels": lambda: downsample_mean(SHAPE[1:], (2, 3), torch.float64),
    "crop": lambda: crop(SHAPE[1:], (5, 6), torch.float64),
    "inpainting": lambda: Weights(_points(0.5).double()),
    "blur": _blur,
    "coils": lambda: sense(
        torch.from_numpy(loop_coils(SHAPE[1:], 6))[None].to(torch.complex128), _points(0.5)[None, None]
    ),
}


def prior(dtype):
    """Smooth images: standard deviations 0.05 to 0.5 in rotated directions."""
    n = 144
    modes = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    covariance = modes @ torch.diag(torch.linspace(0.05, 0.5, n, dtype=torch.float64) ** 2) @ modes.T
    return GaussianPrior(torch.full(SHAPE, 0.3, dtype=dtype), covariance.to(dtype))


QUICK = ("one coil", "dense", "coils")
PAIRS = [
    pytest.param(name, operator, marks=() if operator in QUICK else pytest.mark.slow)
    for name in GENERAL
    for operator in OPERATORS
    if not EXPECTED[name].rounding and not (EXPECTED[name].operator == "spectral" and operator in ("blur", "coils"))
]
"""``blur`` and ``coils`` are without singular values, which some need."""


@pytest.mark.parametrize(("name", "operator"), PAIRS)
def test_single_precision_is_double_precision(name, operator):
    exact = OPERATORS[operator]()
    single = copy.deepcopy(exact).float()
    x = 0.3 + 0.3 * torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clean = exact(x)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=torch.Generator().manual_seed(2)) * (clean != 0)
    levels = LEVELS if EXPECTED[name].prior else SINGLE_LEVEL
    for noise_std in NOISE:
        y = clean + noise_std * noise
        images = []
        for dtype in (torch.float64, torch.float32):
            A = exact if dtype == torch.float64 else single  # one decomposition: noise is drawn in its directions
            data = Gaussian(A, y.to(dtype.to_complex() if y.is_complex() else dtype), noise_std)
            p = prior(dtype) if EXPECTED[name].prior else None
            images.append(sample(make(name), p, data, levels, noise=Doubled([3])).double())
        assert float((images[0] - images[1]).abs().max()) < 1e-4 * float(images[0].abs().max()), noise_std
