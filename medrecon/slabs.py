"""Volumes that do not fit into memory: how much they need, how they are cut into slabs, and finished slabs as bytes."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medrecon.data.arguments import as_number
from medrecon.data.errors import InputError
from medrecon.problems.base import Fit, Problem
from medrecon.problems.maps import CoilProblem
from medrecon.problems.stack import Stack
from medrecon.uncertainty import NullSpace, SelfTest

__all__ = ["Memory", "Part", "Parts", "cut", "memory_of"]

_PROGRAM = 0.5e9
"""Python, torch, a network of a bundle and a batch of slices in it, bytes."""
_IMAGES, _DATA = 18, 10
"""Copies of the image and of the data that a solver holds at its peak: estimates, noise, conjugate gradients, transforms."""
_OVERLAP, _MOST_OVERLAP = 4, 16
"""Overlap of slabs, in slices: twice the correlation length of the noise, within these limits."""


@dataclass(frozen=True)
class Memory:
    """Estimated memory of a run, bytes.

    Args:
        fixed: memory that does not depend on the slabs: the program, the data, the coil maps, the images.
        per_slice: further memory for every slice that is sampled at once.
    """

    fixed: float
    per_slice: float

    def of(self, slices: float) -> float:
        """Memory of a run with slabs of some slices."""
        return self.fixed + slices * self.per_slice


def memory_of(problem: Problem, n_samples: int) -> Memory:
    """The memory that a volume needs, samples one after the other.

    Args:
        problem: problem of a volume.
        n_samples: number of samples.
    """
    scan: Any = getattr(problem.slicewise, "scan")  # noqa: B009 - not every problem declares it
    data = next(getattr(scan, name) for name in ("kspace", "samples", "sinogram", "array") if hasattr(scan, name))
    channels, slices, *plane = problem.image_shape
    pixels, measured = channels * math.prod(plane), data.nbytes / slices
    maps = 8 * pixels // 2 * (data.shape[1] if isinstance(problem.slicewise, CoilProblem) else 0)
    images = n_samples * 8 * math.prod(plane) * slices
    several = 0 if n_samples == 1 else n_samples + 12  # samples, and what is computed from them
    return Memory(
        fixed=_PROGRAM + 2 * data.nbytes + maps * slices + 3 * images,
        per_slice=4 * pixels * (_IMAGES + several) + _DATA * max(measured, maps),
    )


def _slabs(n: int, size: int, overlap: int) -> list[range]:
    """Slabs of equal size that cover ``n`` slices, of at most ``size`` slices, neighbours sharing at least ``overlap``."""
    count = math.ceil((n - overlap) / (size - overlap))
    size = math.ceil((n + (count - 1) * overlap) / count)
    starts = [round(k * (n - size) / max(count - 1, 1)) for k in range(count)]
    return [range(start, start + size) for start in starts]


def cut(problem: Problem, max_memory: float, n_samples: int, z_correlation: float) -> Problem:
    """The problem, cut into slabs where the whole volume needs more memory.

    Args:
        problem: problem of a scan.
        max_memory: limit, GB.
        n_samples: number of samples.
        z_correlation: correlation of the noise, slices.

    Raises:
        InputError: if slices are reconstructed one by one, or the volume cannot be cut, or not into slabs that are small enough.
    """
    limit = as_number("max_memory", max_memory, positive=True) * 1e9
    if len(problem.image_shape) != 4:
        raise InputError(
            f"{problem.name}: max_memory is for volumes, but slices are reconstructed one by one, which takes the memory of a "
            "few; leave it out, or reconstruct a volume (--volume)"
        )
    need, n = memory_of(problem, n_samples), problem.image_shape[1]
    if need.of(n) <= limit:
        return problem
    if not isinstance(problem, Stack):
        raise InputError(
            f"{problem.name}: the volume needs about {need.of(n) / 1e9:.1f} GB, and its measurements cross slices, so it cannot "
            f"be cut into slabs; allow more memory (--max-memory {math.ceil(need.of(n) / 1e9)}), or fewer voxels"
        )
    overlap = min(max(_OVERLAP, math.ceil(2 * z_correlation)), _MOST_OVERLAP)
    size, least = int((limit - need.fixed) // need.per_slice), 2 * overlap + 1
    if size < least and n > least:
        raise InputError(
            f"{problem.name}: slabs of {least} slices need about {need.of(least) / 1e9:.1f} GB, of which "
            f"{need.fixed / 1e9:.1f} GB are the data, coil maps and images of the whole volume; allow more (--max-memory "
            f"{math.ceil(need.of(least) / 1e8) / 10:g}), or select slices (--slices)"
        )
    if n <= least:
        raise InputError(
            f"{problem.name}: the volume of {n} slices needs about {need.of(n) / 1e9:.1f} GB and is too thin to be cut into "
            f"slabs; allow more (--max-memory {math.ceil(need.of(n) / 1e8) / 10:g})"
        )
    return problem.with_slabs(_slabs(n, size, overlap))


class Parts(Protocol):
    """A place where finished slabs are kept, so that a run that was stopped can go on."""

    def load(self, index: int) -> bytes | None:
        """The content of a slab; ``None`` if it is not finished."""
        ...

    def save(self, index: int, content: bytes) -> None:
        """Keep the content of a finished slab."""
        ...


@dataclass
class Part:
    """Results of a slab.

    Args:
        images: images of the scan, ``(samples, slices, y, x)``.
        fits: fit of every slice that belongs to the slab.
        unmeasured: what was not measured, for several samples.
        sums: squared residual, squared data, squared residual over the variance of the noise.
        evaluations: network evaluations.
        seconds: duration.
        levels: residual by noise level.
    """

    images: Tensor
    fits: list[Fit]
    unmeasured: list[NullSpace]
    sums: tuple[float, float, float]
    evaluations: int
    seconds: float
    levels: Mapping[float, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """An npz file."""
        arrays: dict[str, np.ndarray] = {"images": self.images.numpy()}
        spaces = []
        for k, one in enumerate(self.unmeasured):
            arrays |= {f"{name}_{k}": getattr(one, name).numpy() for name in _MAPS}
            spaces.append({name: getattr(one, name) for name in _NUMBERS} | {"test": one.test and asdict(one.test)})
        text = {
            "fits": [list(one) for one in self.fits],
            "unmeasured": spaces,
            "sums": list(self.sums),
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "levels": [list(pair) for pair in self.levels.items()],
        }
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, about=np.frombuffer(json.dumps(text).encode(), np.uint8), **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Part | None:
        """The part of an npz file; ``None`` if it is damaged."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(arrays["about"].tobytes())
            return cls(
                images=torch.from_numpy(arrays["images"]),
                fits=[Fit(float(a), float(b), int(n)) for a, b, n in about["fits"]],
                unmeasured=[_null_space(k, one, arrays) for k, one in enumerate(about["unmeasured"])],
                sums=tuple(about["sums"]),
                evaluations=int(about["evaluations"]),
                seconds=float(about["seconds"]),
                levels={float(level): float(value) for level, value in about["levels"]},
            )
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
            return None


_MAPS = ("null", "spread", "flags", "shown")
_NUMBERS = ("noise", "energy", "null_energy")


def _null_space(k: int, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> NullSpace:
    values: dict[str, Any] = {name: torch.from_numpy(arrays[f"{name}_{k}"]) for name in _MAPS}
    values |= {name: float(about[name]) for name in _NUMBERS}
    return NullSpace(**values, test=about["test"] and SelfTest(**about["test"]))
