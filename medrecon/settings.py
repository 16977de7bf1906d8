"""Every option of a reconstruction, once: command line, bundles and Python read the same dataclasses. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray | str | Path

__all__ = [
    "NOISE_MODELS",
    "CartesianPhysics",
    "CoilPhysics",
    "DynamicPhysics",
    "ImagePhysics",
    "NonCartesianPhysics",
    "Physics",
    "PriorSettings",
    "SamplingSettings",
    "TomographyPhysics",
    "option_names",
]


NOISE_MODELS = ("gaussian", "poisson", "rician")
"""Laws of the noise."""


def option(default: Any, about: str, **argument: Any) -> Any:  # noqa: ANN401 - like dataclasses.field
    """A field with the help text of its flag, and what else argparse wants to know about it."""
    metadata = {"help": about, **argument}
    if isinstance(default, slice):  # not hashable before Python 3.12, so dataclasses take it for mutable
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def option_names(settings: type) -> list[str]:
    """The names of the options of a dataclass."""
    return [one.name for one in fields(settings)]


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """The prior.

    Args:
        bundle: name or folder of the prior's bundle, or a :class:`medrecon.posterior.PriorSpec`; ``None``: that of the kind of
            scan.
        condition: label of the images that the network was trained with, e.g. their contrast; ``None`` or empty: none.
        guidance: classifier-free guidance scale of the condition.
    """

    bundle: str | Path | Any = option(None, "name or folder of the prior's bundle (default: by the kind of scan)")
    condition: str | None = option(None, "label of the image contrast, e.g. T1 (default: none)", metavar="LABEL")
    guidance: float = option(1.0, "classifier-free guidance scale (default: 1)", metavar="W", type=float)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The solver and its run.

    Args:
        solver: a name that ``medrecon solvers`` lists.
        settings: hyper-parameters of the solver that differ from those that suit the prior, and from its defaults.
        steps: network evaluations per sample; ``None``: the prior's default.
        samples: posterior samples per slice.
        seed: random seed.
        start: a solver without a prior, from whose estimate the run starts (CCDF); ``None``: from noise.
        start_sigma: noise level of that start, for images of unit scale.
        sigma_max: first noise level, for images of unit scale; ``None``: what suits the prior.
        sigma_min: last noise level before 0, for images of unit scale; ``None``: the prior's.
        chunk: slices or samples that run as one batch; ``None``: by their size, see :func:`medrecon.posterior.batch_size`.
    """

    solver: str = option("dds", "see 'medrecon solvers' (default: dds)")
    settings: Mapping[str, Any] | None = option(None, "a setting of the solver; repeatable", flag="--set")
    steps: int | None = option(None, "network evaluations per sample (default: the bundle's)", metavar="N", type=int)
    samples: int = option(1, "posterior samples (default: 1)", metavar="K", type=int)
    seed: int = option(0, "random seed (default: 0)", metavar="N", type=int)
    start: str | None = option(None, "warm-start from a classical solver (CCDF), e.g. cg-sense", metavar="SOLVER")
    start_sigma: float | None = option(None, "noise level of the warm start, e.g. 0.1", metavar="S", type=float)
    sigma_max: float | None = option(None, "first noise level (default: what suits the prior)", flag=None)
    sigma_min: float | None = option(None, "last noise level before 0 (default: the bundle's)", metavar="S", type=float)
    chunk: int | None = option(None, "slices or samples per batch (default: by their size)", flag=None)


@dataclass(frozen=True, kw_only=True)
class Physics:
    """Options that every kind of scan has.

    Args:
        slices: of the scan; their indices stay those in the scan.
        noise_std: noise per real component of the data; ``None``: from a noise scan, otherwise estimated from the data.
        noise_model: ``gaussian``, ``poisson`` (sinograms with a number of photons) or ``rician`` (magnitude images).
        noise_source: of ``noise_std``, for the record.
    """

    slices: slice = option(
        slice(None), "slices A to B-1 (default: all); --slices=-2: takes the last two", metavar="A:B"
    )
    noise_std: float | None = option(None, "noise per real component (default: estimated)", metavar="S", type=float)
    noise_model: str = option("gaussian", "likelihood of the data (default: gaussian)", choices=NOISE_MODELS)
    noise_source: str = option("given", "source of the noise level, for the record", flag=None)


