"""Density compensation of trajectories: the area (or volume) of k-space that every sample stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medrecon.operators.nufft_backends import SparseTransform, TableTransform, checked_trajectory

__all__ = ["pipe_menon_dcf", "voronoi_dcf"]


def pipe_menon_dcf(trajectory: Tensor, shape: Sequence[int], n_iter: int = 30) -> Tensor:
    """Density compensation ``(samples,)`` by iteration, ``w <- w / (G G^T w)`` with the interpolation kernel ``G``.

    ``A^H (w y)`` is then an image: the weights are the areas of k-space that the samples stand for.

    Args:
        trajectory: points as :class:`medrecon.operators.NUFFT` takes them, 2-D or 3-D.
        shape: shape of the image.
        n_iter: number of iterations.

    Reference: Pipe and Menon, MRM 41 (1999).
    """
    points = checked_trajectory(trajectory, tuple(shape)).cpu()
    if len(shape) == 3:
        return _pipe_by_table(points, tuple(shape), n_iter)
    kernel = SparseTransform(points, tuple(shape), 2.0, 6, torch.complex128)
    # The signs of the kernel shift the image; only its magnitudes matter here.
    for part in (kernel.matrix, kernel.transpose):
        part.values().abs_()
    G, T = kernel.matrix, kernel.transpose
    w = torch.ones(len(points), 1, dtype=torch.float64)
    for _ in range(n_iter):
        w = w / (G @ (T @ w)).clamp(min=1e-300)
    # Where samples are dense, w times the integral of the kernel's autocorrelation is the area of a sample.
    integral = 1 / (float(kernel.taper.min()) * math.sqrt(math.prod(shape)))
    return w[:, 0] * integral**2 / math.prod(g / n for g, n in zip(kernel.grid, shape, strict=True))


def _pipe_by_table(points: Tensor, shape: tuple[int, ...], n_iter: int) -> Tensor:
    """Pipe and Menon's iteration by torchkbnufft, in little memory; its weights are scaled so that a blob keeps its size."""
    import torchkbnufft as tkbn

    size = torch.tensor(shape, dtype=torch.float64)
    omega = (2 * math.pi * points / size).T.float().contiguous()
    weights = tkbn.calc_density_compensation_function(omega, shape, n_iter)[0, 0].real.double()
    # The spectrum of a smooth image lies in the centre of k-space, which every trajectory samples densely enough.
    grid = torch.meshgrid(*((torch.arange(n) - n // 2) / n for n in shape), indexing="ij")
    blob = (-0.5 * sum(((g / 0.1) ** 2 for g in grid), torch.zeros(()))).to(torch.complex64)[None]
    table = TableTransform(points, shape, 2.0, 6, torch.complex64)
    gridded = table.adjoint(table.forward(blob) * weights.float())
    return weights * float((blob.conj() * blob).real.sum() / (blob.conj() * gridded).real.sum())


def voronoi_dcf(trajectory: Tensor, shape: Sequence[int]) -> Tensor:
    """Density compensation ``(samples,)`` by the areas of Voronoi cells, 2-D only.

    Cells that reach beyond the sampled region are cut at its edge. Points that coincide share their cell.

    Args:
        trajectory: points as :class:`medrecon.operators.NUFFT` takes them.
        shape: shape of the image.

    Raises:
        ValueError: for a 3-D trajectory.

    Reference: Rasche et al., IEEE TMI 18 (1999).
    """
    from scipy.spatial import ConvexHull, Voronoi  # slow to import, and rarely used

    points = checked_trajectory(trajectory, tuple(shape)).cpu()
    if points.shape[1] != 2:
        raise ValueError("Voronoi density compensation is for 2-D trajectories; use pipe_menon_dcf")
    unique, inverse, counts = np.unique(points.numpy().round(9), axis=0, return_inverse=True, return_counts=True)
    # Mirror images of the points, half a cell beyond the sampled region, close the outermost cells at its edge.
    reach = points.abs().amax(0)
    corners = bool(((points / reach).norm(dim=1) > 1.1).any())  # a rectangle is sampled, not only an ellipse
    mirrored = [unique]
    if corners:
        for axis in (0, 1):
            for edge in (unique[:, axis].min() - 0.5, unique[:, axis].max() + 0.5):
                copy = unique.copy()
                copy[:, axis] = 2 * edge - copy[:, axis]
                mirrored.append(copy)
    else:
        radius = np.linalg.norm(unique / (reach.numpy() + 0.5), axis=1, keepdims=True)
        outer = radius[:, 0] > 0.5
        mirrored.append(unique[outer] * (2 / radius[outer] - 1))
    cells = Voronoi(np.concatenate(mirrored))
    areas = np.zeros(len(unique))
    for i in range(len(unique)):
        region = cells.regions[cells.point_region[i]]
        if region and -1 not in region:
            areas[i] = ConvexHull(cells.vertices[region]).volume
    return torch.from_numpy((areas / counts)[inverse.ravel()])
