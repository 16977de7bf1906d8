"""Sampling masks of Cartesian k-space, centred at index ``n // 2``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["KINDS", "achieved_acceleration", "acs_block", "centred", "undersampling_mask"]


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


def _poisson(shape: tuple[int, int], acs: int, accel: float, rng: np.random.Generator) -> np.ndarray:
    from sigpy.mri import poisson

    seed = int(rng.integers(2**31))
    calibration = tuple(min(acs, n - 2) for n in shape)  # sigpy divides by what is left outside
    mask = np.abs(poisson(shape, accel, calib=calibration, crop_corner=False, seed=seed)) > 0
    mask[tuple(centred(n, min(acs, n)) for n in shape)] = True  # sigpy centres an odd width one sample off
    return mask


KINDS: dict[str, Callable[[tuple[int, int], int, float, np.random.Generator], np.ndarray]] = {
    "equispaced": _equispaced,
    "random": lambda shape, acs, accel, rng: _choose(shape[1:], acs, accel, rng, None),
    "gaussian1d": lambda shape, acs, accel, rng: _choose(shape[1:], acs, accel, rng, _weights(shape[1:])),
    "gaussian2d": lambda shape, acs, accel, rng: _choose(shape, acs, accel, rng, _weights(shape)),
    "poisson": _poisson,
}


def undersampling_mask(
    shape: Sequence[int], kind: str = "gaussian1d", accel: float = 4.0, acs: int = 24, seed: int = 0
) -> np.ndarray:
    """A mask that keeps about ``1 / accel`` of k-space, ACS included.

    Args:
        shape: ``(y, x)``.
        kind: ``equispaced``, ``random`` and ``gaussian1d`` (density exp(-(k - n/2)^2 / (2 (n/4)^2))) sample columns, of
            which ``floor(n / accel)`` are kept; ``gaussian2d`` samples ``floor(n_y n_x / accel)`` points likewise;
            ``poisson`` is sigpy's variable-density Poisson disc.
        accel: acceleration of the whole mask, ACS included.
        acs: fully sampled columns (or side of the fully sampled square, for the last two kinds) round ``n // 2``.
        seed: of numpy's ``default_rng``.

    Returns:
        bool, true where sampled, ``(x,)`` for column masks and ``(y, x)`` for the others.

    Raises:
        ValueError: for an unknown kind, ``accel < 1``, or an ACS that takes more than the whole budget.
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