@dataclass(frozen=True, kw_only=True)
class CoilPhysics(Physics):
    """Options of k-space.

    Args:
        maps: coil sensitivities ``(coils, *matrix)`` or ``(slices, coils, *matrix)``, or their file; ``None``: estimated by
            ESPIRiT from the centre of k-space, of frames from that of their mean.
        whiten: prewhiten coils using the noise scan.
        compress: number of virtual coils (SVD); ``None``: all coils.
    """

    maps: Array | None = option(None, "coil sensitivities, array 'maps' (default: ESPIRiT)", metavar="FILE")
    whiten: bool = option(False, "prewhiten coils using the noise scan", action="store_true")
    compress: int | None = option(None, "compress to N virtual coils (SVD)", metavar="N", type=int)


@dataclass(frozen=True, kw_only=True)
class CartesianPhysics(CoilPhysics):
    """Options of Cartesian k-space.

    Args:
        mask: true where sampled, ``(x,)`` or ``(y, x)``, or its file; ``None``: the scan's own.
        map_sets: sets of ESPIRiT maps, ``1``, ``2`` or ``auto``: 2 where the object is larger than the field of view.
        coil_images: ``sense`` (one image seen by all coils), ``ssos`` (an image per coil without maps, combined by the root of
            the sum of squares) or ``hybrid`` (Score-MRI's mixture of both).
    """

    mask: Array | None = option(
        None, "sampling mask, array 'mask' (default: the file's, otherwise inferred from zero samples)", metavar="FILE"
    )
    map_sets: str | int = option(
        "auto", "sets of ESPIRiT maps; auto: 2 where the object exceeds the field of view", choices=("auto", "1", "2")
    )
    coil_images: str = option(
        "sense", "unknown: one image, one per coil, or Score-MRI's hybrid", choices=("sense", "ssos", "hybrid")
    )


@dataclass(frozen=True, kw_only=True)
class DynamicPhysics(CoilPhysics):
    """Options of frames."""


@dataclass(frozen=True, kw_only=True)
class NonCartesianPhysics(CoilPhysics):
    """Options of k-space off the grid."""


@dataclass(frozen=True, kw_only=True)
class TomographyPhysics(Physics):
    """Options of sinograms.

    Args:
        image_size: pixels per axis of the (square) images.
        voxel: size of an image pixel, mm; ``None``: the image is as wide as the detector at the rotation axis.
        photons: photons emitted per ray, instead of the number in the file; 0: unknown.
        water: attenuation of water, 1/mm (0.02 at about 65 keV).
    """

    image_size: int = option(256, "pixels per axis of the square images (default: 256)", metavar="N", type=int)
    voxel: float | None = option(
        None, "size of an image pixel in mm (default: image as wide as the detector)", metavar="MM", type=float
    )
    photons: float | None = option(None, "photons per ray (default: the file's)", metavar="N", type=float)
    water: float = option(0.02, "attenuation of water in 1/mm (default: 0.02)", metavar="MU", type=float)


@dataclass(frozen=True, kw_only=True)
class ImagePhysics(Physics):
    """Options of images.

    Args:
        task: ``denoise``, ``superres`` or ``deblur``.
        factor: of super-resolution, ``(y, x)`` or one for both.
        kernel: of super-resolution: ``kspace`` (a smaller k-space), ``mean`` (larger pixels) or ``gaussian`` (slice profile).
        blur: standard deviation of the Gaussian blur to undo, pixels.
        strength: of R2D2+: noise level that is removed, in units of the image's own; more than 1 smooths more.
        region: part of the image ``(y0, y1, x0, x1)`` that is denoised; the rest stays; ``None``: all.
    """

    task: str = option(
        "denoise", "what to do with images (default: denoise)", choices=("denoise", "superres", "deblur")
    )
    factor: int | Sequence[int] = option(2, "super-resolution factor (default: 2)", metavar="F", type=int)
    kernel: Literal["kspace", "mean", "gaussian"] = option(
        "kspace", "model of the low resolution: smaller k-space, larger pixels, Gaussian slice profile",
        choices=("kspace", "mean", "gaussian"),
    )  # fmt: skip
    blur: float = option(1.0, "standard deviation of the blur to undo, pixels (default: 1)", metavar="S", type=float)
    strength: float | None = option(
        None, "R2D2+: noise level to remove, relative to the image's own (default: 1)", metavar="F", type=float
    )
    region: Sequence[int] | None = option(None, "part of the image, Y0:Y1,X0:X1 (default: all)", metavar="ROI")
