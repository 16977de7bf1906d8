"""Sampling masks of Cartesian k-space, centred at index ``n // 2``."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

__all__ = [
    "GOLDEN_ANGLE",
    "KINDS",
    "achieved_acceleration",
    "acs_block",
    "bounding_box",
    "centred",
    "sigpy_mri",
    "undersampling_mask",
]


def centred(n: int, width: int) -> slice:
    """The central ``width`` samples, around index ``n // 2``."""
    start = n // 2 - width // 2
    return slice(start, start + width)


def _weights(shape: Sequence[int]) -> np.ndarray:
    """Gaussian density with mean n/2 and standard deviation n/4 along every axis."""
    density = np.ones(())
    for n in shape:
        density = np.multiply.outer(density, np.exp(-((np.arange(n) - n / 2) ** 2) / (2 * (n / 4) ** 2)))
    return density


def _choose(
    shape: tuple[int, ...], acs: int, accel: float, rng: np.random.Generator, weights: np.ndarray | None
) -> np.ndarray:
    """``floor(size / accel)`` positions: the ACS block, and the rest drawn without replacement."""
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(centred(n, min(acs, n)) for n in shape)] = True
    rest = np.flatnonzero(~mask)
    n = int(mask.size / accel) - (mask.size - len(rest))
    p = None if weights is None else weights.ravel()[rest] / weights.ravel()[rest].sum()
    mask.ravel()[rng.choice(rest, size=n, replace=False, p=p)] = True
    return mask


def _equispaced(shape: tuple[int, int], acs: int, accel: float, rng: np.random.Generator) -> np.ndarray:
    acs = min(acs, shape[1])
    mask = np.zeros(shape[1], dtype=bool)
    mask[centred(shape[1], acs)] = True
    rest = np.flatnonzero(~mask)
    n = int(shape[1] / accel) - acs
    mask[rest[((np.arange(n) + rng.random()) * len(rest) / max(n, 1)).astype(int)]] = True
    return mask


