"""Volumes with a known truth, and what is measured of them, for ``volumes.py``. Not a program."""

from __future__ import annotations

from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from problems import DATA, PHOTONS, WATER
from torch import Tensor

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils
from medrecon.data.phase import smooth_phase
from medrecon.likelihood import Gaussian
from medrecon.metrics import scores
from medrecon.operators import ParallelBeam, Slices, sense
from medrecon.operators.base import Composed
from medrecon.operators.image import downsample_mean
from medrecon.operators.linalg import operator_norm
from medrecon.operators.weights import Weights

NOISE = 0.01
"""Noise of k-space and of thick slices per real component, for images of unit scale."""
VIEWS = 16


class Case(NamedTuple):
    """A measured volume.

    Args:
        data: likelihood of the volume at unit scale.
        truth: magnitudes, or attenuation in units of water, ``(z, y, x)``; ``None`` where it is not known.
        bundle: name of the prior.
        complex: whether images have a real and an imaginary part.
        first: the image without a method, ``(z, y, x)``: zero-filled, filtered back-projection, or linear interpolation.
        edges: whether ``truth`` has another sharpness in plane, so that only edges along z can be compared.
    """

    data: Gaussian
    truth: np.ndarray
    bundle: str
    complex: bool
    first: np.ndarray
    edges: bool = False


