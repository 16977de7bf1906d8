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
    """The ``width`` samples round index ``n // 2``."""
    start = n // 2 - width // 2
    return slice(start, start + width)


def _weights(shape: Sequence[int]) -> np.ndarray:
    """Gaussian density of standard deviation n/4 round n/2 on every axis."""
    density = np.ones(())
    for n in shape:
        density = np.multiply.outer(density, np.exp(-((np.arange(n) - n / 2) ** 2) / (2 * (n / 4) ** 2)))
    return density


def _choose(
    shape: tuple[int, ...], acs: int, accel: float, rng: np.random.Generator, weights: np.ndarray | None
) -> np.ndarray:
    """``floor(size / accel)`` distinct positions, the ACS block among them, the rest drawn without replacement."""
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
    """``sigpy.mri``, parts of which numba compiles.

    Numba refuses to work where it finds no folder for its cache: a read-only installation, without a home. Then it gets one that
    only this user can write, for this process alone: what is read from a cache is code.
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
    calibration = tuple(min(acs, n - 2) for n in shape)  # sigpy divides by what is left outside
    mask = np.abs(poisson(shape, accel, calib=calibration, crop_corner=False, seed=seed)) > 0
    mask[tuple(centred(n, min(acs, n)) for n in shape)] = True  # sigpy centres an odd width one sample off
    return mask


GOLDEN_ANGLE = np.pi * (5**0.5 - 1) / 2
"""111.25 degrees: any number of spokes in a row covers the half circle nearly evenly (Winkelmann et al., IEEE TMI 26, 2007)."""


def _rasterised(shape: tuple[int, int], radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Positions on the grid of points in polar coordinates; radius 1 touches the sides."""
    index = [
        np.clip(np.round(n // 2 + (n // 2) * radius * turn).astype(int), 0, n - 1)
        for n, turn in zip(shape, (np.sin(angle), np.cos(angle)), strict=True)
    ]
    mask = np.zeros(shape, bool)
    mask[index[0], index[1]] = True
    return mask


def _within(shape: tuple[int, int], acs: int, accel: float, grow: Callable[[int], np.ndarray], what: str) -> np.ndarray:
    """The largest ``grow(n)`` that, with the ACS, keeps within the budget; masks that grow with ``n``."""
    budget = int(shape[0] * shape[1] / accel)
    centre = np.zeros(shape, bool)
    centre[tuple(centred(n, min(acs, n)) for n in shape)] = True
    low, high = 0, 2
    while (grow(high) | centre).sum() <= budget:
        low, high = high, 2 * high
        if high > 64 * max(shape):
            reached = shape[0] * shape[1] / (grow(low) | centre).sum()
            raise ValueError(
                f"{what} leaves the corners out and cannot sample more than 1 of {reached:.2f}; raise the acceleration"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (grow(middle) | centre).sum() <= budget else (low, middle)
    return grow(low) | centre


def _radial(shape: tuple[int, int], acs: int, accel: float, rng: np.random.Generator) -> np.ndarray:
    """Spokes through the centre at the golden angle."""
    first = rng.uniform(0, np.pi)
    along = np.linspace(-1, 1, 4 * max(shape) + 1)

    def spokes(n: int) -> np.ndarray:
        angles = first + GOLDEN_ANGLE * np.arange(n)
        return _rasterised(shape, *(a.ravel() for a in np.broadcast_arrays(along[None], angles[:, None])))

    return _within(shape, acs, accel, spokes, "a radial mask")


def _spiral(shape: tuple[int, int], acs: int, accel: float, rng: np.random.Generator) -> np.ndarray:
    """One arm of Archimedes' spiral from the centre to the sides, in quarters of a turn."""
    first = rng.uniform(0, 2 * np.pi)

    def arm(quarters: int) -> np.ndarray:
        turns = quarters / 4
        t = np.sqrt(np.linspace(0, 1, int(8 * (turns + 1) * max(shape))))  # evenly along the arm
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
    """A mask that keeps about ``1 / accel`` of k-space, ACS included.

    Args:
        shape: ``(y, x)``.
        kind: ``equispaced``, ``random`` and ``gaussian1d`` (density exp(-(k - n/2)^2 / (2 (n/4)^2))) sample columns, of
            which ``floor(n / accel)`` are kept; ``gaussian2d`` samples ``floor(n_y n_x / accel)`` points likewise;
            ``poisson`` is sigpy's variable-density Poisson disc; ``radial`` takes the points of the grid nearest to spokes at
            the golden angle, ``spiral`` those nearest to one spiral arm, as many as fit into ``1 / accel``.
        accel: acceleration of the whole mask, ACS included.
        acs: fully sampled columns (or side of the fully sampled square, for masks of points) round ``n // 2``.
        seed: of numpy's ``default_rng``.

    Returns:
        bool, true where sampled, ``(x,)`` for column masks and ``(y, x)`` for the others.

    Raises:
        ValueError: for an unknown kind, ``accel < 1`` (or what a disc of radial or spiral masks cannot reach), or an ACS that
            takes more than the whole budget.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown mask kind {kind!r}; choose one of {', '.join(KINDS)}")
    if not accel >= 1:
        raise ValueError(f"the acceleration must be at least 1; got {accel}")
    y, x = shape
    columns = kind in ("equispaced", "random", "gaussian1d")
    budget = int(x / accel) if columns else int(y * x / accel)
    if budget < 1:
        raise ValueError(f"acceleration {accel:g} leaves no samples of {y} x {x}; lower it")
    wanted = min(acs, x) if columns else min(acs, y) * min(acs, x)
    if acs < 0 or wanted > budget:
        what = f"{acs} ACS columns" if columns else f"{acs} x {acs} ACS points"
        raise ValueError(f"{what} do not fit into {budget} samples ({y} x {x} at acceleration {accel:g}); lower one")
    return KINDS[kind]((y, x), acs, accel, np.random.default_rng(seed))


def achieved_acceleration(mask: np.ndarray) -> float:
    """Positions over sampled positions."""
    return mask.size / max(int(mask.sum()), 1)


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """True in the smallest block of ``(y, x)`` that holds every true element."""
    rows, columns = np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0))
    inside = [np.maximum.accumulate(a) & np.maximum.accumulate(a[::-1])[::-1] for a in (rows, columns)]
    return inside[0][:, None] & inside[1]


def acs_block(mask: np.ndarray, least: int = 1) -> tuple[slice, slice]:
    """The largest fully sampled block that is centred at ``(y // 2, x // 2)``; need not be square, may be empty.

    Args:
        mask: ``(y, x)`` or ``(x,)`` bool (then every row is alike and the block is as tall as its one row).
        least: blocks with a shorter side count only where there is no other.
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
