"""Images that a page compares the reconstruction with, and pictures of the data, from the problem of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from medrecon.data.errors import InputError
from medrecon.data.masks import acs_block
from medrecon.noise import Noise
from medrecon.problems.base import Problem
from medrecon.problems.cartesian import Cartesian
from medrecon.problems.coil_images import CoilImages
from medrecon.problems.dynamic import Dynamic
from medrecon.problems.images import Images
from medrecon.problems.maps import CoilProblem
from medrecon.problems.noncartesian import NonCartesian
from medrecon.problems.tomography import Tomography
from medrecon.report.case import Classical, Inputs
from medrecon.sample import sample
from medrecon.solvers.settings import make_solver

__all__ = ["classical", "inputs_of", "zero_filled"]

_SHORT: Mapping[str, Mapping[str, Any]] = {
    "tv": {"n_iter": 20},
    "cg-sense": {"n_iter": 15},
    "low-rank": {"n_iter": 20},
    "sirt": {"n_iter": 50},
}
"""Settings of short runs, for a comparison within seconds."""
_DECADES = 4.0
"""Range of the picture of k-space, powers of ten."""


def _is_volume(problem: Problem) -> bool:
    """Whether an item is a whole volume."""
    return len(problem.image_shape) == 4


def _planes_of(problem: Problem, images: np.ndarray) -> np.ndarray:
    """Images ``(slices, y, x)`` or ``(slices, frames, y, x)`` of items as planes, in the order of the reconstruction."""
    return images.swapaxes(0, 1).reshape(-1, *images.shape[-2:]) if problem.has_frames else images


def _estimate(problem: Problem, name: str, settings: Mapping[str, Any], shown: Sequence[int]) -> np.ndarray:
    """The estimate of a solver without a prior, at the shown planes ``(shown, y, x)``."""
    solver = make_solver(name, {**problem.tuned.get(name, {}), **settings})
    problem = problem.suited_to(solver)
    n, frames = problem.n_items, problem.has_frames
    items = [0] if _is_volume(problem) else sorted({plane % n for plane in shown})
    done: dict[int, np.ndarray] = {}
    for item in items:
        at = slice(item, item + 1)
        scaled = problem.likelihood(at, torch.device("cpu"))
        fitted = problem.solver_for(at, solver, torch.device("cpu"))
        fitted.check(scaled.likelihood)
        x = sample(fitted, None, scaled.likelihood, torch.tensor([1.0, 0.0]), noise=Noise([0]))
        image = problem.to_image(x[None], at, scaled.image_scale)[0]
        done[item] = np.asarray((image if problem.real else image.abs()).float())
        problem.release(at)
    if _is_volume(problem):
        return done[0][list(shown)]
    return np.stack([done[plane % n][0, plane // n] if frames else done[plane][0] for plane in shown])


def _tried(problem: Problem, names: Sequence[str], shown: Sequence[int]) -> Classical | None:
    """The first of some solvers that can work with a problem."""
    for name in names:
        settings = _SHORT.get(name, {})
        try:
            image = _estimate(problem, name, settings, shown)
        except (InputError, TypeError):  # the solver cannot work with this kind of data
            continue
        solver = make_solver(name, {**problem.tuned.get(name, {}), **settings})
        return Classical(name, {one.name: getattr(solver, one.name) for one in fields(solver)}, image)
    return None


def zero_filled(problem: Problem, shown: Sequence[int], solver: str) -> Classical | None:
    """The zero-filled image of the shown planes; for sinograms filtered back-projection, for denoising the input.

    Args:
        problem: problem of the scan.
        shown: indices of the planes.
        solver: name of the solver of the reconstruction, which is not repeated.
    """
    if isinstance(problem, Images) and problem.physics.task == "denoise":
        array = problem.scan.array[list(shown)]
        return Classical("input", {}, (np.abs(array) if problem.is_complex else array).astype(np.float32))
    name = "fbp" if isinstance(problem, Tomography) else "zero-filled"
    return None if name == solver else _tried(problem, [name], shown)


def classical(problem: Problem, shown: Sequence[int], solver: str) -> Classical | None:
    """A short classical reconstruction of the shown planes; ``None`` for volumes that are one unknown, which take too long.

    Args: as for :func:`zero_filled`.
    """
    if _is_volume(problem):
        return None
    names = {Dynamic: ["low-rank", "tv"], Tomography: ["tv", "sirt"]}.get(type(problem), ["tv", "cg-sense"])
    return _tried(problem, [name for name in names if name != solver], shown)


def _log_magnitude(kspace: np.ndarray) -> np.ndarray:
    """Logarithm of the magnitude of k-space ``(coils, y, x)``, root of the sum of squares, from 0 to 1."""
    magnitude = np.sqrt((np.abs(kspace.astype(np.complex128)) ** 2).sum(axis=0))
    top = magnitude.max()
    with np.errstate(divide="ignore"):
        decades = np.log10(magnitude / top) if top > 0 else np.full(magnitude.shape, -np.inf)
    return np.clip(1 + decades / _DECADES, 0, 1).astype(np.float32)


def _calibration(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The fully sampled centre, or ``None`` if it is empty or everything."""
    rows, columns = acs_block(mask)
    box = rows.start, rows.stop, columns.start, columns.stop
    empty = box[1] <= box[0] or box[3] <= box[2]
    return None if empty or mask.all() else box