def _cropped(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Coarser pixels by cropping k-space, ``(z, y, x)``."""
    k = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    middle = tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(volume.shape, shape, strict=True))
    image = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k[middle])))
    return np.abs(image).astype(np.float32) * np.float32(np.prod(shape) / volume.size)


def _padded(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    margins = [n - m for n, m in zip(shape, volume.shape, strict=True)]
    return np.pad(volume, [(n // 2, n - n // 2) for n in margins])


def head(side: int, slices: int, offset: int = 0) -> np.ndarray:
    """Magnitudes of the head at isotropic voxels of ``256 / side`` mm, ``(z, y, x)``: row 0 anterior, slice 0 inferior."""
    image = nib.as_closest_canonical(nib.load(DATA / "volumes" / "head_t1_1mm.nii.gz"))
    volume = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)[:, ::-1, ::-1]
    volume = _padded(volume, (176, 256, 256))
    volume = _cropped(volume, (176 * side // 256, side, side))
    return _unit(_middle(volume, slices, offset))


def _middle(volume: np.ndarray, slices: int, offset: int) -> np.ndarray:
    first = min(max(len(volume) // 2 - slices // 2 + offset, 0), max(len(volume) - slices, 0))
    return np.ascontiguousarray(volume[first : first + slices])


def _unit(volume: np.ndarray) -> np.ndarray:
    return volume / np.percentile(volume, 99.5)


def other_head(side: int, slices: int, offset: int = 0) -> np.ndarray:
    """Another subject, for tuning: T1 slices of omsL_12, every 3 mm, with pixels of 3 mm or more; 1 of side is 256 mm."""
    with np.load(DATA / "train" / "brain_slices_256_val.npz") as archive:
        chosen = (archive["subject"] == "omsL_12") & (archive["contrast"] == "T1")
        z, images = archive["z_mm"][chosen], archive["img"][chosen].astype(np.float32)
    order = np.argsort(z)
    rows = [order[0]]
    for k in order[1:]:  # one of two interleaved series
        if z[k] - z[rows[-1]] > 2.5:
            rows.append(k)
    volume = images[rows]
    volume = np.stack([_cropped(one[None], (1, side, side))[0] for one in volume])
    return _unit(_middle(volume, slices, offset))


def skull(side: int, slices: int, offset: int = 0) -> np.ndarray:
    """The plastic skull, 1 is water, with voxels of 0.9 x 256 / side mm in plane."""
    with np.load(DATA / "volumes" / "ct_skull_phantom_zpair.npz") as archive:
        volume = archive["thin"].astype(np.float32) / 1000
    f = 256 // side
    volume = volume[: len(volume) // f * f].reshape(-1, f, side, f, side, f).mean((1, 3, 5))
    return _middle(volume, slices, offset)


def _complex(truth: np.ndarray) -> Tensor:
    """``(1, 2, z, y, x)`` with a phase that is smooth in three dimensions."""
    phase = smooth_phase(truth.shape, np.random.RandomState(0), pixels=truth.shape[-1] / 2)
    return torch.from_numpy(np.stack([truth * np.cos(phase), truth * np.sin(phase)])[None].astype(np.float32))


def _noisy(clean: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.view_as_real(clean) if clean.is_complex() else clean
    noisy = parts + NOISE * torch.randn(parts.shape, generator=generator)
    return torch.view_as_complex(noisy) if clean.is_complex() else noisy


def mri(truth: np.ndarray, accel: int, by_slice: bool) -> Case:
    """Eight coils: one mask of both phase encodings, or a mask of columns per slice."""
    n, *shape = truth.shape
    maps = torch.from_numpy(loop_coils(shape, 8))[None]
    acs = max(6, 24 * shape[0] // 256) if by_slice else max(8, 24 * shape[0] // 256)
    kind = "gaussian1d" if by_slice else "gaussian2d"
    masks = [undersampling_mask(shape, kind, accel, acs, k) for k in (range(n) if by_slice else [0])]
    masks = torch.from_numpy(np.stack([np.broadcast_to(one, shape) for one in masks])).float()[:, None]
    A = Slices(sense(maps, masks), n)
    y = _noisy(A(_complex(truth))) * masks
    data = Gaussian(A, y, NOISE)
    return Case(data, truth, "brain_mri", True, data.adjoint_y[0].norm(dim=0).numpy())


def thick(truth: np.ndarray, factor: int = 4) -> Case:
    """Magnitudes of slices ``factor`` times as thick."""
    n = len(truth) // factor * factor
    truth = truth[:n]
    A = downsample_mean(truth.shape, (factor, 1, 1), orthonormal=True)
    y = _noisy(A(torch.from_numpy(truth)[None, None]))
    return Case(Gaussian(A, y, NOISE), truth, "brain_mri_magnitude", False, _interpolated(y, factor))


def _interpolated(y: Tensor, factor: int) -> np.ndarray:
    """Linear interpolation of thick slices, which are measured times the root of their number."""
    thick = y[0, 0].numpy() / factor**0.5
    at = np.clip((np.arange(len(thick) * factor) - (factor - 1) / 2) / factor, 0, len(thick) - 1)
    low = np.minimum(at.astype(int), len(thick) - 2)
    part = (at - low)[:, None, None].astype(np.float32)
    return (1 - part) * thick[low] + part * thick[low + 1]


def sparse_ct(truth: np.ndarray, views: int, degrees: float) -> Case:
    """Parallel views of every slice with photon noise."""
    n, side, _ = truth.shape
    spacing = 0.90234375 * 256 / side * WATER
    angles = torch.arange(views, dtype=torch.float64) * np.deg2rad(degrees) / views
    project = ParallelBeam(angles, (side, side), spacing=spacing)
    line = project(torch.from_numpy(truth)[:, None])
    counts = torch.poisson(PHOTONS * (-line).exp(), generator=torch.Generator().manual_seed(0)).clamp(min=1)
    y, root = -(counts / PHOTONS).log(), counts.sqrt()
    unit = operator_norm(Composed(Weights(root), project).normal, torch.ones(n, 1, side, side), 20).max()
    A = Slices(Composed(Weights(root / unit), project), n)
    data = Gaussian(A, (root * y / unit)[None], float(1 / unit))
    return Case(data, truth, "chest_ct", False, project.fbp(y, "hann")[:, 0].numpy())


def real_pair(truth: np.ndarray) -> Case:
    """Measured slices of 5 mm; ``truth`` are those of 1 mm of the same scan, with a sharper kernel."""
    n, side, _ = truth.shape
    with np.load(DATA / "volumes" / "ct_skull_phantom_zpair.npz") as archive:
        thick = archive["thick"].astype(np.float32) / 1000
        thin = len(archive["thin"])
    f, first = 256 // side, max(thin // 2 - n // 2, 0) // 5
    thick = thick.reshape(len(thick), side, f, side, f).mean((2, 4))[first : first + n // 5]
    A = downsample_mean(truth.shape, (5, 1, 1), orthonormal=True)
    y = torch.from_numpy(thick)[None, None] * 5**0.5
    return Case(Gaussian(A, y, NOISE), truth, "chest_ct", False, _interpolated(y, 5), edges=True)


def thin_slices(side: int, slices: int, offset: int = 0) -> np.ndarray:
    """The plastic skull with slices of 1 mm, a multiple of five of them."""
    with np.load(DATA / "volumes" / "ct_skull_phantom_zpair.npz") as archive:
        volume = archive["thin"].astype(np.float32) / 1000
    f = 256 // side
    volume = volume.reshape(len(volume), side, f, side, f).mean((2, 4))
    n = slices // 5 * 5
    first = max(len(volume) // 2 - n // 2, 0) // 5 * 5
    return np.ascontiguousarray(volume[first : first + n])


def edge_width(x: np.ndarray, truth: np.ndarray, reach: int = 8) -> float:
    """Median distance between 10 % and 90 % of isolated edges along z, slices; edges of at least 0.4 between two plateaus."""
    out = []
    step = np.abs(np.diff(truth, axis=0))
    for z, row, column in zip(*np.nonzero(step[reach:-reach] > 0.25), strict=True):
        part = slice(z + 1, z + 2 * reach + 1)
        line, profile = truth[part, row, column], x[part, row, column]
        before, after = line[: reach - 2], line[reach + 2 :]
        rise = after.mean() - before.mean()
        if max(np.ptp(before), np.ptp(after)) > 0.1 or abs(rise) < 0.4:
            continue
        rising = (profile - before.mean()) / rise
        low, high = (_crossing(rising, level, reach - 1) for level in (0.1, 0.9))
        if low is not None and high is not None:
            out.append(abs(high - low))
    return float(np.median(out)) if out else float("nan")


def _crossing(rising: np.ndarray, level: float, middle: int) -> float | None:
    """Where a profile that rises from 0 to 1 crosses a level, the place nearest to its middle; ``None``: nowhere."""
    above = rising > level
    places = np.flatnonzero(above[1:] != above[:-1])
    if not len(places):
        return None
    k = places[np.abs(places - middle).argmin()]
    return float(k + (level - rising[k]) / (rising[k + 1] - rising[k]))


SOURCES = {"head": head, "tune": other_head, "skull": skull, "thin": thin_slices}
CASES = {
    "mri-2d-r8": ("head", lambda x: mri(x, 8, by_slice=False)),
    "mri-1d-r4": ("head", lambda x: mri(x, 4, by_slice=True)),
    "mri-1d-r8": ("head", lambda x: mri(x, 8, by_slice=True)),
    "thick-x4": ("head", thick),
    "ct-16-views": ("skull", lambda x: sparse_ct(x, VIEWS, 180.0)),
    "ct-5-mm": ("thin", real_pair),
    "ct-90-degrees": ("skull", lambda x: sparse_ct(x, 64, 90.0)),
}


def truth_of(name: str, side: int, slices: int, tuning: bool = False) -> np.ndarray:
    """The volume of a case; with ``tuning``, that of another subject, or other slices of the skull."""
    source, _ = CASES[name]
    offset = slices if tuning and source != "head" else 0
    return SOURCES["tune" if tuning and source == "head" else source](side, slices, offset)


def case(name: str, truth: np.ndarray) -> Case:
    """A case by its name, of a volume."""
    return CASES[name][1](truth)


def measures(x: np.ndarray, truth: np.ndarray, edges: bool = False) -> dict[str, float]:
    """PSNR and SSIM in three planes, and the mean difference between slices over that of the truth; or the width of edges."""
    out = {"z": float(np.abs(np.diff(x, axis=0)).mean() / np.abs(np.diff(truth, axis=0)).mean())}
    if edges:
        return out | {"edge": edge_width(x, truth), "edge of the truth": edge_width(truth, truth)}
    for name, axes in {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}.items():
        a, b = x.transpose(axes), truth.transpose(axes)
        keep = b.reshape(len(b), -1).max(1) > 0.1 * truth.max()  # planes with an object
        pairs = zip(a[keep], b[keep], strict=True)
        each = [scores(one[None], other[None], float(truth.max())) for one, other in pairs]
        out |= {f"{what} {name}": float(np.mean([one[what] for one in each])) for what in ("psnr", "ssim")}
    return out