def sigpy_mri() -> ModuleType:
    """``sigpy.mri``, parts of which are compiled by numba.

    Numba fails if it finds no folder for its cache (a read-only installation without a home directory). Then it gets a folder for
    this process that only this user can write to, because a cache contains code.
    """
    try:
        import sigpy.mri
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        import numba

        folder = tempfile.mkdtemp(prefix="medrecon-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
        import sigpy.mri
    return sigpy.mri


def _poisson(shape: tuple[int, int], acs: int, accel: float, rng: np.random.Generator) -> np.ndarray:
    poisson = sigpy_mri().poisson
    seed = int(rng.integers(2**31))
    calibration = tuple(min(acs, n - 2) for n in shape)  # sigpy divides by the number of positions outside
    mask = np.abs(poisson(shape, accel, calib=calibration, crop_corner=False, seed=seed)) > 0
    mask[tuple(centred(n, min(acs, n)) for n in shape)] = True  # sigpy places odd widths one sample off centre
    return mask


GOLDEN_ANGLE = np.pi * (5**0.5 - 1) / 2
"""111.25 degrees: any number of consecutive spokes covers the half circle nearly uniformly (Winkelmann, IEEE TMI 26, 2007)."""


def _rasterised(shape: tuple[int, int], radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Mask of the grid positions nearest to points in polar coordinates; radius 1 is the edge of k-space."""
    index = [
        np.clip(np.round(n // 2 + (n // 2) * radius * direction).astype(int), 0, n - 1)
        for n, direction in zip(shape, (np.sin(angle), np.cos(angle)), strict=True)
    ]
    mask = np.zeros(shape, bool)
    mask[index[0], index[1]] = True
    return mask


def _within(shape: tuple[int, int], acs: int, accel: float, grow: Callable[[int], np.ndarray], what: str) -> np.ndarray:
    """The mask ``grow(n)`` of the largest ``n`` that, with the ACS, does not exceed ``1 / accel`` of k-space."""
    budget = int(shape[0] * shape[1] / accel)
    centre = np.zeros(shape, bool)
    centre[tuple(centred(n, min(acs, n)) for n in shape)] = True
    low, high = 0, 2
    while (grow(high) | centre).sum() <= budget:
        low, high = high, 2 * high
        if high > 64 * max(shape):
            reached = shape[0] * shape[1] / (grow(low) | centre).sum()
            raise ValueError(
                f"{what} leaves out the corners, so its acceleration is at least {reached:.2f}; give a higher acceleration"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (grow(middle) | centre).sum() <= budget else (low, middle)
    return grow(low) | centre


def _radial(shape: tuple[int, int], acs: int, accel: float, rng: np.random.Generator) -> np.ndarray:
    """Spokes through the centre at golden-angle steps."""
    first = rng.uniform(0, np.pi)
    along = np.linspace(-1, 1, 4 * max(shape) + 1)

    def spokes(n: int) -> np.ndarray:
        angles = first + GOLDEN_ANGLE * np.arange(n)
        return _rasterised(shape, *(a.ravel() for a in np.broadcast_arrays(along[None], angles[:, None])))

    return _within(shape, acs, accel, spokes, "a radial mask")


def _spiral(shape: tuple[int, int], acs: int, accel: float, rng: np.random.Generator) -> np.ndarray:
    """One arm of an Archimedean spiral from the centre to the edges, in quarters of a turn."""
    first = rng.uniform(0, 2 * np.pi)

    def arm(quarters: int) -> np.ndarray:
        turns = quarters / 4
        t = np.sqrt(np.linspace(0, 1, int(8 * (turns + 1) * max(shape))))  # equally spaced along the arm
        return _rasterised(shape, t, first + 2 * np.pi * turns * t)

    return _within(shape, acs, accel, arm, "a spiral mask")


KINDS: dict[str, Callable[[tuple[int, int], int, float, np.random.Generator], np.ndarray]] = {
    "equispaced": _equispaced,
    "random": lambda shape, acs, accel, rng: _choose(shape[1:], acs, accel, rng, None),
    "gaussian1d": lambda shape, acs, accel, rng: _choose(shape[1:], acs, accel, rng, _weights(shape[1:])),
    "gaussian2d": lambda shape, acs, accel, rng: _choose(shape, acs, accel, rng, _weights(shape)),
    "poisson": _poisson,
    "radial": _radial,
    "spiral": _spiral,
}


def undersampling_mask(
    shape: Sequence[int], kind: str = "gaussian1d", accel: float = 4.0, acs: int = 24, seed: int = 0
) -> np.ndarray:
    """A sampling mask with about ``1 / accel`` of k-space, ACS included.

    Args:
        shape: shape of k-space, ``(y, x)``.
        kind: ``equispaced``, ``random`` and ``gaussian1d`` (density exp(-(k - n/2)^2 / (2 (n/4)^2))) sample
            ``floor(n / accel)`` columns; ``gaussian2d`` samples ``floor(n_y n_x / accel)`` points in the same way; ``poisson`` is
            sigpy's variable-density Poisson disc; ``radial`` samples the grid points nearest to golden-angle spokes, ``spiral``
            those nearest to one spiral arm, as many as fit into ``1 / accel``.
        accel: acceleration of the whole mask, ACS included.
        acs: number of fully sampled columns around ``n // 2`` (for masks of points: width of the fully sampled square).
        seed: random seed.

    Returns:
        bool, true where sampled, ``(x,)`` for column masks and ``(y, x)`` for the others.

    Raises:
        ValueError: for an unknown kind, an acceleration below 1 (or below the lowest of a radial or spiral mask), or an ACS
            larger than the whole mask.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown mask kind {kind!r}; choose one of {', '.join(KINDS)}")
    if not accel >= 1:
        raise ValueError(f"the acceleration must be at least 1; got {accel}")
    y, x = shape
    columns = kind in ("equispaced", "random", "gaussian1d")
    budget = int(x / accel) if columns else int(y * x / accel)
    if budget < 1:
        raise ValueError(f"an acceleration of {accel:g} leaves no samples of {y} x {x}; lower it")
    calibration = min(acs, x) if columns else min(acs, y) * min(acs, x)
    if acs < 0 or calibration > budget:
        what = f"{acs} ACS columns" if columns else f"{acs} x {acs} ACS points"
        raise ValueError(f"{what} do not fit into {budget} samples ({y} x {x} at acceleration {accel:g}); lower one")
    return KINDS[kind]((y, x), acs, accel, np.random.default_rng(seed))


def achieved_acceleration(mask: np.ndarray) -> float:
    """Number of positions divided by the number of sampled positions."""
    return mask.size / max(int(mask.sum()), 1)


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """Mask of the smallest block of ``(y, x)`` that contains every true element."""
    rows, columns = np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0))
    inside = [np.maximum.accumulate(a) & np.maximum.accumulate(a[::-1])[::-1] for a in (rows, columns)]
    return inside[0][:, None] & inside[1]


def acs_block(mask: np.ndarray, least: int = 1) -> tuple[slice, slice]:
    """The largest fully sampled block centred at ``(y // 2, x // 2)``; it may be rectangular or empty.

    Args:
        mask: bool mask ``(y, x)``, or ``(x,)`` for equal rows (the block then has one row).
        least: smallest height and width; smaller blocks are returned only if there are no others.
    """
    plane: np.ndarray = np.atleast_2d(mask)
    best, block = (False, 0), (slice(0, 0), slice(0, 0))
    n_rows, n_columns = plane.shape
    width = n_columns
    for height in range(1, n_rows + 1):
        rows: np.ndarray = np.all(plane[centred(n_rows, height)], axis=0)
        # A taller block cannot be wider, so the width only shrinks.
        while width and not rows[centred(n_columns, width)].all():
            width -= 1
        merit = (min(height, width) >= least, height * width)
        if width and merit > best:
            best, block = merit, (centred(n_rows, height), centred(n_columns, width))
    return block