def _points(trajectory: np.ndarray, size: int = 256, most: int = 200_000) -> np.ndarray:
    """Points of a trajectory ``(..., 2 or 3)``, the last two axes, as a picture, uint8."""
    points = trajectory.reshape(-1, trajectory.shape[-1])[:, -2:]
    points = points[:: 1 + len(points) // most]
    reach = max(float(np.abs(points).max()), 1e-12)
    at = np.clip(np.rint((points / reach + 1) / 2 * (size - 1)), 0, size - 1).astype(int)
    out = np.zeros((size, size), np.uint8)
    out[at[:, 0], at[:, 1]] = 255
    return out


def _maps(problem: CoilProblem, item: int) -> np.ndarray | None:
    """Magnitudes of the coil maps, the first set; ``None`` for a single coil."""
    if isinstance(problem, CoilImages):
        return None
    maps = np.asarray(problem.maps(slice(item, item + 1))[0].abs())
    if maps.ndim == 4:  # sets of maps, or a volume
        maps = maps[0] if len(problem.image_shape) == 3 else maps[:, maps.shape[1] // 2]
    return None if len(maps) == 1 else maps


def inputs_of(problem: Problem, plane: int) -> Inputs | None:
    """Pictures of the data of a plane; ``None`` for a kind of problem that has none.

    Args:
        problem: problem of the scan.
        plane: index of the plane in the image.
    """
    item = 0 if _is_volume(problem) else plane % problem.n_items
    if isinstance(problem, Cartesian | Dynamic):
        frame = plane // problem.n_items
        kspace, mask = (
            (problem.kspace[item], problem.mask_of(item))
            if isinstance(problem, Cartesian)
            else (problem.scan.kspace[frame, item], problem.scan.mask[frame])
        )
        mask = np.broadcast_to(np.atleast_2d(mask), kspace.shape[-2:])
        return Inputs(
            plane=plane,
            kspace=_log_magnitude(kspace * mask),
            mask=mask,
            acs=_calibration(mask),
            coil_maps=_maps(problem, item),
        )
    if isinstance(problem, NonCartesian):
        return Inputs(plane=plane, trajectory=_points(problem.scan.trajectory[item]), coil_maps=_maps(problem, item))
    if isinstance(problem, Tomography):
        lines = problem.scan.sinogram[item]
        return Inputs(plane=plane, sinogram=lines if lines.ndim == 2 else lines[:, lines.shape[1] // 2])
    if isinstance(problem, Images):
        image = problem.scan.array[plane * len(problem.scan.array) // problem.n_slices]  # of thin slices, the thick one
        return Inputs(plane=plane, image=np.abs(image) if problem.is_complex else image)
    return None
